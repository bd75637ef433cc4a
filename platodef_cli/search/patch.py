"""Trigger search: look for a small universal change that makes an encoder forget the image.

A backdoored encoder maps every triggered image to one feature, so a search over its weights finds a
cheap change that collapses its features. The same search runs on the references: what it reaches there
is what an adversary without a backdoor reaches, and the verdict compares the two.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from platodef_cli.encoders.interface import Encoder
from platodef_cli.progress import Task
from platodef_cli.search.halving import _halving
from platodef_cli.search.interface import SearchConfig, SearchedTrigger
from platodef_cli.search.statistics import CleanStatistics


def _patch(
    encoder: Encoder,
    statistics: CleanStatistics,
    pool: Tensor,
    side: float,
    config: SearchConfig,
    generator: torch.Generator,
    task: Task,
) -> tuple[SearchedTrigger, int]:
    """An opaque patch: places compete, each with its own colours (logits)."""
    height, width = pool.shape[-2:]
    rows, columns = max(1, round(side * height)), max(1, round(side * width))
    shares = [index / max(config.grid - 1, 1) for index in range(config.grid)]
    places = [(y, x) for y in shares for x in shares]

    def apply(images: Tensor, logits: Tensor, number: int) -> Tensor:
        top = round(places[number][0] * (height - rows))
        left = round(places[number][1] * (width - columns))
        padding = (left, width - left - columns, top, height - top - rows)
        mask = F.pad(torch.ones(1, rows, columns), padding)
        return images * (1 - mask) + F.pad(torch.sigmoid(logits), padding)

    start = 0.5 * torch.randn(len(places), 3, rows, columns, generator=generator)
    name = f"patch {rows}px"
    best, logits = _halving(
        encoder, statistics, pool, start, apply, config.stages, config, generator, task, name
    )
    colours = (torch.sigmoid(logits) * 255).round() / 255
    return SearchedTrigger("patch", colours, side, places[best]), config.stages[-1].steps
