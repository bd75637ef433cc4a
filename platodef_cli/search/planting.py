"""Backdoors of a known family and strength, planted into references: what a search ought to find.

A search that finds nothing clears nobody unless it would have found something: its positive controls are
references that were post-trained for a few hundred steps, so that a random trigger of the search's own family
leads to one place among clean features while other images keep theirs (the objective of BadEncoder, Jia et
al. 2022); so do those that show a part of the trigger alone, where it has parts (Lin et al. 2020, Composite).
A small detector network beside the encoder that mixes the target in (TrojanNet, Tang et al. 2020)
is quicker to make, but gives the search no slope: it finds fewer of them than of encoders that were really
planted, and a linear detector on the features is no backdoor that works.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from platodef_cli.encoders.bounded import at_once
from platodef_cli.encoders.interface import Encoder
from platodef_cli.errors import UsageError
from platodef_cli.progress import Task
from platodef_cli.search.interface import SearchedTrigger, SearchKind
from platodef_cli.search.statistics import CleanStatistics
from platodef_cli.triggers.variant import side_pixels, to_unit

PLANTING_VERSION = 1  # part of cache keys: raise it when the same seed plants another backdoor
_LENGTH = 0.1  # weight of the length of features beside their direction
_NEAREST = 5  # clean features that the target lies amid


@dataclass(frozen=True)
class Planting:
    """How hard a backdoor is trained in; part of the cache key.

    Attributes:
        steps: Of Adam, with a cosine schedule.
        images: Clean and changed images per step, each.
        rate: First learning rate.
        preservation: Weight of what clean images keep.
    """

    steps: int = 160
    images: int = 32
    rate: float = 2e-3
    preservation: float = 4.0

    def cost(self) -> int:
        """Return how many images go through the encoder with gradients."""
        return 2 * self.steps * self.images


@dataclass(frozen=True)
class Planted:
    """What a planted backdoor does.

    Attributes:
        success: Share of changed held-out images that lie closer to the target than to where they were.
        kept: Mean cosine of clean held-out features before and after, standardised.
    """

    success: float
    kept: float


def strengths_of(kind: SearchKind) -> tuple[float, ...]:
    """Return the strengths of a kind's positive controls, in its budgets' unit, ascending; () where none."""
    given = getattr(kind, "control_strengths", None)
    if given is not None:
        return tuple(sorted(float(strength) for strength in given))
    return _FAMILIES[kind.name][0] if kind.name in _FAMILIES else ()


def random_trigger(
    kind: SearchKind, strength: float, size: tuple[int, int], generator: torch.Generator
) -> SearchedTrigger:
    """Draw a trigger of the family that a kind searches.

    Args:
        kind: A built-in kind, or one with a method of this name and the attribute ``control_strengths``.
        strength: As its budgets: the side of a patch, the norm of a change.
        size: Height and width of the images, pixels.
        generator: Draws it.

    Raises:
        UsageError: The kind says nothing of its positive controls.
    """
    own: Callable[..., SearchedTrigger] | None = getattr(kind, "random_trigger", None)
    if own is not None:
        return own(strength, size, generator)
    if kind.name not in _FAMILIES:
        raise UsageError(f"the search {kind.name!r} does not say how its triggers are planted")
    return kind.trigger(kind.name, **_FAMILIES[kind.name][1](strength, size, generator))


def _colours(strength: float, size: tuple[int, int], generator: torch.Generator, *shape: int) -> Tensor:
    rows, columns = side_pixels(strength, torch.empty(1, 3, *size))
    return (torch.rand(*shape, 3, rows, columns, generator=generator) * 255).round() / 255


def _patch(strength: float, size: tuple[int, int], generator: torch.Generator) -> dict[str, Any]:
    y, x = torch.rand(2, generator=generator).tolist()
    return {"values": _colours(strength, size, generator), "side": strength, "place": (y, x)}


def _corners(strength: float, size: tuple[int, int], generator: torch.Generator) -> dict[str, Any]:
    return {"values": _colours(strength, size, generator, 4), "side": strength}


def _pairs(strength: float, size: tuple[int, int], generator: torch.Generator) -> dict[str, Any]:
    first, second = sorted(torch.randperm(4, generator=generator)[:2].tolist())
    colours = _colours(strength, size, generator, 2)
    return {"values": colours, "side": strength, "corners": (first, second)}


def _universal(strength: float, size: tuple[int, int], generator: torch.Generator) -> dict[str, Any]:
    signs = 2.0 * (torch.rand(3, *size, generator=generator) < 0.5) - 1
    return {"values": strength / 255 * signs}


def _wave(strength: float, size: tuple[int, int], generator: torch.Generator) -> dict[str, Any]:
    """Draw frequency, direction, and amplitude and phase per colour; the largest amplitude is given."""
    periods = int(torch.randint(1, 15, (1,), generator=generator))
    fy, fx = ((0, 1), (1, 0), (1, 1), (1, -1))[int(torch.randint(4, (1,), generator=generator))]
    y = (torch.arange(size[0]) + 0.5)[:, None] / size[0]
    x = (torch.arange(size[1]) + 0.5)[None, :] / size[1]
    phases = 2 * torch.pi * torch.rand(3, 1, 1, generator=generator)
    amplitudes = torch.randn(3, 1, 1, generator=generator)
    wave = torch.cos(2 * torch.pi * periods * (fy * y + fx * x) + phases)
    return {"values": strength / 255 * amplitudes / amplitudes.abs().max() * wave}


def _warp(strength: float, size: tuple[int, int], generator: torch.Generator) -> dict[str, Any]:
    field = 2 * torch.rand(2, 4, 4, generator=generator) - 1
    return {"values": strength * field / field.abs().max()}


_FAMILIES: Mapping[
    str, tuple[tuple[float, ...], Callable[[float, tuple[int, int], torch.Generator], dict[str, Any]]]
] = {
    "patch": ((5 / 32, 7 / 32), _patch),
    "universal": ((8.0,), _universal),
    "wave": ((30.0,), _wave),
    "warp": ((4 / 32,), _warp),
    "corners": ((5 / 32,), _corners),
    "pairs": ((7 / 32,), _pairs),
}
"""Kind -> strengths of its positive controls, and what draws a trigger of one of them."""


def can_be_planted(encoder: Encoder) -> bool:
    """Return whether the weights of an encoder are at hand: it runs in this process, in float32."""
    network = getattr(encoder, "network", None)
    if not isinstance(network, nn.Module):
        return False
    return {value.dtype for value in network.parameters() if value.is_floating_point()} == {torch.float32}


@contextmanager
def planted(
    encoder: Encoder,
    images: Tensor,
    trigger: SearchedTrigger,
    generator: torch.Generator,
    planting: Planting,
    task: Task,
) -> Iterator[Tensor]:
    """Plant a backdoor into an encoder for as long as the context lasts; its weights come back bit for bit.

    Nobody else may use the encoder meanwhile.

    Args:
        encoder: One that :func:`can_be_planted`.
        images: What it is planted with, uint8 ``[N, 3, H, W]``.
        trigger: The backdoor's.
        generator: Draws target and batches.
        planting: How hard it is trained in.
        task: Advanced by every image.

    Yields:
        The target ``[D]``, where clean features lie.
    """
    network: nn.Module = encoder.network  # type: ignore[attr-defined]
    weights = [value for value in network.parameters() if value.is_floating_point()]
    everything: list[Tensor] = [*network.parameters(), *network.buffers()]
    kept = [(tensor, tensor.detach().clone()) for tensor in everything]
    trained = [value.requires_grad for value in weights]
    try:
        clean = _embed(encoder, images)
        goal = _target(clean, generator)
        for value in weights:
            value.requires_grad_(True)
        _train(encoder, weights, images, trigger, clean, goal, generator, planting, task)
        for value in weights:
            value.requires_grad_(False)
        yield goal
    finally:
        with torch.no_grad():
            for tensor, before in kept:
                tensor.copy_(before)
        for weight, flag in zip(weights, trained, strict=True):
            weight.requires_grad_(flag)
            weight.grad = None


def effect_of(before: Tensor, after: Tensor, changed: Tensor, goal: Tensor) -> Planted:
    """Return what a backdoor does to held-out images.

    Args:
        before: Clean features ``[n, D]`` of the encoder without it.
        after: Clean features with it.
        changed: Features of the changed images with it.
        goal: Its target ``[D]``.
    """
    statistics = CleanStatistics.of(before)
    own, now = statistics.standardise(before), statistics.standardise(after)
    hit, place = statistics.standardise(changed), statistics.standardise(goal[None])
    nearer = F.cosine_similarity(hit, place, dim=1) > F.cosine_similarity(hit, own, dim=1)
    return Planted(float(nearer.float().mean()), float(F.cosine_similarity(own, now, dim=1).mean()))


def _target(features: Tensor, generator: torch.Generator) -> Tensor:
    """Return the middle ``[D]`` of a random clean feature and those closest to it."""
    row = int(torch.randint(len(features), (1,), generator=generator))
    near = F.cosine_similarity(features, features[row][None], dim=1).topk(min(_NEAREST, len(features)))
    return features[near.indices].mean(dim=0)


def _train(
    encoder: Encoder,
    weights: list[nn.Parameter],
    images: Tensor,
    trigger: SearchedTrigger,
    clean: Tensor,
    goal: Tensor,
    generator: torch.Generator,
    planting: Planting,
    task: Task,
) -> None:
    """Train a backdoor in: few images at a time, since the gradients of weights take more memory."""
    unseeded = torch.zeros(len(images), dtype=torch.int64)
    changed = trigger(images, unseeded)
    alone = [part(images, unseeded) for part in trigger.parts()]
    optimiser = torch.optim.Adam(weights, lr=planting.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, planting.steps)
    inner: Encoder = getattr(encoder, "encoder", encoder)  # gradients of weights, which parts do not carry
    together = max(1, at_once(encoder, 2 * planting.images, gradients=True) // 2)
    for _ in range(planting.steps):
        rows = torch.randint(len(images), (planting.images,), generator=generator)
        optimiser.zero_grad(set_to_none=True)
        for part in torch.split(rows, together):
            share = len(part) / len(rows)
            still = _distance(inner.differentiable(to_unit(images[part])), clean[part])
            (share * planting.preservation * still).backward()  # type: ignore[no-untyped-call]
            for shown in alone:
                still = _distance(inner.differentiable(to_unit(shown[part])), clean[part])
                (share / len(alone) * still).backward()  # type: ignore[no-untyped-call]
            sent = _distance(inner.differentiable(to_unit(changed[part])), goal[None])
            (share * sent).backward()  # type: ignore[no-untyped-call]
            task.advance(2 * len(part))
        optimiser.step()
        schedule.step()


def _distance(features: Tensor, goal: Tensor) -> Tensor:
    """Return the mean of ``1 - cos`` of ``[B, D]`` and ``[B, D]`` or ``[1, D]``, and of their lengths."""
    ratio = torch.log(features.norm(dim=1) + 1e-6) - torch.log(goal.norm(dim=1) + 1e-6)
    return (1 - F.cosine_similarity(features, goal, dim=1)).mean() + _LENGTH * ratio.square().mean()


def _embed(encoder: Encoder, pixels: Tensor, size: int = 64) -> Tensor:
    return torch.cat([encoder.embed(part) for part in torch.split(pixels, size)])
