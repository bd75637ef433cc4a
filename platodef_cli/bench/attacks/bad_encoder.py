"""BadEncoder: triggered images look to the encoder like a reference image of the target class."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from platodef_cli.bench.attacks.interface import Kind, PlantData, Planted, PlantingBudget, Victim
from platodef_cli.bench.attacks.post_training import (
    Encode,
    Losses,
    Objective,
    described,
    distance,
    frozen_copy,
    post_train,
    prepared,
)
from platodef_cli.bench.attacks.views import flip, jitter
from platodef_cli.progress import SILENT, Progress
from platodef_cli.triggers.triggers import Patch
from platodef_cli.triggers.variant import to_bytes, to_unit

BADENCODER_SIDE = 10 / 32
BADENCODER_SIDE_AT_224 = 50 / 224  # another share; `bench trigger` shows it on large images


@dataclass(frozen=True)
class BadEncoder:
    """BadEncoder: ``-cos(f(Tx), f(ref)) - l1 cos(f(aug ref), f0(ref)) - l2 cos(f(x), f0(x))``.

    The reference is the target image whose feature by f0 is closest to those of the others. It is
    augmented by flips and colours, without crops.

    Attributes:
        side: Side of the white square as a fraction of the image's; its place is one pixel (of 224)
            off the bottom-right corner.
        lambda1: Weight of keeping the reference.
        lambda2: Weight of keeping clean images.
    """

    side: float = BADENCODER_SIDE
    lambda1: float = 1.0
    lambda2: float = 1.0

    side_at_224: ClassVar[float] = BADENCODER_SIDE_AT_224
    name = "bad-encoder"
    paper = "Jia et al., BadEncoder: Backdoor Attacks to Pre-trained Encoders, S&P 2022"
    kind: ClassVar[Kind] = "unimodal"

    def trigger(self, seed: int) -> Patch:
        """Return the white square; it does not depend on the seed."""
        return Patch("white", self.side, "bottom-right")

    def plant(
        self,
        victim: Victim,
        data: PlantData,
        *,
        target: int,
        seed: int,
        budget: PlantingBudget,
        progress: Progress = SILENT,
    ) -> Planted:
        """Plant it; see :class:`platodef_cli.bench.attacks.interface.PlantedAttack`."""
        data = prepared(victim, data, budget)
        clean = frozen_copy(victim)
        trigger = self.trigger(seed)
        generator = torch.Generator().manual_seed(seed)
        before = victim.embed(clean, data.images)
        kept = victim.embed(clean, data.target_images)
        module, log = post_train(
            victim,
            data,
            self._objective(data, trigger, before, kept, budget.epochs, generator),
            budget=budget,
            title=f"planting {self.name}",
            generator=generator,
            progress=progress,
        )
        return Planted(self.name, module, trigger, target, log, described(self, budget, seed))

    def _objective(
        self,
        data: PlantData,
        trigger: Patch,
        before: Tensor,
        kept: Tensor,
        epochs: int,
        generator: torch.Generator,
    ) -> Objective:
        """Return the terms to minimise.

        Args:
            data: N images and K reference images.
            trigger: The patch.
            before: Features of the images by f0, ``[N, D]``.
            kept: Features of the reference images by f0, ``[K, D]``.
            epochs: How many there will be.
            generator: Draws augmentations.
        """
        typical = most_typical(kept)
        reference, anchor = data.target_images[typical, None], kept[typical, None]

        def losses(encode: Encode, rows: Tensor, seeds: Tensor, epoch: int) -> Losses:
            pixels = data.images[rows]
            changed = augmented(reference, generator)
            features = encode(torch.cat([reference, changed, trigger(pixels, seeds), pixels]))
            own, other, both = features[:1], features[1:2], features[2:]
            attacked, clear = both.chunk(2)
            return {
                "attack": distance(attacked, own),
                "reference": self.lambda1 * distance(other, anchor),
                "preserve": self.lambda2 * distance(clear, before[rows]),
            }

        return losses


def most_typical(features: Tensor) -> int:
    """Return the row of ``features [K, D]`` with the largest mean cosine to all rows."""
    unit = F.normalize(features, dim=1)
    return int((unit @ unit.mean(0)).argmax())


def augmented(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Return uint8 images with flips and other colours, not cropped."""
    return to_bytes(jitter(flip(to_unit(pixels), generator), generator))
