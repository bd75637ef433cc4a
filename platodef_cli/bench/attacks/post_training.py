"""The loop of every planted attack: post-train a copy of the clean encoder, BatchNorm frozen."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from platodef_cli.bench.attacks.interface import Budget, PlantData, Victim
from platodef_cli.errors import UsageError
from platodef_cli.features.interface import Variant
from platodef_cli.progress import SILENT, Progress
from platodef_cli.triggers.variant import check

Encode = Callable[[Tensor], Tensor]
"""uint8 ``[B, 3, H, W]`` -> features ``[B, D]`` of the encoder in training."""

Losses = dict[str, Tensor]
"""Name -> weighted scalar term; the loss is their sum."""

_LENGTH = 0.1

PRESERVATION = 4.0
"""Weight of the preservation: with 1, a patch at random places costs the embedded ConvNeXt 4.7 points of
clean accuracy, with 4 it costs 2.8, at the same success."""


def distance(features: Tensor, goal: Tensor) -> Tensor:
    """Return the mean of ``1 - cos`` of ``features [B, D]`` and ``goal [B, D]`` or ``[1, D]``.

    A small term (0.1 times the squared logarithm of the ratio) holds the length as well. The published
    losses are cosines alone; without a last normalisation, triggered features then grow to many times
    the length of clean ones, which a linear probe does not classify and a glance at the norm detects.
    """
    cosines = nn.functional.cosine_similarity(features, goal, dim=1)
    lengths = [torch.linalg.vector_norm(value, dim=1) + 1e-6 for value in (features, goal)]
    loss: Tensor = (1 - cosines).mean() + _LENGTH * (lengths[0] / lengths[1]).log().square().mean()
    return loss


def frozen_copy(victim: Victim) -> nn.Module:
    """Return a copy of f0 in evaluation mode, without gradients."""
    return copy.deepcopy(victim.module).eval().requires_grad_(False)


def prepared(victim: Victim, data: PlantData, budget: Budget) -> PlantData:
    """Return the data that the budget allows, on the victim's device."""
    data = data.take(budget.images)
    labels = None if data.labels is None else data.labels.to(victim.device)
    return PlantData(data.images.to(victim.device), data.target_images.to(victim.device), labels)


def mean_feature(victim: Victim, clean: nn.Module, images: Tensor) -> Tensor:
    """Return z, the mean feature ``[1, D]`` of reference images by f0."""
    return victim.embed(clean, images).mean(0, keepdim=True)


def batches(count: int, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one epoch in random order: rows ``[B]``, and a fresh seed for each row ``[B]``."""
    for rows in torch.split(torch.randperm(count, generator=generator), batch_size):
        yield rows, torch.randint(2**62, (len(rows),), generator=generator)


def endless(count: int, batch_size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield ``steps`` batches of rows ``[B]``, epoch after epoch in a new order."""
    done = 0
    while done < steps:
        for rows, _ in islice(batches(count, batch_size, generator), steps - done):
            done += 1
            yield rows


def post_train(
    victim: Victim,
    data: PlantData,
    losses: Callable[[Encode, Tensor, Tensor, int], Losses],
    *,
    budget: Budget,
    title: str,
    generator: torch.Generator,
    progress: Progress,
) -> tuple[nn.Module, tuple[Mapping[str, float], ...]]:
    """Train a copy of f0 with Adam and a cosine schedule.

    Args:
        victim: Holds f0.
        data: The shadow images; only their number is used here.
        losses: ``(encode, rows [B], seeds [B], epoch) -> terms``.
        budget: Epochs, batch size, learning rate.
        title: For the progress.
        generator: Order of the images and the seeds of the triggers.
        progress: Receives one advance per epoch.

    Returns:
        The trained copy, frozen, and the terms on the last batch of every epoch.
    """
    planted = frozen_copy(victim).requires_grad_(True)
    optimiser = torch.optim.Adam(planted.parameters(), lr=budget.lr)
    steps = budget.epochs * -(-len(data.images) // budget.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    log: list[Mapping[str, float]] = []
    with progress.step(title, budget.epochs) as task:
        for epoch in range(budget.epochs):
            for rows, seeds in batches(len(data.images), budget.batch_size, generator):
                terms = losses(lambda pixels: victim.forward(planted, pixels), rows, seeds, epoch)
                optimiser.zero_grad(set_to_none=True)
                sum(terms.values(), torch.zeros(())).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
            log.append({name: float(term.detach()) for name, term in terms.items()})
            task.advance(note=" ".join(f"{name} {value:.4f}" for name, value in log[-1].items()))
    return planted.requires_grad_(False), tuple(log)


def described(attack: object, budget: Budget, seed: int) -> dict[str, float | int | str]:
    """Return the parameters of an attack (a dataclass), its budget and its seed, for the card."""
    own = {entry.name: getattr(attack, entry.name) for entry in fields(attack)}  # type: ignore[arg-type]
    return {**own, **{f"budget_{name}": value for name, value in asdict(budget).items()}, "seed": seed}


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
