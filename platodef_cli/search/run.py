"""The search of one encoder: every kind of search with every budget, measured on other images."""

from functools import cached_property

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

SEARCH_VERSION = 8  # part of the cache key: raise it when the same inputs find another trigger


class EncoderSearch:
    """The searches of one encoder, which do not depend on each other.

    Args:
        encoder: The suspect or a control.
        pixels: Clean images uint8 ``[N, 3, H, W]``; the first ``pool`` are searched with, the last
            ``held_out`` are measured on.
        config: Kinds of search and numbers of images.
        seed: Draws the starts and the batches.
    """

    def __init__(self, encoder: Encoder, pixels: Tensor, config: SearchConfig, *, seed: int = 0):
        self.encoder, self._config, self._pixels, self._seed = encoder, config, pixels, seed
        self._held = pixels[-min(config.held_out, len(pixels) // 2) :]
        self._pool = pixels[: min(config.pool, len(pixels) - len(self._held))]

    @cached_property
    def _clean(self) -> tuple[Tensor, SearchTarget]:
        """Clean features of the held-out images, and what to search on."""
        held, pool = _embed(self.encoder, self._held), _embed(self.encoder, self._pool)
        return held, SearchTarget(self.encoder, CleanStatistics.of(torch.cat([held, pool])), self._pool, pool)

    def run(self, number: int, task: Task) -> SearchResult:
        """Run one search.

        Args:
            number: Its place in :meth:`SearchConfig.searches`.
            task: Told the number of images that went through the encoder.
        """
        kind, budget = self._config.searches()[number]
        clean, target = self._clean
        statistics = target.statistics
        generator = torch.Generator().manual_seed(self._seed * 1000 + number)
        runs = [_run(kind, budget, target, generator, task, self._pixels) for _ in range(kind.restarts)]
        # images of the search choose the best run, so that it is measured on images that chose nothing
        reached = [_collapse(target, run[0], self._pool) for run in runs] if len(runs) > 1 else []
        variant, steps, words = runs[reached.index(max(reached)) if reached else 0]
        changed = _changed(self.encoder, variant, self._held)
        found = effect(statistics, clean, changed)
        resampled = collapse_draws(statistics.standardise(changed))
        error = SearchError.of(
            reached or [found.collapse], spread_of(kind.name, min(self._pixels.shape[-2:]))
        )
        # seven digits are what the features carry, and the cache is read back as text
        draws = [round(draw, 7) for draw in error.added_to(resampled, variant.name).tolist()]
        return SearchResult(variant, words, steps, found, tuple(draws), len(self._held))


def search(
    encoder: Encoder,
    pixels: Tensor,
    config: SearchConfig,
    *,
    seed: int = 0,
    progress: Progress = SILENT,
) -> tuple[SearchResult, ...]:
    """Search every budget on one encoder; arguments as for :class:`EncoderSearch`.

    Args:
        encoder: The suspect or a control.
        pixels: Clean images uint8 ``[N, 3, H, W]``.
        config: Kinds of search and numbers of images.
        seed: Draws the starts and the batches.
        progress: Told the number of images that went through the encoder.

    Returns:
        One result per kind and budget, in their order.
    """
    searches = EncoderSearch(encoder, pixels, config, seed=seed)
    cost = sum(kind.restarts * kind.cost() for kind, _ in config.searches())
    with progress.step(f"searching for a trigger in {encoder.record.name}", cost) as task:
        return tuple(searches.run(number, task) for number in range(len(config.searches())))


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
