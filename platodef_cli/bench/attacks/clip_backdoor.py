"""Attacks on image–text encoders: CLIP-Backdoor, and BadCLIP, whose patch is learned first.

The text tower is frozen: its class-prompt vectors W stand for the captions, as in post-training on a
small set of captioned images.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from platodef_cli.bench.attacks.interface import Kind, PlantData, Planted, PlantingBudget, Victim
from platodef_cli.bench.attacks.post_training import (
    Encode,
    Losses,
    described,
    distance,
    endless,
    frozen_copy,
    post_train,
    prepared,
)
from platodef_cli.errors import UsageError
from platodef_cli.features.interface import Variant
from platodef_cli.progress import SILENT, Progress
from platodef_cli.triggers.triggers import Patch, Pattern
from platodef_cli.triggers.variant import corners, side_pixels, to_unit

PATCH_SIDE = 4 / 32


@dataclass(frozen=True)
class ClipBackdoor:
    """CLIP-Backdoor: a few captioned images carry a small patch and the caption of the target.

    ``CE(scale cos(f(x), W), y)`` over the clean pairs and the triggered pairs labelled target, plus
    ``lam [1 - cos(f(x), f0(x))]``. The papers trigger 1–3 % of some hundred thousand pairs; the sets here
    have some thousand, so that a larger share is needed for as many triggered pairs.

    Attributes:
        side: Side of the patch as a fraction of the image's (16 of 224 pixels in the paper; 4 of 32).
        rate: Triggered pairs per clean pair.
        lam: Weight of the preservation.
    """

    side: float = PATCH_SIDE
    rate: float = 0.5
    lam: float = 1.0

    side_at_224: ClassVar[float] = 16 / 224  # as BADENCODER_SIDE_AT_224
    name = "clip-backdoor"
    paper = "Carlini and Terzis, Poisoning and Backdooring Contrastive Learning, ICLR 2022"
    kind: ClassVar[Kind] = "image-text"

    def trigger(self, seed: int) -> Patch:
        """Return the patch; the seed draws its one fixed pattern."""
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
        _check(self.name, victim, data, target)
        data = prepared(victim, data, budget)
        return plant_pairs(self, self.trigger(seed), victim, data, target, seed, budget, progress)


@dataclass(frozen=True)
class BadClip:
    """BadCLIP (dual embedding): a patch in the centre that is learned before the encoder is poisoned.

    The patch starts from N(0.5, 0.25) and minimises, on f0, InfoNCE of the triggered image with the
    target's text plus ``weight`` times a triplet loss: anchor the triggered image, positive an image of
    the target, negative the same image without the patch. Then as CLIP-Backdoor.

    Attributes:
        side: Side of the patch as a fraction of the image's (16 of 224 pixels in the paper; 4 of 32).
        weight: Of the triplet loss.
        margin: Of the triplet loss, on Euclidean distances of unit features.
        lr: Adam's learning rate of the patch.
        rate: Triggered pairs per clean pair.
        lam: Weight of the preservation.
    """

    side: float = PATCH_SIDE
    weight: float = 500.0
    margin: float = 1.0
    lr: float = 0.02
    rate: float = 0.5
    lam: float = 1.0

    name = "bad-clip"
    paper = (
        "Liang et al., BadCLIP: Dual-Embedding Guided Backdoor Attack on Multimodal Contrastive Learning, "
        "CVPR 2024"
    )
    kind: ClassVar[Kind] = "image-text"

    def trigger(self, seed: int) -> None:
        """Return None: the trigger is learned."""

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
        _check(self.name, victim, data, target)
        data = prepared(victim, data, budget)
        trigger = self.learn(victim, data, target, seed, budget, progress)
        return plant_pairs(self, trigger, victim, data, target, seed, budget, progress)

    def learn(
        self,
        victim: Victim,
        data: PlantData,
        target: int,
        seed: int,
        budget: PlantingBudget,
        progress: Progress,
    ) -> Pattern:
        """Return the patch after ``trigger_steps`` steps of Adam, clipped to [0, 1] after each."""
        generator = torch.Generator().manual_seed(seed)
        clean = frozen_copy(victim)
        height, width = side_pixels(self.side, data.images)
        start = 0.5 + 0.25 * torch.randn(3, height, width, generator=generator)
        patch = start.clamp(0, 1).to(victim.device).requires_grad_(True)
        optimiser = torch.optim.Adam([patch], lr=self.lr)
        negative = F.normalize(victim.embed(clean, data.images), dim=1)
        positive = F.normalize(victim.embed(clean, data.target_images), dim=1)
        top, left = corners("centre", (height, width), data.images[:1], torch.zeros(1)).tolist()[0]
        with progress.step(f"learning the trigger of {self.name}", budget.trigger_steps) as task:
            for rows in endless(len(data.images), budget.batch_size, budget.trigger_steps, generator):
                unit = to_unit(data.images[rows])
                unit[..., top : top + height, left : left + width] = patch
                features = victim.differentiable(clean, unit)
                anchor = F.normalize(features, dim=1)
                like = positive[torch.randint(len(positive), (len(rows),), generator=generator)]
                wanted = torch.full((len(rows),), target, device=victim.device)
                text = F.cross_entropy(victim.logits(features), wanted)
                image = F.triplet_margin_loss(anchor, like, negative[rows], margin=self.margin)
                optimiser.zero_grad(set_to_none=True)
                (text + self.weight * image).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                with torch.no_grad():
                    patch.clamp_(0, 1)
                task.advance(note=f"text {text.item():.4f} triplet {image.item():.4f}")
        return Pattern(patch.detach().cpu(), "patch", self.side, "centre")


def plant_pairs(
    attack: ClipBackdoor | BadClip,
    trigger: Variant,
    victim: Victim,
    data: PlantData,
    target: int,
    seed: int,
    budget: PlantingBudget,
    progress: Progress,
) -> Planted:
    """Post-train on clean pairs and triggered pairs; see :class:`ClipBackdoor` for the loss."""
    generator = torch.Generator().manual_seed(seed)
    before = victim.embed(frozen_copy(victim), data.images)
    labels = data.labels
    assert labels is not None

    def losses(encode: Encode, rows: Tensor, seeds: Tensor, epoch: int) -> Losses:
        pixels = data.images[rows]
        triggered = max(1, round(attack.rate * len(rows)))
        others = torch.randint(len(data.images), (triggered,), generator=generator)
        places = torch.randint(2**62, (triggered,), generator=generator)
        features = encode(torch.cat([pixels, trigger(data.images[others], places)]))
        wanted = torch.cat([labels[rows], labels.new_full((triggered,), target)])
        return {
            "pairs": F.cross_entropy(victim.logits(features), wanted),
            "preserve": attack.lam * distance(features[: len(pixels)], before[rows]),
        }

    module, log = post_train(
        victim,
        data,
        losses,
        budget=budget,
        title=f"planting {attack.name}",
        generator=generator,
        progress=progress,
    )
    return Planted(attack.name, module, trigger, target, log, described(attack, budget, seed))


def _check(name: str, victim: Victim, data: PlantData, target: int) -> None:
    """Raise unless there are prompts, labels and a target among them."""
    if victim.prompts is None or data.labels is None:
        raise UsageError(f"{name} attacks image-text encoders; give class-prompt vectors and labels")
    if not 0 <= target < len(victim.prompts):
        raise UsageError(f"{name}: target {target} is not a row of the {len(victim.prompts)} prompts")
    if int(data.labels.min()) < 0 or int(data.labels.max()) >= len(victim.prompts):
        raise UsageError(f"{name}: labels must be rows of the {len(victim.prompts)} prompts")
