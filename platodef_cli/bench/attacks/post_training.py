"""The loop of every planted attack: post-train a copy of the clean encoder, BatchNorm frozen."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields
from itertools import islice

import torch
from torch import Tensor, nn

from platodef_cli.bench.attacks.interface import PlantData, PlantingBudget, Victim
from platodef_cli.progress import Progress

Encode = Callable[[Tensor], Tensor]
"""uint8 ``[B, 3, H, W]`` -> features ``[B, D]`` of the encoder in training."""

Losses = dict[str, Tensor]
"""Name -> weighted scalar term; the loss is their sum."""

Objective = Callable[[Encode, Tensor, Tensor, int], Losses]
"""Encoder in training, rows ``[B]``, seeds of their triggers ``[B]``, epoch -> terms."""

LENGTH = 0.1
"""Weight of the term of :func:`distance` that holds the length of the features."""

PRESERVATION = 4.0
"""Weight of the preservation: with 1, a patch at random places costs the embedded ConvNeXt 4.7 points of
clean accuracy, with 4 it costs 2.8, at the same success."""


def distance(features: Tensor, goal: Tensor, length: float = LENGTH) -> Tensor:
    """Return the mean of ``1 - cos`` of ``features [B, D]`` and ``goal [B, D]`` or ``[1, D]``.

    A small term (``length`` times the squared logarithm of the ratio) holds the length as well. The
    published losses are cosines alone (``length=0``); without a last normalisation, triggered features then
    grow to many times the length of clean ones, which a linear probe does not classify and a glance at the
    norm detects.
    """
    loss: Tensor = (1 - nn.functional.cosine_similarity(features, goal, dim=1)).mean()
    if length:
        lengths = [torch.linalg.vector_norm(value, dim=1) + 1e-6 for value in (features, goal)]
        loss = loss + length * (lengths[0] / lengths[1]).log().square().mean()
    return loss


def frozen_copy(victim: Victim) -> nn.Module:
    """Return a copy of f0 in evaluation mode, without gradients."""
    return copy.deepcopy(victim.module).eval().requires_grad_(False)


def prepared(victim: Victim, data: PlantData, budget: PlantingBudget) -> PlantData:
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
    losses: Objective,
    *,
    budget: PlantingBudget,
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


def described(attack: object, budget: PlantingBudget, seed: int) -> dict[str, float | int | str]:
    """Return the parameters of an attack (a dataclass), its budget and its seed, for the card."""
    own = {entry.name: getattr(attack, entry.name) for entry in fields(attack)}  # type: ignore[arg-type]
    return {**own, **{f"budget_{name}": value for name, value in asdict(budget).items()}, "seed": seed}
