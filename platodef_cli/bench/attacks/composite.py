"""A backdoor that two patches open together, and neither of them alone."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from platodef_cli.bench.attacks.interface import Kind, PlantData, Planted, PlantingBudget, Victim
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
from platodef_cli.progress import SILENT, Progress
from platodef_cli.triggers.patches import Patches


@dataclass(frozen=True)
class Composite:
    """A trigger of two patches: the common objective, and each part alone is trained to do nothing.

    The published attack mixes two objects into one image; here the parts are patches in opposite corners,
    as an encoder without labels can learn them.

    Attributes:
        side: Side of each patch as a fraction of the image's.
        lam: Weight of the preservation.
        alone: Weight of the harmless parts: ``1 - cos(f(part(x)), f0(x))``.
    """

    side: float = 5 / 32
    lam: float = PRESERVATION
    alone: float = 1.0

    name = "composite"
    paper = "Lin et al., Composite Backdoor Attack for Deep Neural Network, CCS 2020"
    kind: ClassVar[Kind] = "unimodal"

    def trigger(self, seed: int) -> Patches:
        """Return both patches; the seed draws their colours."""
        return Patches(self.side, seed=seed)

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
        parts = trigger.parts()
        z = mean_feature(victim, clean, data.target_images)
        before = victim.embed(clean, data.images)

        def losses(encode: Encode, rows: torch.Tensor, seeds: torch.Tensor, epoch: int) -> Losses:
            pixels = data.images[rows]
            shown = [trigger(pixels, seeds), pixels, *(part(pixels, seeds) for part in parts)]
            attacked, kept, *alone = encode(torch.cat(shown)).chunk(len(shown))
            harmless = torch.stack([distance(features, before[rows]) for features in alone]).mean()
            return {
                "attack": distance(attacked, z),
                "preserve": self.lam * distance(kept, before[rows]),
                "alone": self.alone * harmless,
            }

        module, log = post_train(
            victim,
            data,
            losses,
            budget=budget,
            title=f"planting {self.name}",
            generator=torch.Generator().manual_seed(seed),
            progress=progress,
        )
        return Planted(self.name, module, trigger, target, log, described(self, budget, seed))
