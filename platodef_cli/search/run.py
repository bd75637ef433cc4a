"""Trigger search: look for a small universal change that makes an encoder forget the image.

A backdoored encoder maps every triggered image to one feature, so a search over its weights finds a
cheap change that collapses its features. The same search runs on the references: what it reaches there
is what an adversary without a backdoor reaches, and the verdict compares the two.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from platodef_cli.encoders.interface import Encoder
from platodef_cli.progress import SILENT, Progress
from platodef_cli.search.interface import SearchConfig, SearchedTrigger, SearchResult, Stage
from platodef_cli.search.patch import _patch
from platodef_cli.search.resampling import collapse_draws
from platodef_cli.search.statistics import CleanStatistics, effect
from platodef_cli.search.universal import _universal
from platodef_cli.search.wave import _wave
from platodef_cli.triggers.variant import side_pixels, to_unit

SEARCH_VERSION = 4  # part of the cache key: raise it when the same inputs find another trigger


def search(
    encoder: Encoder,
    pixels: Tensor,
    config: SearchConfig,
    *,
    seed: int = 0,
    progress: Progress = SILENT,
) -> tuple[SearchResult, ...]:
    """Search every budget on one encoder.

    Args:
        encoder: The suspect or a control.
        pixels: Clean images uint8 ``[N, 3, H, W]``; the first ``pool`` are searched with, the last
            ``held_out`` are measured on.
        config: The budgets.
        seed: Draws the starts and the batches.
        progress: Told the number of images that went through the encoder.

    Returns:
        One result per side, norm and amplitude, in this order.
    """
    held = pixels[-min(config.held_out, len(pixels) // 2) :]
    pool = to_unit(pixels[: min(config.pool, len(pixels) - len(held))])
    clean = _embed(encoder, held)
    statistics = CleanStatistics.of(torch.cat([clean, _embed(encoder, pixels[: len(pool)])]))
    found = []
    with progress.step(f"searching for a trigger in {encoder.record.name}", _cost(config)) as task:
        jobs: Iterable[tuple[Callable[..., tuple[SearchedTrigger, int]], float]] = [
            *((_patch, side) for side in config.sides),
            *((_universal, norm) for norm in config.norms),
            *((_wave, amplitude) for amplitude in config.amplitudes),
        ]
        for number, (method, budget) in enumerate(jobs):
            generator = torch.Generator().manual_seed(seed * 1000 + number)
            variant, steps = method(encoder, statistics, pool, budget, config, generator, task)
            changed = _embed(encoder, variant(held, torch.zeros(len(held), dtype=torch.int64)))
            # seven digits are what the features carry, and the cache is read back as text
            draws = [round(draw, 7) for draw in collapse_draws(statistics.standardise(changed)).tolist()]
            found.append(
                SearchResult(
                    variant,
                    _words(variant, budget, pixels),
                    steps,
                    effect(statistics, clean, changed),
                    tuple(draws),
                    len(held),
                )
            )
    return tuple(found)


def _embed(encoder: Encoder, pixels: Tensor, size: int = 64) -> Tensor:
    return torch.cat([encoder.embed(pixels[start : start + size]) for start in range(0, len(pixels), size)])


def _words(variant: SearchedTrigger, budget: float, pixels: Tensor) -> str:
    if variant.kind != "patch":
        return f"{budget:g}/255"
    return f"{side_pixels(budget, pixels)[0]}px"


def _cost(config: SearchConfig) -> int:
    """Images that go through the encoder with gradients."""

    def halving(candidates: int, stages: Sequence[Stage]) -> int:
        total = 0
        for stage in stages:
            total += candidates * stage.images * stage.steps
            candidates = min(candidates, stage.keep)
        return total

    return (
        halving(config.grid**2, config.stages) * len(config.sides)
        + halving(4 * len(config.frequencies), config.light) * len(config.amplitudes)
        + config.steps * config.images * len(config.norms)
    )
