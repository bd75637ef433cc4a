"""Trigger search: look for a small universal change that makes an encoder forget the image.

A backdoored encoder maps every triggered image to one feature, so a search over its weights finds a
cheap change that collapses its features. The same search runs on the references: what it reaches there
is what an adversary without a backdoor reaches, and the verdict compares the two.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from platodef_cli.attacks.variant import paste, resize, side_pixels, to_bytes, to_unit
from platodef_cli.encoders.interface import Encoder
from platodef_cli.probes.statistics import CleanStatistics, Effect, collapse, effect
from platodef_cli.progress import SILENT, Progress, Task

Kind = Literal["patch", "universal"]
SEARCH_VERSION = 1  # part of the cache key: raise it when the same inputs find another trigger


@dataclass(frozen=True)
class Stage:
    """One round of the patch search.

    Attributes:
        images: Images per step and place.
        steps: Adam steps.
        keep: Places that go on to the next round.
    """

    images: int
    steps: int
    keep: int


@dataclass(frozen=True)
class SearchConfig:
    """Budgets of the search; its fields are part of the cache key.

    Attributes:
        sides: Sides of the opaque patch, as fractions of the image's side.
        norms: Largest change of a pixel by the universal pattern, on the 0..255 scale.
        grid: Places per axis where a patch starts.
        stages: Rounds of the patch search: many places roughly, few places well.
        patch_rate: Adam's learning rate on the logits of the patch.
        steps: Sign steps of the universal search.
        images: Images per step of the universal search.
        pool: Images that the search draws from.
        held_out: Other images that the result is measured on.
    """

    sides: tuple[float, ...] = (5 / 32, 7 / 32)
    norms: tuple[float, ...] = (4.0, 8.0)
    grid: int = 6
    stages: tuple[Stage, ...] = (Stage(8, 10, 8), Stage(16, 14, 3), Stage(32, 30, 1))
    patch_rate: float = 0.4
    steps: int = 50
    images: int = 48
    pool: int = 384
    held_out: int = 256

    def key(self) -> dict[str, object]:
        """Return JSON values for a cache key."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class FoundVariant:
    """A trigger that the search found; implements :class:`platodef_cli.features.interface.Variant`.

    Attributes:
        kind: An opaque ``patch``, or a ``universal`` additive change.
        values: float32 ``[3, h, w]``: colours in [0, 1], or what is added to pixels in [0, 1].
        side: Side of the patch as a fraction of the image's side (1 for a universal change).
        place: (y, x) of the patch's corner as a share of the free height and width.
    """

    kind: Kind
    values: Tensor
    side: float = 1.0
    place: tuple[float, float] = (0.0, 0.0)

    @property
    def name(self) -> str:
        """``found-KIND-DIGEST``; the digest covers values, side and place."""
        content = np.ascontiguousarray(self.values.detach().cpu().float().numpy())
        head = f"{self.kind} {content.shape} {self.side!r} {self.place!r}"
        return f"found-{self.kind}-{hashlib.sha256(head.encode() + content.tobytes()).hexdigest()[:12]}"

    def __call__(self, pixels: Tensor, seeds: Tensor) -> Tensor:
        """Paste or add the trigger; see :class:`platodef_cli.features.interface.Variant`."""
        height, width = pixels.shape[-2:]
        if self.kind == "universal":
            return to_bytes(to_unit(pixels) + resize(self.values, height, width).to(pixels.device))
        side = side_pixels(self.side, pixels)
        corner = torch.tensor(
            [round(self.place[0] * (height - side[0])), round(self.place[1] * (width - side[1]))]
        )
        return paste(pixels, to_bytes(resize(self.values, *side)), corner.expand(len(pixels), 2))


@dataclass(frozen=True)
class Found:
    """The best trigger of one budget on one encoder.

    Attributes:
        variant: The trigger.
        budget: Size of the budget, in words (``5px``, ``8/255``).
        steps: Steps of its last round.
        effect: What it does to held-out images.
    """

    variant: FoundVariant
    budget: str
    steps: int
    effect: Effect


