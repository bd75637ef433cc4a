"""Trigger search: look for a small universal change that makes an encoder forget the image.

A backdoored encoder maps every triggered image to one feature, so a search over its weights finds a
cheap change that collapses its features. The same search runs on the references: what it reaches there
is what an adversary without a backdoor reaches, and the verdict compares the two.
"""

import hashlib
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from platodef_cli.search.statistics import Effect
from platodef_cli.triggers.variant import paste, resize, side_pixels, to_bytes, to_unit

Kind = Literal["patch", "universal", "wave"]


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
        amplitudes: Amplitude of the sinusoid, on the 0..255 scale.
        frequencies: Periods per image side of the sinusoids, along both axes and both diagonals.
        grid: Places per axis of a patch.
        stages: Rounds of the patch search: many places roughly, few well.
        light: Rounds of the searches with few parameters (wave).
        rate: Adam's learning rate on the logits of the patch and the weights of the sinusoid.
        steps: Sign steps of the universal search.
        images: Images per step of the universal search.
        pool: Images that the search draws from.
        held_out: Other images that the result is measured on.
    """

    sides: tuple[float, ...] = (5 / 32, 7 / 32)
    norms: tuple[float, ...] = (4.0, 8.0)
    amplitudes: tuple[float, ...] = (20.0,)
    frequencies: tuple[float, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14)
    grid: int = 6
    stages: tuple[Stage, ...] = (Stage(8, 10, 8), Stage(16, 14, 3), Stage(32, 30, 1))
    light: tuple[Stage, ...] = (Stage(8, 6, 6), Stage(16, 8, 2), Stage(32, 12, 1))
    rate: float = 0.4
    steps: int = 50
    images: int = 48
    pool: int = 384
    held_out: int = 256

    def key(self) -> dict[str, object]:
        """Return JSON values for a cache key."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class SearchedTrigger:
    """A trigger that the search found; implements :class:`platodef_cli.features.interface.Variant`.

    Attributes:
        kind: An opaque ``patch``, or an additive change: ``universal`` or ``wave``.
        values: float32 ``[3, h, w]``: colours in [0, 1], or what is added to pixels in [0, 1].
        side: Side of the patch as a fraction of the image's side (1 for an additive change).
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
        if self.kind != "patch":
            return to_bytes(to_unit(pixels) + resize(self.values, height, width).to(pixels.device))
        side = side_pixels(self.side, pixels)
        corner = torch.tensor(
            [round(self.place[0] * (height - side[0])), round(self.place[1] * (width - side[1]))]
        )
        return paste(pixels, to_bytes(resize(self.values, *side)), corner.expand(len(pixels), 2))


@dataclass(frozen=True)
class SearchResult:
    """The best trigger of one budget on one encoder.

    Attributes:
        variant: The trigger.
        budget: Size of the budget, in words (``5px``, ``8/255``).
        steps: Steps of its last round.
        effect: What it does to held-out images.
        draws: Resampled collapses, see :func:`platodef_cli.search.resampling.collapse_draws`.
        held_out: Number of held-out images.
    """

    variant: SearchedTrigger
    budget: str
    steps: int
    effect: Effect
    draws: tuple[float, ...] = ()
    held_out: int = 0
