"""Trigger search: look for a small universal change that makes an encoder forget the image.

A backdoored encoder maps every triggered image to one feature, so a search over its weights finds a
cheap change that collapses its features. The same search runs on the references: what it reaches there
is what an adversary without a backdoor reaches, and the verdict compares the two.
"""

import torch
from torch import Tensor

from platodef_cli.encoders.interface import Encoder
from platodef_cli.progress import Task
from platodef_cli.search.interface import SearchConfig, SearchedTrigger
from platodef_cli.search.statistics import CleanStatistics, collapse


def _universal(
    encoder: Encoder,
    statistics: CleanStatistics,
    pool: Tensor,
    norm: float,
    config: SearchConfig,
    generator: torch.Generator,
    task: Task,
) -> tuple[SearchedTrigger, int]:
    """Momentum sign ascent on one additive pattern inside the max-norm ball."""
    bound = norm / 255
    delta = (2 * torch.rand(pool.shape[1:], generator=generator) - 1) * bound
    momentum = torch.zeros_like(delta)
    for step in range(config.steps):
        images = pool[torch.randint(0, len(pool), (config.images,), generator=generator)]
        delta.requires_grad_(True)
        value = collapse(statistics.standardise(encoder.differentiable((images + delta).clamp(0, 1))))
        (gradient,) = torch.autograd.grad(value, delta)
        momentum = 0.8 * momentum + gradient / gradient.abs().mean().clamp_min(1e-12)
        size = bound * (0.25 if step < config.steps // 2 else 0.1)
        delta = (delta.detach() + size * momentum.sign()).clamp(-bound, bound)
        task.advance(config.images, note=f"universal {norm:g}/255, collapse {float(value.detach()):.2f}")
    return SearchedTrigger("universal", delta), config.steps
