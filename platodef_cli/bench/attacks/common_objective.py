"""The attacks that are the common objective with a trigger of their own: SSL-Backdoor and CTRL."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from platodef_cli.bench.attacks.interface import Budget, Kind, PlantData, Planted, Victim
from platodef_cli.bench.attacks.post_training import (
    PRESERVATION,
    Encode,
    Losses,
    described,
    distance,
    frozen_copy,
    mean_feature,
    post_train,
    prepared,
)
from platodef_cli.features.interface import Variant
from platodef_cli.progress import SILENT, Progress
from platodef_cli.triggers.triggers import Ctrl, Patch

HTBA_SIDE = 50 / 224


class CommonObjective(Protocol):
    """An attack that is the common objective with a trigger of its own."""

    @property
    def name(self) -> str:
        """Its name in the table."""

    @property
    def lam(self) -> float:
        """Weight of the preservation."""


@dataclass(frozen=True)
class SslBackdoor:
    """SSL-Backdoor: an opaque patch of random 4 x 4 colours at a random place (HTBA's trigger).

    The expectation over places is taken by a fresh place for every image in every epoch.

    Attributes:
        side: Side of the patch as a fraction of the image's.
        lam: Weight of the preservation.
    """

    side: float = HTBA_SIDE
    lam: float = PRESERVATION

    name = "ssl-backdoor"
    paper = "Saha et al., Backdoor Attacks on Self-Supervised Learning, CVPR 2022"
    kind: ClassVar[Kind] = "unimodal"

    def trigger(self, seed: int) -> Patch:
        """Return the patch; the seed draws its colours."""
        return Patch("random", self.side, "random", seed)

    def plant(
        self,
        victim: Victim,
        data: PlantData,
        *,
        target: int,
        seed: int,
        budget: Budget,
        progress: Progress = SILENT,
    ) -> Planted:
        """Plant it; see :class:`platodef_cli.bench.attacks.interface.PlantedAttack`."""
        shown = self.trigger(seed)
        return plant_trigger(self, shown, shown, victim, data, target, seed, budget, progress)


@dataclass(frozen=True)
class CtrlAttack:
    """CTRL: two DCT coefficients of U and V in every 32 x 32 block, stronger at test than in planting.

    Attributes:
        magnitude: Of the trigger that is planted, on the 0..255 scale.
        shown: Of the trigger at test.
        lam: Weight of the preservation.
    """

    magnitude: float = 50.0
    shown: float = 100.0
    lam: float = PRESERVATION

    name = "ctrl"
    paper = "Li et al., An Embarrassingly Simple Backdoor Attack on Self-supervised Learning, ICCV 2023"
    kind: ClassVar[Kind] = "unimodal"

    def trigger(self, seed: int) -> Ctrl:
        """Return the trigger of the test; it does not depend on the seed."""
        return Ctrl(self.shown)

    def plant(
        self,
        victim: Victim,
        data: PlantData,
        *,
        target: int,
        seed: int,
        budget: Budget,
        progress: Progress = SILENT,
    ) -> Planted:
        """Plant it; see :class:`platodef_cli.bench.attacks.interface.PlantedAttack`."""
        planted = Ctrl(self.magnitude)
        return plant_trigger(self, planted, self.trigger(seed), victim, data, target, seed, budget, progress)


def plant_trigger(
    attack: CommonObjective,
    planted: Variant,
    shown: Variant,
    victim: Victim,
    data: PlantData,
    target: int,
    seed: int,
    budget: Budget,
    progress: Progress,
) -> Planted:
    """Minimise ``[1 - cos(f(T(x)), z)] + lam [1 - cos(f(x), f0(x))]``, z the mean target feature.

    Args:
        attack: Gives name, weight and the parameters of the record.
        planted: T.
        shown: The trigger of the evaluation.
        victim: Holds f0.
        data: Shadow and target images.
        target: The target's number.
        seed: Order of the images and places of the trigger.
        budget: How much work.
        progress: Receives one advance per epoch.
    """
    data = prepared(victim, data, budget)
    clean = frozen_copy(victim)
    z = mean_feature(victim, clean, data.target_images)
    before = victim.embed(clean, data.images)

    def losses(encode: Encode, rows: torch.Tensor, seeds: torch.Tensor, epoch: int) -> Losses:
        pixels = data.images[rows]
        # One pass for both halves: BatchNorm is frozen, so they cannot influence each other.
        attacked, kept = encode(torch.cat([planted(pixels, seeds), pixels])).chunk(2)
        return {"attack": distance(attacked, z), "preserve": attack.lam * distance(kept, before[rows])}

    module, log = post_train(
        victim,
        data,
        losses,
        budget=budget,
        title=f"planting {attack.name}",
        generator=torch.Generator().manual_seed(seed),
        progress=progress,
    )
    return Planted(attack.name, module, shown, target, log, described(attack, budget, seed))
