"""A smooth warp of the whole image, as WaNet plants it (Nguyen and Tran 2021)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from platodef_cli.search.halving import Stage, halve
from platodef_cli.search.interface import SearchedTrigger, SearchKind, SearchTarget

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from platodef_cli.progress import Task


class WarpTrigger(SearchedTrigger):
    """A warp; ``values`` ``[2, k, k]`` are displacements (x, y) at control points, as shares of the side."""

    def __call__(self, pixels: "Tensor", seeds: "Tensor") -> "Tensor":
        """Warp the images."""
        from platodef_cli.triggers.variant import to_bytes, to_unit

        return to_bytes(warped(to_unit(pixels), self.values.to(pixels.device)))

    def picture(self, height: int, width: int) -> "Tensor":
        """Return the displacements to the right as red, downwards as green: grey images show no warp."""
        import torch

        from platodef_cli.triggers.variant import to_bytes

        flow = _field(self.values, height, width)[0]
        both = torch.cat([flow, torch.zeros(1, height, width)])
        return to_bytes(0.5 + 0.5 * both[None] / both.abs().max().clamp_min(1e-6))[0]


def warped(images: "Tensor", control: "Tensor") -> "Tensor":
    """Return images that show at every place what lay one displacement further.

    Args:
        images: float32 ``[B, 3, H, W]``; beyond their border they go on as they end.
        control: ``[2, k, k]``, displacements (x, y) at control points, as shares of the side.
    """
    import torch
    from torch.nn import functional as F

    height, width = images.shape[-2:]
    identity = F.affine_grid(
        torch.eye(2, 3, device=images.device)[None], [1, 3, height, width], align_corners=False
    )
    # grid_sample counts from -1 to 1, so the side is 2
    grid = identity + 2 * _field(control, height, width).permute(0, 2, 3, 1)
    return F.grid_sample(
        images, grid.expand(len(images), -1, -1, -1), padding_mode="border", align_corners=False
    )


def _field(control: "Tensor", height: int, width: int) -> "Tensor":
    """Return the displacement of every pixel ``[1, 2, H, W]``."""
    from torch.nn import functional as F

    return F.interpolate(control[None], (height, width), mode="bicubic", align_corners=True)


@dataclass(frozen=True)
class WarpSearch(SearchKind):
    """A smooth displacement field.

    Attributes:
        budgets: Largest displacement of a control point along an axis, as fractions of the image's side.
        cells: Control points per axis.
        restarts: Runs; few control points end in different fields, and a run is cheap.
        images: Images per step.
        steps: Adam steps.
        rate: Adam's learning rate on the inverse hyperbolic tangents of the displacements.
    """

    name = "warp"
    trigger = WarpTrigger
    collapse_limits = (0.60,)
    limits_meaning = "the same for a searched smooth warp, per displacement of the search"

    budgets: tuple[float, ...] = (2 / 32,)
    restarts: int = 4
    cells: int = 4
    images: int = 16
    steps: int = 24
    rate: float = 0.4

    def budget_text(self, budget: float) -> str:
        """Return the displacement as a share of the image's side, whose pixels differ between encoders."""
        return f"{budget:.0%} of the side"

    def cost(self) -> int:
        """Return the images of all steps."""
        return self.images * self.steps

    def run(
        self, target: SearchTarget, budget: float, generator: "torch.Generator", task: "Task"
    ) -> tuple[WarpTrigger, int]:
        """Search; see :class:`SearchKind`."""
        import torch

        def apply(images: "Tensor", free: "Tensor", number: int) -> "Tensor":
            return warped(images, budget * free.tanh())

        start = 0.5 * torch.randn(1, 2, self.cells, self.cells, generator=generator)
        stages = (Stage(self.images, self.steps, 1),)
        title = f"{self.name} {self.budget_text(budget)}"
        _, free = halve(
            target, start, apply, stages, rate=self.rate, generator=generator, task=task, title=title
        )
        return WarpTrigger(self.name, budget * free.tanh()), self.steps
