"""Trigger inversion with a soft mask (Wang et al. 2019), shared by the detectors of whole encoders."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from platodef_cli.errors import UsageError
from platodef_cli.features.access import ModelAccess
from platodef_cli.progress import Task

MIN_IMAGES = 32
FIRST_WEIGHT = 1e-3  # of the mask's cost
PATIENCE = 5  # successes or failures in a row before the weight changes


@dataclass(frozen=True)
class InvertedTrigger:
    """A trigger ``x -> (1 - mask) x + mask pattern``.

    Attributes:
        mask: ``[1, H, W]`` in [0, 1].
        pattern: ``[3, H, W]`` in [0, 1].
        area: Mean of the smallest successful mask; 1 where none succeeded.
        success: Whether one did.
    """

    mask: Tensor
    pattern: Tensor
    area: float
    success: bool


def invert(
    model: ModelAccess,
    images: Tensor,
    goal: Callable[[Tensor], tuple[Tensor, bool]],
    *,
    steps: int,
    batch: int,
    generator: torch.Generator,
    task: Task,
    cost: Callable[[Tensor, Tensor], Tensor] | None = None,
    factor: float = 1.5,
    rate: float = 0.3,
) -> InvertedTrigger:
    """Search the smallest mask whose pattern reaches a goal.

    The weight of the mask's cost is multiplied by ``factor`` after five successes in a row and divided by
    it after five failures, as in DECREE.

    Args:
        model: The encoder.
        images: Clean images uint8 ``[N, 3, H, W]``.
        goal: Features ``[B, D]`` of changed images -> loss, and whether the goal is reached.
        steps: Adam steps.
        batch: Images per step.
        generator: Draws the start and the images.
        task: Receives every step.
        cost: (mask, pattern) -> cost; None is the mean of the mask.
        factor: How fast the weight changes.
        rate: Adam's learning rate on the logits.

    Raises:
        UsageError: There are fewer than 32 images.
    """
    if len(images) < MIN_IMAGES:
        raise UsageError(f"inverting a trigger needs at least {MIN_IMAGES} images, not {len(images)}")
    height, width = images.shape[-2:]
    logits = (0.1 * torch.randn(4, height, width, generator=generator)).requires_grad_(True)
    optimiser = torch.optim.Adam([logits], lr=rate, betas=(0.5, 0.9))
    weight, hits, misses = FIRST_WEIGHT, 0, 0
    best = InvertedTrigger(torch.ones(1, height, width), torch.sigmoid(logits[1:]).detach(), 1.0, False)
    for _ in range(steps):
        rows = torch.randint(0, len(images), (batch,), generator=generator)
        clean = images[rows].float() / 255
        mask, pattern = torch.sigmoid(logits[:1]), torch.sigmoid(logits[1:])
        loss, reached = goal(model.differentiable((1 - mask) * clean + mask * pattern))
        price = mask.mean() if cost is None else cost(mask, pattern)
        optimiser.zero_grad()
        (loss + weight * price).backward()  # type: ignore[no-untyped-call]
        if reached and float(mask.detach().mean()) < best.area:
            best = InvertedTrigger(mask.detach(), pattern.detach(), float(mask.detach().mean()), True)
        optimiser.step()
        hits, misses = (hits + 1, 0) if reached else (0, misses + 1)
        if hits >= PATIENCE or misses >= PATIENCE:
            weight = weight * factor if hits else weight / factor
            hits = misses = 0
        task.advance(note=f"mask {best.area:.3f}")
    return best
