"""Two opaque patches in two corners: a trigger that works only as a pair (Lin et al. 2020, Composite)."""

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from platodef_cli.search.corners import CORNERS, covered, pasted
from platodef_cli.search.halving import Stage, halve, halving_cost
from platodef_cli.search.interface import SearchedTrigger, SearchKind, SearchTarget

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from platodef_cli.progress import Task

_PAIRS = tuple(combinations(range(len(CORNERS)), 2))


@dataclass(frozen=True, eq=False)
class PairTrigger(SearchedTrigger):
    """Two patches; ``values`` ``[2, 3, h, w]`` are their colours in [0, 1].

    Attributes:
        corners: Where they lie, numbers of :data:`platodef_cli.search.corners.CORNERS`.
    """

    corners: tuple[int, int] = (0, 2)

    def __call__(self, pixels: "Tensor", seeds: "Tensor") -> "Tensor":
        """Paste the patches, scaled to their share of the images."""
        return pasted(pixels, self.values, self.side, self.corners)

    def place_text(self) -> str:
        """Return where the patches lie."""
        first, second = self.corners
        return f"{CORNERS[first]} and {CORNERS[second]}"

    def parts(self) -> tuple[SearchedTrigger, ...]:
        """Return the patches alone."""
        from platodef_cli.search.patch import PatchTrigger

        places = ((0.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, 0.0))
        return tuple(
            PatchTrigger(self.kind, colours, self.side, places[corner])
            for colours, corner in zip(self.values, self.corners, strict=True)
        )


@dataclass(frozen=True)
class PairsSearch(SearchKind):
    """Two patches that turn the features away: pairs of corners compete, each with colours of its own.

    A backdoor of two parts is trained to ignore each of them, so that a search for one patch finds nothing,
    and patches in all corners cover too little of each part or too much of the image. Patches as large as
    the parts, in their two corners, find it where they compete for how far features turn: of two planted
    encoders a search for the collapse found one, with 0.99, and reached 0.56 and 0.73 on the other, where
    this one reaches 0.99 on both. What is measured stays the collapse.

    Attributes:
        budgets: Sides of each patch, as fractions of the image's side.
        restarts: Runs.
        stages: Rounds of the competition.
        rate: Adam's learning rate on the logits of the colours.
    """

    name = "pairs"
    trigger = PairTrigger
    collapse_limits = (0.93,)
    optional = True  # a clean encoder came near the limit, and the calibration does not know it
    limits_meaning = "the same for patches in two corners together, per side of the search"

    budgets: tuple[float, ...] = (7 / 32,)
    restarts: int = 2
    stages: tuple[Stage, ...] = (Stage(16, 8, 3), Stage(16, 12, 2), Stage(32, 24, 1))
    rate: float = 0.4

    def budget_text(self, budget: float) -> str:
        """Return the side of each patch as a share of the image's."""
        return f"{budget:.0%} of the side"

    def cost(self) -> int:
        """Return the images of a competition of all pairs."""
        return halving_cost(len(_PAIRS), self.stages)

    def run(
        self, target: SearchTarget, budget: float, generator: "torch.Generator", task: "Task"
    ) -> tuple[PairTrigger, int]:
        """Search; see :class:`SearchKind`."""
        import torch

        from platodef_cli.triggers.variant import side_pixels

        def apply(images: "Tensor", logits: "Tensor", number: int) -> "Tensor":
            return covered(images, logits, _PAIRS[number])

        rows, columns = side_pixels(budget, target.pool)
        start = 0.5 * torch.randn(len(_PAIRS), 2, 3, rows, columns, generator=generator)
        title = f"{self.name} {self.budget_text(budget)}"
        best, logits = halve(
            target,
            start,
            apply,
            self.stages,
            rate=self.rate,
            generator=generator,
            task=task,
            title=title,
            turn=True,
        )
        colours = (logits.sigmoid() * 255).round() / 255
        return PairTrigger(self.name, colours, budget, corners=_PAIRS[best]), self.stages[-1].steps
