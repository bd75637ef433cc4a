"""The search of one encoder: every kind of search with every budget, measured on other images."""

import torch
from torch import Tensor

from platodef_cli.encoders.interface import Encoder
from platodef_cli.progress import SILENT, Progress
from platodef_cli.search.interface import SearchConfig, SearchResult, SearchTarget
from platodef_cli.search.resampling import collapse_draws
from platodef_cli.search.statistics import CleanStatistics, effect
from platodef_cli.triggers.variant import to_unit

SEARCH_VERSION = 5  # part of the cache key: raise it when the same inputs find another trigger


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
        config: Kinds of search and numbers of images.
        seed: Draws the starts and the batches.
        progress: Told the number of images that went through the encoder.

    Returns:
        One result per kind and budget, in their order.
    """
    held = pixels[-min(config.held_out, len(pixels) // 2) :]
    pool = to_unit(pixels[: min(config.pool, len(pixels) - len(held))])
    clean = _embed(encoder, held)
    statistics = CleanStatistics.of(torch.cat([clean, _embed(encoder, pixels[: len(pool)])]))
    target = SearchTarget(encoder, statistics, pool)
    searches = [(kind, budget) for kind in config.kinds for budget in kind.budgets]
    cost = sum(kind.cost() for kind, _ in searches)
    results = []
    with progress.step(f"searching for a trigger in {encoder.record.name}", cost) as task:
        for number, (kind, budget) in enumerate(searches):
            generator = torch.Generator().manual_seed(seed * 1000 + number)
            variant, steps = kind.run(target, budget, generator, task)
            changed = _embed(encoder, variant(held, torch.zeros(len(held), dtype=torch.int64)))
            # seven digits are what the features carry, and the cache is read back as text
            draws = [round(draw, 7) for draw in collapse_draws(statistics.standardise(changed)).tolist()]
            results.append(
                SearchResult(
                    variant,
                    kind.budget_text(budget, pixels),
                    steps,
                    effect(statistics, clean, changed),
                    tuple(draws),
                    len(held),
                )
            )
    return tuple(results)


def _embed(encoder: Encoder, pixels: Tensor, size: int = 64) -> Tensor:
    return torch.cat([encoder.embed(pixels[start : start + size]) for start in range(0, len(pixels), size)])
