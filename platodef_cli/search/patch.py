"""An opaque patch at the place where it does most (Brown et al. 2017, Adversarial Patch)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from platodef_cli.search.halving import Stage, halve, halving_cost
from platodef_cli.search.interface import SearchedTrigger, SearchKind, SearchTarget

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from platodef_cli.progress import Task


class PatchTrigger(SearchedTrigger):
    """An opaque patch; ``values`` are its colours in [0, 1]."""

    def __call__(self, pixels: "Tensor", seeds: "Tensor") -> "Tensor":
        """Paste the patch, scaled to its share of the images."""
        import torch

        from platodef_cli.triggers.variant import paste, resize, side_pixels, to_bytes

        height, width = pixels.shape[-2:]
        side = side_pixels(self.side, pixels)
        corner = torch.tensor(
            [round(self.place[0] * (height - side[0])), round(self.place[1] * (width - side[1]))]
        )
        return paste(pixels, to_bytes(resize(self.values, *side)), corner.expand(len(pixels), 2))

    def place_text(self) -> str:
        """Return the share of the free height and width above and to the left."""
        y, x = self.place
        return f"y {y:.0%}, x {x:.0%}"


@dataclass(frozen=True)
class PatchSearch(SearchKind):
    """An opaque patch: places compete, each with its own colours.

    Attributes:
        budgets: Sides of the patch, as fractions of the image's side.
        grid: Places per axis.
        stages: Rounds of the competition.
        rate: Adam's learning rate on the logits of the colours.
    """

    name = "patch"
    trigger = PatchTrigger
    collapse_limits = (0.60, 0.93)
    limits_meaning = "collapse that a searched patch must reach, per side of the search"

    budgets: tuple[float, ...] = (5 / 32, 7 / 32)
    grid: int = 6
    stages: tuple[Stage, ...] = (Stage(8, 10, 8), Stage(16, 14, 3), Stage(32, 30, 1))
    rate: float = 0.4

    def budget_text(self, budget: float) -> str:
        """Return the side of the patch as a share of the image's, whose pixels differ between encoders."""
        return f"{budget:.0%} of the side"

    def cost(self) -> int:
        """Return the images of a competition of all places."""
        return halving_cost(self.grid**2, self.stages)

    def run(
        self, target: SearchTarget, budget: float, generator: "torch.Generator", task: "Task"
    ) -> tuple[PatchTrigger, int]:
        """Search; see :class:`SearchKind`."""
        import torch
        from torch.nn import functional as F

        from platodef_cli.triggers.variant import side_pixels

        height, width = target.pool.shape[-2:]
        rows, columns = side_pixels(budget, target.pool)
        shares = [index / max(self.grid - 1, 1) for index in range(self.grid)]
        places = [(y, x) for y in shares for x in shares]

        def apply(images: "Tensor", logits: "Tensor", number: int) -> "Tensor":
            top = round(places[number][0] * (height - rows))
            left = round(places[number][1] * (width - columns))
            padding = (left, width - left - columns, top, height - top - rows)
            mask = F.pad(torch.ones(1, rows, columns), padding)
            return images * (1 - mask) + F.pad(torch.sigmoid(logits), padding)

        start = 0.5 * torch.randn(len(places), 3, rows, columns, generator=generator)
        title = f"{self.name} {self.budget_text(budget)}"
        best, logits = halve(
            target, start, apply, self.stages, rate=self.rate, generator=generator, task=task, title=title
        )
        colours = (torch.sigmoid(logits) * 255).round() / 255
        return PatchTrigger(self.name, colours, budget, places[best]), self.stages[-1].steps
