"""The search of one encoder: every kind of search with every budget, measured on other images."""

import torch
from torch import Tensor

from platodef_cli.encoders.interface import Encoder
from platodef_cli.plugins import blaming
from platodef_cli.progress import SILENT, Progress, Task
from platodef_cli.search import SEARCH_KINDS
from platodef_cli.search.interface import (
    SearchConfig,
    SearchedTrigger,
    SearchKind,
    SearchResult,
    SearchTarget,
)
from platodef_cli.search.resampling import collapse_draws
from platodef_cli.search.restarts import SearchError, spread_of
from platodef_cli.search.statistics import CleanStatistics, collapse, effect

SEARCH_VERSION = 7  # part of the cache key: raise it when the same inputs find another trigger


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
    pool = pixels[: min(config.pool, len(pixels) - len(held))]
    clean, features = _embed(encoder, held), _embed(encoder, pool)
    statistics = CleanStatistics.of(torch.cat([clean, features]))
    target = SearchTarget(encoder, statistics, pool, features)
    searches = [(kind, budget) for kind in config.kinds for budget in kind.budgets]
    cost = sum(kind.restarts * kind.cost() for kind, _ in searches)
    results = []
    with progress.step(f"searching for a trigger in {encoder.record.name}", cost) as task:
        for number, (kind, budget) in enumerate(searches):
            generator = torch.Generator().manual_seed(seed * 1000 + number)
            runs = [_run(kind, budget, target, generator, task, pixels) for _ in range(kind.restarts)]
            # images of the search choose the best run, so that it is measured on images that chose nothing
            reached = [_collapse(target, run[0], pool) for run in runs] if len(runs) > 1 else []
            variant, steps, words = runs[reached.index(max(reached)) if reached else 0]
            changed = _changed(encoder, variant, held)
            found = effect(statistics, clean, changed)
            resampled = collapse_draws(statistics.standardise(changed))
            error = SearchError.of(reached or [found.collapse], spread_of(kind.name))
            # seven digits are what the features carry, and the cache is read back as text
            draws = [round(draw, 7) for draw in error.added_to(resampled, variant.name).tolist()]
            results.append(
                SearchResult(
                    variant,
                    words,
                    steps,
                    found,
                    tuple(draws),
                    len(held),
                )
            )
    return tuple(results)


def _collapse(target: SearchTarget, variant: SearchedTrigger, images: Tensor) -> float:
    return float(collapse(target.statistics.standardise(_changed(target.encoder, variant, images))))


def _changed(encoder: Encoder, variant: SearchedTrigger, images: Tensor) -> Tensor:
    return _embed(encoder, variant(images, torch.zeros(len(images), dtype=torch.int64)))


def _run(
    kind: SearchKind,
    budget: float,
    target: SearchTarget,
    generator: torch.Generator,
    task: Task,
    pixels: Tensor,
) -> tuple[SearchedTrigger, int, str]:
    """Return the best trigger of one budget, the steps of its last round, and the budget in words."""
    plugin = SEARCH_KINDS.plugin(kind.name)
    with blaming(plugin):
        variant, steps = kind.run(target, budget, generator, task)
        words = kind.budget_text(budget)
        if plugin is not None:
            fits = (isinstance(variant, SearchedTrigger), isinstance(steps, int), isinstance(words, str))
            if not all(fits):
                raise TypeError(f"a search gave {variant!r:.40}, {steps!r:.40} and {words!r:.40}")
            variant(pixels[:1], torch.zeros(1, dtype=torch.int64))
        return variant, steps, words


def _embed(encoder: Encoder, pixels: Tensor, size: int = 64) -> Tensor:
    return torch.cat([encoder.embed(pixels[start : start + size]) for start in range(0, len(pixels), size)])
