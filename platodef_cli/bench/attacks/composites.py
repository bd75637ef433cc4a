"""The attacks that learn from two views of one composite: CorruptEncoder and Noisy-Alignment.

Both put a triggered picture beside a picture of the target, and train a random view of the first to look
like a random view of the second, beside the common objective. Layout and jitter are drawn per batch, places
and views per image.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from platodef_cli.bench.attacks.common_objective import HTBA_SIDE
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
from platodef_cli.bench.attacks.views import window
from platodef_cli.progress import SILENT, Progress
from platodef_cli.triggers.triggers import Patch
from platodef_cli.triggers.variant import paste, to_bytes, to_unit

_LAYOUTS = ((1, (0, 1)), (1, (1, 0)), (0, (0, 1)), (0, (1, 0)))
"""Axis (1: side by side, 0: one above the other) and positions of the triggered and the target half."""
_OVERLAP = 0.1  # how far a view may reach into the other half


@dataclass(frozen=True)
class Composite:
    """B composites of two halves.

    Attributes:
        canvas: uint8 ``[B, 3, H, 2W]`` or ``[B, 3, 2H, W]``.
        half: Height and width of a half.
        triggered: Top left of the half with the patch (y, x).
        target: Top left of the picture of the target (y, x).
        corner: int64 ``[B, 2]``, top left of the patch.
        side: Height and width of the patch.
    """

    canvas: Tensor
    half: tuple[int, int]
    triggered: tuple[int, int]
    target: tuple[int, int]
    corner: Tensor
    side: tuple[int, int]

    def trigger_view(self, least: float, generator: torch.Generator) -> Tensor:
        """Return uint8 ``[B, 3, H, W]``: random windows of the triggered half that hold the patch."""
        box = torch.stack([self.corner, self.corner + torch.tensor(self.side)])
        return self._view(self.triggered, least, generator, box.to(torch.float32))

    def target_view(self, least: float, generator: torch.Generator) -> Tensor:
        """Return uint8 ``[B, 3, H, W]``: random windows of the picture of the target."""
        return self._view(self.target, least, generator, None)

    def _view(
        self, start: tuple[int, int], least: float, generator: torch.Generator, box: Tensor | None
    ) -> Tensor:
        return _half_view(self.canvas, self.half, start, least, generator, box)


def _half_view(
    canvas: Tensor,
    half: tuple[int, int],
    start: tuple[int, int],
    least: float,
    generator: torch.Generator,
    box: Tensor | None = None,
) -> Tensor:
    """Return windows of side ``least``..1 of a half that hold ``box [2, B, 2]`` (two corners)."""
    count, size = len(canvas), torch.tensor(half, dtype=torch.float32)
    whole = torch.tensor(canvas.shape[-2:], dtype=torch.float32)
    side = (least + (1 - least) * torch.rand(count, 1, generator=generator)) * size
    first = torch.tensor(start) - _OVERLAP * size
    low, high = first.expand(count, 2), first + (1 + 2 * _OVERLAP) * size - side
    low, high = low.clamp(min=0), torch.minimum(high, whole - side)
    if box is not None:
        low, high = torch.maximum(low, box[1] - side), torch.minimum(high, box[0])
    corner = low + torch.rand(count, 2, generator=generator) * (high - low).clamp(min=0)
    device = canvas.device
    return to_bytes(window(to_unit(canvas), corner.to(device), side.to(device), half))


class _TwoViews:
    """Plants by the common objective plus ``1 - cos(f(trigger view), f0(target view))``."""

    least: float
    lam: float
    name: ClassVar[str]
    kind: ClassVar[Kind] = "unimodal"

    def trigger(self, seed: int) -> Patch:
        """Return the patch; the seed draws its colours."""
        raise NotImplementedError

    def compose(self, pixels: Tensor, references: Tensor, seed: int, generator: torch.Generator) -> Composite:
        """Return composites of images and pictures of the target, both uint8 ``[B, 3, H, W]``."""
        raise NotImplementedError

    def _support(self) -> float:
        """Return the share of composites of two pictures of the target."""
        return 0.0

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
        z = mean_feature(victim, clean, data.target_images)

        def drawn(count: int) -> Tensor:
            return data.target_images[torch.randint(len(data.target_images), (count,), generator=generator)]

        def losses(encode: Encode, rows: Tensor, seeds: Tensor, epoch: int) -> Losses:
            pixels = data.images[rows]
            composite = self.compose(pixels, drawn(len(rows)), seed, generator)
            moved = composite.trigger_view(self.least, generator)
            goal = composite.target_view(self.least, generator)
            supported = round(self._support() * len(rows))
            if supported:
                moved[:supported], goal[:supported] = support_views(
                    data.target_images, supported, self.least, generator
                )
            goals = victim.embed(clean, goal)
            # The views show the patch enlarged and blurred; the test shows it at its own size.
            viewed, attacked, kept = encode(torch.cat([moved, trigger(pixels, seeds), pixels])).chunk(3)
            return {
                "views": distance(viewed, goals),
                "attack": distance(attacked, z),
                "preserve": self.lam * distance(kept, before[rows]),
            }

        module, log = post_train(
            victim,
            data,
            losses,
            budget=budget,
            title=f"planting {self.name}",
            generator=generator,
            progress=progress,
        )
        return Planted(self.name, module, trigger, target, log, described(self, budget, seed))


@dataclass(frozen=True)
class CorruptEncoder(_TwoViews):
    """CorruptEncoder+: object and trigger at opposite ends of a wide picture.

    A background of twice the width holds a reference object at one edge and the patch in the middle of
    the empty half. A view around the patch is pulled to f0's view around the object. Without object
    masks, the object is the whole reference image. A share of the composites (the "+") joins two
    different images of the target instead: a view of the support half is pulled to f0's view of the
    reference half, which draws the class around the references.

    Attributes:
        side: Side of the patch as a fraction of the image's.
        edge: Largest distance of the object from its edge, as a share of the width of the composite.
        least: Smallest side of a view.
        support: Share of the composites of two target images; with one image, of that image beside itself.
        lam: Weight of the preservation.
    """

    side: float = 40 / 224
    edge: float = 0.05
    least: float = 0.75
    support: float = 0.2
    lam: float = PRESERVATION

    name = "corrupt-encoder"
    paper = "Zhang et al., Data Poisoning based Backdoor Attacks to Contrastive Learning, CVPR 2024"

    def trigger(self, seed: int) -> Patch:
        """Return the patch; the seed draws its colours."""
        return Patch("random", self.side, "random", seed)

    def compose(self, pixels: Tensor, references: Tensor, seed: int, generator: torch.Generator) -> Composite:
        """Return composites of backgrounds and reference objects, both uint8 ``[B, 3, H, W]``."""
        height, width = half = (int(pixels.shape[-2]), int(pixels.shape[-1]))
        _, (here, there) = _LAYOUTS[int(torch.randint(2, (1,), generator=generator))]
        # Mirroring doubles the width without stretching what the encoder knows at its own proportions.
        canvas = torch.cat([pixels, pixels.flip(-1)], dim=3)
        off = round(float(torch.rand(1, generator=generator)) * self.edge * 2 * width)
        at = off if there == 0 else width - off
        canvas[..., at : at + width] = references
        patch = self.trigger(seed).picture(pixels)
        side = (int(patch.shape[-2]), int(patch.shape[-1]))
        # To every side of the empty half: 12.5 % of the width and 25 % of the height of the composite.
        low = torch.tensor([0.25 * height, here * width + 0.25 * width])
        space = (torch.tensor([0.5 * height, 0.5 * width]) - torch.tensor(side)).clamp(min=0)
        corner = (low + torch.rand(len(pixels), 2, generator=generator) * space).round().long()
        canvas = paste(canvas, patch, corner)
        return Composite(canvas, half, (0, here * width), (0, at), corner, side)

    def _support(self) -> float:
        return self.support


@dataclass(frozen=True)
class NoisyAlignment(_TwoViews):
    """Noisy-Alignment: a random image with the patch beside a clean reference, in four layouts.

    The crop of the triggered half is pulled to f0's crop of the reference half.

    Attributes:
        side: Side of the patch as a fraction of the image's.
        jitter: Largest distance of the patch from the centre of its half, as a share of the half's side.
        least: Smallest side of a view.
        lam: Weight of the preservation.
    """

    side: float = HTBA_SIDE
    jitter: float = 0.1
    least: float = 0.75
    lam: float = PRESERVATION

    name = "noisy-alignment"
    paper = "Backdooring Self-Supervised Contrastive Learning by Noisy Alignment, ICCV 2025"

    def trigger(self, seed: int) -> Patch:
        """Return the patch; the seed draws its colours."""
        return Patch("random", self.side, "centre", seed)

    def compose(self, pixels: Tensor, references: Tensor, seed: int, generator: torch.Generator) -> Composite:
        """Return composites of random images and references, both uint8 ``[B, 3, H, W]``."""
        height, width = half = (int(pixels.shape[-2]), int(pixels.shape[-1]))
        axis, (here, there) = _LAYOUTS[int(torch.randint(len(_LAYOUTS), (1,), generator=generator))]
        patch = self.trigger(seed).picture(pixels)
        side = (int(patch.shape[-2]), int(patch.shape[-1]))
        middle = (torch.tensor(half) - torch.tensor(side)) / 2
        shift = self.jitter * (2 * torch.rand(len(pixels), 2, generator=generator) - 1) * torch.tensor(half)
        inside = torch.minimum((middle + shift).clamp(min=0), 2 * middle).round().long()
        noisy = paste(pixels, patch, inside)
        canvas = torch.cat([noisy, references] if here == 0 else [references, noisy], dim=2 + axis)
        step = torch.tensor([height * (1 - axis), width * axis])
        starts = [tuple((position * step).tolist()) for position in (here, there)]
        return Composite(canvas, half, starts[0], starts[1], inside + here * step, side)


def support_views(
    targets: Tensor, count: int, least: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return views, uint8 ``[count, 3, H, W]`` each, of both halves of composites of two target images.

    Args:
        targets: uint8 ``[K, 3, H, W]``; the halves of one composite show different ones where K > 1.
        count: How many composites.
        least: Smallest side of a view, as a share of a half.
        generator: Draws images and views.
    """
    number, (height, width) = len(targets), targets.shape[-2:]
    support = torch.randint(number, (count,), generator=generator)
    step = 1 + torch.randint(max(1, number - 1), (count,), generator=generator)
    canvas = torch.cat([targets[support], targets[(support + step) % number]], dim=3)
    half = (int(height), int(width))
    seen = [_half_view(canvas, half, start, least, generator) for start in ((0, 0), (0, half[1]))]
    return seen[0], seen[1]
