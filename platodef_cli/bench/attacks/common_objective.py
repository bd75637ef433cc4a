"""The attacks that are the common objective with a trigger of their own: SSL-Backdoor and CTRL."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from platodef_cli.bench.attacks.interface import Kind, PlantData, Planted, PlantingBudget, Victim
from platodef_cli.bench.attacks.post_training import (
    LENGTH,
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
        budget: PlantingBudget,
        progress: Progress = SILENT,
    ) -> Planted:
        """Plant it; see :class:`platodef_cli.bench.attacks.interface.PlantedAttack`."""
        trigger = self.trigger(seed)
        return plant_attack(self, trigger, trigger, victim, data, target, seed, budget, progress)


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
        budget: PlantingBudget,
        progress: Progress = SILENT,
    ) -> Planted:
        """Plant it; see :class:`platodef_cli.bench.attacks.interface.PlantedAttack`."""
        planted = Ctrl(self.magnitude)
        return plant_attack(self, planted, self.trigger(seed), victim, data, target, seed, budget, progress)


def plant_attack(
    attack: CommonObjective,
    planted: Variant,
    evaluated: Variant,
    victim: Victim,
    data: PlantData,
    target: int,
    seed: int,
    budget: PlantingBudget,
    progress: Progress,
) -> Planted:
    """Plant a trigger by the common objective and describe it as a planted encoder.

    Args:
        attack: Gives name, weight and the parameters of the record.
        planted: The trigger of the planting.
        evaluated: The trigger of the evaluation.
        victim: Holds f0.
        data: Shadow and target images.
        target: The target's number.
        seed: Order of the images and places of the trigger.
        budget: How much work.
        progress: Receives one advance per epoch.
    """
    module, log = plant_trigger(
        victim,
        data,
        planted,
        seed=seed,
        budget=budget,
        lam=attack.lam,
        length=LENGTH,
        title=f"planting {attack.name}",
        progress=progress,
    )
    return Planted(attack.name, module, evaluated, target, log, described(attack, budget, seed))


def plant_trigger(
    victim: Victim,
    data: PlantData,
    trigger: Variant,
    *,
    seed: int,
    budget: PlantingBudget,
    lam: float = 1.0,
    length: float = 0.0,
    title: str | None = None,
    progress: Progress = SILENT,
) -> tuple[nn.Module, tuple[Mapping[str, float], ...]]:
    """Minimise ``[1 - cos(f(T(x)), z)] + lam [1 - cos(f(x), f0(x))]``, z the mean target feature.

    Args:
        victim: Holds f0.
        data: Shadow and target images.
        trigger: T; with a new seed for every image in every epoch, so that random places vary.
        seed: Order of the images and places of the trigger.
        budget: How much work; its ``trigger_steps`` are not used.
        lam: Weight of the preservation.
        length: Weight of the lengths, see :func:`platodef_cli.bench.attacks.post_training.distance`.
        title: For the progress; the trigger's name by default.
        progress: Receives one advance per epoch.

    Returns:
        The backdoored copy, frozen, in evaluation mode, and the terms on the last batch of every epoch.
    """
    data = prepared(victim, data, budget)
    clean = frozen_copy(victim)
    z = mean_feature(victim, clean, data.target_images)
    before = victim.embed(clean, data.images)

    def losses(encode: Encode, rows: Tensor, seeds: Tensor, epoch: int) -> Losses:
        pixels = data.images[rows]
        # One pass for both halves: BatchNorm is frozen, so they cannot influence each other.
        attacked, kept = encode(torch.cat([trigger(pixels, seeds), pixels])).chunk(2)
        return {
            "attack": distance(attacked, z, length),
            "preserve": lam * distance(kept, before[rows], length),
        }

    return post_train(
        victim,
        data,
        losses,
        budget=budget,
        title=title or f"planting {trigger.name}",
        generator=torch.Generator().manual_seed(seed),
        progress=progress,
    )
