"""Four opaque patches at once, one in each corner: triggers of several parts (Lin et al. 2020, Composite)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from platodef_cli.search.interface import SearchedTrigger, SearchKind, SearchTarget

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from platodef_cli.progress import Task


CORNERS = ("top left", "top right", "bottom right", "bottom left")
"""Clockwise, in the order in which patches are counted."""


class CornersTrigger(SearchedTrigger):
    """Four patches; ``values`` ``[4, 3, h, w]`` are their colours in [0, 1], clockwise from the top left."""

    def __call__(self, pixels: "Tensor", seeds: "Tensor") -> "Tensor":
        """Paste the patches, scaled to their share of the images."""
        return pasted(pixels, self.values, self.side, range(len(CORNERS)))

    def place_text(self) -> str:
        """Return where the patches lie."""
        return "all four corners"


@dataclass(frozen=True)
class CornersSearch(SearchKind):
    """Four patches that turn the features away from those of the same images.

    A trigger of several parts does nothing until its parts are there, so a search for what makes features
    equal finds no slope to follow; that they turn is easier to reach, and what is measured stays the
    collapse.

    Attributes:
        budgets: Sides of each patch, as fractions of the image's side.
        restarts: Runs.
        starts: Random colours at the start of a run; the best goes on after the first round.
        screening: Images per step, and steps, of the first round.
        climbing: The same of the second round.
        rate: Adam's learning rate on the logits of the colours.
    """

    name = "corners"
    trigger = CornersTrigger
    collapse_limits = (0.90,)
    limits_meaning = "the same for patches in all four corners together, per side of the search"

    budgets: tuple[float, ...] = (5 / 32,)
    restarts: int = 3
    starts: int = 2
    screening: tuple[int, int] = (16, 6)
    climbing: tuple[int, int] = (32, 20)
    rate: float = 0.4

    def budget_text(self, budget: float) -> str:
        """Return the side of each patch as a share of the image's."""
        return f"{budget:.0%} of the side"

    def cost(self) -> int:
        """Return the images of both rounds."""
        return self.starts * self.screening[0] * self.screening[1] + self.climbing[0] * self.climbing[1]

    def run(
        self, target: SearchTarget, budget: float, generator: "torch.Generator", task: "Task"
    ) -> tuple[CornersTrigger, int]:
        """Search; see :class:`SearchKind`."""
        import torch

        from platodef_cli.triggers.variant import side_pixels

        rows, columns = side_pixels(budget, target.pool)
        start = 0.5 * torch.randn(self.starts, 4, 3, rows, columns, generator=generator)
        found, turned = [], []
        for logits in start:
            reached, colours = self._climb(target, logits, self.screening, generator, task)
            found.append(colours)
            turned.append(reached)
        best = found[max(range(self.starts), key=turned.__getitem__)]
        _, best = self._climb(target, best, self.climbing, generator, task)
        colours = (best.sigmoid() * 255).round() / 255
        return CornersTrigger(self.name, colours, budget), self.climbing[1]

    def _climb(
        self,
        target: SearchTarget,
        start: "Tensor",
        effort: tuple[int, int],
        generator: "torch.Generator",
        task: "Task",
    ) -> tuple[float, "Tensor"]:
        """Return how far the features turned at last, and the logits ``[4, 3, h, w]``."""
        import torch
        from torch.nn import functional as F

        images, steps = effort
        logits = start.clone().requires_grad_(True)
        optimiser = torch.optim.Adam([logits], lr=self.rate)
        reached = 0.0
        for step in range(steps):
            rows = torch.randint(0, len(target.pool), (images,), generator=generator)
            clean = target.statistics.standardise(target.features[rows])
            changed = target.encoder.differentiable(covered(target.take(rows), logits, range(len(CORNERS))))
            turn = 1 - F.cosine_similarity(target.statistics.standardise(changed), clean, dim=1).mean()
            optimiser.zero_grad()
            (-turn).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            now = float(turn.detach())
            reached = now if step == 0 else 0.6 * reached + 0.4 * now
            task.advance(images, note=f"{self.name}, turned by {now:.2f}")
        return reached, logits.detach()


def pasted(pixels: "Tensor", values: "Tensor", side: float, corners: Sequence[int]) -> "Tensor":
    """Return uint8 images ``[B, 3, H, W]`` with patches in some corners, scaled to their share of the images.

    Args:
        pixels: The images.
        values: Colours in [0, 1], ``[k, 3, h, w]``.
        side: Of each patch, as a fraction of the image's side.
        corners: Their corners, numbers of :data:`CORNERS`, k of them.
    """
    import torch

    from platodef_cli.triggers.variant import paste, resize, side_pixels, to_bytes

    height, width = pixels.shape[-2:]
    rows, columns = side_pixels(side, pixels)
    places = ((0, 0), (0, width - columns), (height - rows, width - columns), (height - rows, 0))
    for colours, corner in zip(values, corners, strict=True):
        place = torch.tensor(places[corner]).expand(len(pixels), 2)
        pixels = paste(pixels, to_bytes(resize(colours, rows, columns)), place)
    return pixels


def covered(images: "Tensor", logits: "Tensor", corners: Sequence[int]) -> "Tensor":
    """Return images ``[B, 3, H, W]`` in [0, 1] with patches, with gradients; see :func:`pasted`.

    Args:
        images: The images.
        logits: Of the colours, ``[k, 3, h, w]``.
        corners: Numbers of :data:`CORNERS`, k of them.
    """
    import torch
    from torch.nn import functional as F

    height, width = images.shape[-2:]
    rows, columns = logits.shape[-2:]
    below, right = height - rows, width - columns
    paddings = ((0, right, 0, below), (right, 0, 0, below), (right, 0, below, 0), (0, right, below, 0))
    mask = torch.zeros(1, height, width)
    cover = torch.zeros(3, height, width)
    for colours, corner in zip(logits.sigmoid(), corners, strict=True):
        mask = mask + F.pad(torch.ones(1, rows, columns), paddings[corner])
        cover = cover + F.pad(colours, paddings[corner])
    return images * (1 - mask) + cover