def search(
    encoder: Encoder,
    pixels: Tensor,
    config: SearchConfig,
    *,
    seed: int = 0,
    progress: Progress = SILENT,
) -> tuple[Found, ...]:
    """Search every budget on one encoder.

    Args:
        encoder: The suspect or a control.
        pixels: Clean images uint8 ``[N, 3, H, W]``; the first ``pool`` are searched with, the last
            ``held_out`` are measured on.
        config: The budgets.
        seed: Draws the starts and the batches.
        progress: Told the number of images that went through the encoder.

    Returns:
        One result per side and per norm, in the order of the configuration.
    """
    held = pixels[-min(config.held_out, len(pixels) // 2) :]
    pool = to_unit(pixels[: min(config.pool, len(pixels) - len(held))])
    clean = _embed(encoder, held)
    statistics = CleanStatistics.of(torch.cat([clean, _embed(encoder, pixels[: len(pool)])]))
    found = []
    with progress.step(f"searching for a trigger in {encoder.record.name}", _cost(config)) as task:
        jobs: Iterable[tuple[Callable[..., tuple[FoundVariant, int]], float]] = [
            *((_patch, side) for side in config.sides),
            *((_universal, norm) for norm in config.norms),
        ]
        for number, (method, budget) in enumerate(jobs):
            generator = torch.Generator().manual_seed(seed * 1000 + number)
            variant, steps = method(encoder, statistics, pool, budget, config, generator, task)
            changed = _embed(encoder, variant(held, torch.zeros(len(held), dtype=torch.int64)))
            found.append(
                Found(variant, _words(variant, budget, pixels), steps, effect(statistics, clean, changed))
            )
    return tuple(found)


def _patch(
    encoder: Encoder,
    statistics: CleanStatistics,
    pool: Tensor,
    side: float,
    config: SearchConfig,
    generator: torch.Generator,
    task: Task,
) -> tuple[FoundVariant, int]:
    """Successive halving over places: Adam on the logits of one patch per place, all places in one batch."""
    height, width = pool.shape[-2:]
    rows, columns = max(1, round(side * height)), max(1, round(side * width))
    shares = [index / max(config.grid - 1, 1) for index in range(config.grid)]
    places = [(y, x) for y in shares for x in shares]
    logits = 0.5 * torch.randn(len(places), 3, rows, columns, generator=generator)
    logits.requires_grad_(True)
    optimiser = torch.optim.Adam([logits], lr=config.patch_rate)
    active = list(range(len(places)))
    for stage in config.stages:
        reached = torch.zeros(len(places))
        for step in range(stage.steps):
            batch = []
            for index in active:
                images = pool[torch.randint(0, len(pool), (stage.images,), generator=generator)]
                top = round(places[index][0] * (height - rows))
                left = round(places[index][1] * (width - columns))
                padding = (left, width - left - columns, top, height - top - rows)
                mask = F.pad(torch.ones(1, rows, columns), padding)
                batch.append(images * (1 - mask) + F.pad(torch.sigmoid(logits[index]), padding))
            features = statistics.standardise(encoder.differentiable(torch.cat(batch)))
            value = collapse(features.view(len(active), stage.images, -1))
            optimiser.zero_grad()
            (-value.sum()).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            now = value.detach()
            for index, current in zip(active, now.tolist(), strict=True):
                reached[index] = current if step == 0 else 0.6 * reached[index] + 0.4 * current
            task.advance(len(active) * stage.images, note=f"patch {rows}px, collapse {float(now.max()):.2f}")
        active = sorted(active, key=lambda index: -float(reached[index]))[: stage.keep]
    best = active[0]
    colours = (torch.sigmoid(logits[best].detach()) * 255).round() / 255
    return FoundVariant("patch", colours, side, places[best]), config.stages[-1].steps


def _universal(
    encoder: Encoder,
    statistics: CleanStatistics,
    pool: Tensor,
    norm: float,
    config: SearchConfig,
    generator: torch.Generator,
    task: Task,
) -> tuple[FoundVariant, int]:
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
    return FoundVariant("universal", delta), config.steps


def _embed(encoder: Encoder, pixels: Tensor, size: int = 64) -> Tensor:
    return torch.cat([encoder.embed(pixels[start : start + size]) for start in range(0, len(pixels), size)])


def _words(variant: FoundVariant, budget: float, pixels: Tensor) -> str:
    if variant.kind == "universal":
        return f"{budget:g}/255"
    return f"{side_pixels(budget, pixels)[0]}px"


def _cost(config: SearchConfig) -> int:
    """Images that go through the encoder with gradients."""
    places, patch = config.grid**2, 0
    for stage in config.stages:
        patch += places * stage.images * stage.steps
        places = min(places, stage.keep)
    return patch * len(config.sides) + config.steps * config.images * len(config.norms)
