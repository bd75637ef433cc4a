"""Trigger search: look for a small universal change that makes an encoder forget the image.

A backdoored encoder maps every triggered image to one feature, so a search over its weights finds a
cheap change that collapses its features. The same search runs on the references: what it reaches there
is what an adversary without a backdoor reaches, and the verdict compares the two.
"""

import torch
from torch import Tensor

from platodef_cli.encoders.interface import Encoder
from platodef_cli.progress import Task
from platodef_cli.search.halving import _halving
from platodef_cli.search.interface import SearchConfig, SearchedTrigger
from platodef_cli.search.statistics import CleanStatistics


def _wave(
    encoder: Encoder,
    statistics: CleanStatistics,
    pool: Tensor,
    amplitude: float,
    config: SearchConfig,
    generator: torch.Generator,
    task: Task,
) -> tuple[SearchedTrigger, int]:
    """A sinusoid over the whole image (SIG, CTRL): frequencies compete, each with its colour and phase."""
    height, width = pool.shape[-2:]
    y = (torch.arange(height) + 0.5)[:, None] / height
    x = (torch.arange(width) + 0.5)[None, :] / width
    grids = [
        (fy * rate, fx * rate) for rate in config.frequencies for fy, fx in ((0, 1), (1, 0), (1, 1), (1, -1))
    ]
    phases = torch.stack([2 * torch.pi * (fy * y + fx * x) for fy, fx in grids])
    waves = torch.stack([phases.cos(), phases.sin()], dim=1)  # [F, 2, H, W]

    def pattern(weights: Tensor, number: int) -> Tensor:
        # weights [3, 2] of cosine and sine per colour, scaled back to the largest amplitude
        scale = weights.norm(dim=1, keepdim=True).clamp_min(1.0)
        return amplitude / 255 * torch.einsum("cp,phw->chw", weights / scale, waves[number])

    def apply(images: Tensor, weights: Tensor, number: int) -> Tensor:
        return (images + pattern(weights, number)).clamp(0, 1)

    start = torch.randn(len(grids), 3, 2, generator=generator)
    name = f"wave {amplitude:g}/255"
    best, weights = _halving(
        encoder, statistics, pool, start, apply, config.light, config, generator, task, name
    )
    return SearchedTrigger("wave", pattern(weights, best)), config.light[-1].steps
