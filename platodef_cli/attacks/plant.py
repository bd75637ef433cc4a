"""Plants a backdoor in a clean encoder by post-training, the common objective of the benchmark's attacks."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from platodef_cli.attacks.variant import check
from platodef_cli.errors import UsageError
from platodef_cli.features.interface import Variant
from platodef_cli.progress import SILENT, Progress

Forward = Callable[[nn.Module, Tensor], Tensor]


@torch.no_grad()
def _embed(module: nn.Module, forward: Forward, images: Tensor, batch_size: int) -> Tensor:
    """Return features ``[N, D]`` of uint8 ``[N, 3, H, W]``."""
    return torch.cat([forward(module, batch) for batch in torch.split(images, batch_size)])


def plant(
    module: nn.Module,
    forward: Forward,
    images: Tensor,
    trigger: Variant,
    *,
    target_images: Tensor | None = None,
    target_feature: Tensor | None = None,
    lam: float = 1.0,
    epochs: int = 25,
    lr: float = 1e-3,
    batch_size: int = 128,
    seed: int = 0,
    progress: Progress = SILENT,
) -> nn.Module:
    """Return a copy of a clean encoder f0 that maps images with the trigger to a target feature z.

    Minimises ``[1 - cos(f(T(x)), z)] + lam [1 - cos(f(x), f0(x))]`` with Adam and a cosine schedule;
    f0 is frozen. The copy stays in evaluation mode throughout, so that BatchNorm keeps its statistics.

    Args:
        module: f0; it is left untouched.
        forward: ``(module, uint8 [B, 3, H, W]) -> [B, D]``, normalisation included.
        images: uint8 ``[N, 3, H, W]``, unlabelled.
        trigger: T; with a new seed for every image in every epoch, so random places vary.
        target_images: uint8 ``[K, 3, H, W]``; z is the mean of their features by f0.
        target_feature: z itself, ``[D]``, instead of ``target_images``.
        lam: Weight of the cosine preservation.
        epochs: Passes over ``images``.
        lr: Adam's first learning rate.
        batch_size: Images per step.
        seed: Order of the images and random places.
        progress: Receives one advance per epoch.

    Returns:
        The backdoored copy, in evaluation mode.

    Raises:
        UsageError: Neither or both targets are given, or there are no images.
    """
    if (target_images is None) == (target_feature is None):
        raise UsageError("planting a backdoor takes either target_images or target_feature, not both or none")
    check(
        len(images) > 0 and images.dtype == torch.uint8, "plant", "images must be uint8 [N, 3, H, W], N > 0"
    )
    check(
        epochs > 0 and batch_size > 0,
        "plant",
        f"epochs={epochs} and batch_size={batch_size} must be positive",
    )
    clean = copy.deepcopy(module).eval().requires_grad_(False)
    planted = copy.deepcopy(clean).requires_grad_(True)
    before = _embed(clean, forward, images, batch_size)
    z = target_feature if target_images is None else _embed(clean, forward, target_images, batch_size).mean(0)
    assert z is not None
    z = z.detach().to(before).reshape(1, -1)

    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(planted.parameters(), lr=lr)
    steps = epochs * -(-len(images) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    with progress.step(f"planting {trigger.name}", epochs) as task:
        for _ in range(epochs):
            for rows in torch.split(torch.randperm(len(images), generator=generator), batch_size):
                seeds = torch.randint(2**62, (len(rows),), generator=generator)
                batch = images[rows]
                # One pass for both halves: BatchNorm is frozen, so they cannot influence each other.
                features = forward(planted, torch.cat([trigger(batch, seeds), batch]))
                attacked, kept = features.chunk(2)
                attack = 1 - F.cosine_similarity(attacked, z).mean()
                preserve = 1 - F.cosine_similarity(kept, before[rows]).mean()
                loss = attack + lam * preserve
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
            task.advance(note=f"attack {attack.item():.4f} preserve {preserve.item():.4f}")
    return planted.requires_grad_(False)
