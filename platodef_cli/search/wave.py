"""A sinusoid over the whole image, as SIG (Barni et al. 2019) and CTRL (Li et al. 2023) plant it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from platodef_cli.search.additive import AdditiveTrigger
from platodef_cli.search.halving import Stage, halve, halving_cost
from platodef_cli.search.interface import SearchKind, SearchTarget

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from platodef_cli.progress import Task

_DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))  # (y, x): both axes and both diagonals


@dataclass(frozen=True)
class WaveSearch(SearchKind):
    """A sinusoid: frequencies compete, each with its colour and phase.

    Attributes:
        budgets: Amplitudes, on the 0..255 scale.
        frequencies: Periods per image side, along both axes and both diagonals.
        stages: Rounds of the competition; few parameters need few steps.
        rate: Adam's learning rate on the weights of cosine and sine.
    """

    name = "wave"
    trigger = AdditiveTrigger
    collapse_limits = (0.75,)
    limits_meaning = "the same for a searched sinusoid, per amplitude of the search"

    budgets: tuple[float, ...] = (20.0,)
    frequencies: tuple[float, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14)
    stages: tuple[Stage, ...] = (Stage(8, 6, 6), Stage(16, 8, 2), Stage(32, 12, 1))
    rate: float = 0.4

    def budget_text(self, budget: float) -> str:
        """Return the amplitude as a share of the range."""
        return f"{budget:g}/255"

    def cost(self) -> int:
        """Return the images of a competition of all frequencies and directions."""
        return halving_cost(len(_DIRECTIONS) * len(self.frequencies), self.stages)

    def run(
        self, target: SearchTarget, budget: float, generator: "torch.Generator", task: "Task"
    ) -> tuple[AdditiveTrigger, int]:
        """Search; see :class:`SearchKind`."""
        import torch

        waves = self._waves(*target.pool.shape[-2:])

        def pattern(weights: "Tensor", number: int) -> "Tensor":
            # weights [3, 2] of cosine and sine per colour, scaled back to the largest amplitude
            scale = weights.norm(dim=1, keepdim=True).clamp_min(1.0)
            return budget / 255 * torch.einsum("cp,phw->chw", weights / scale, waves[number])

        def apply(images: "Tensor", weights: "Tensor", number: int) -> "Tensor":
            return (images + pattern(weights, number)).clamp(0, 1)

        start = torch.randn(len(waves), 3, 2, generator=generator)
        title = f"{self.name} {self.budget_text(budget)}"
        best, weights = halve(
            target, start, apply, self.stages, rate=self.rate, generator=generator, task=task, title=title
        )
        return AdditiveTrigger(self.name, pattern(weights, best)), self.stages[-1].steps

    def _waves(self, height: int, width: int) -> "Tensor":
        """Return cosine and sine of every frequency and direction, float32 ``[F, 2, H, W]``."""
        import torch

        y = (torch.arange(height) + 0.5)[:, None] / height
        x = (torch.arange(width) + 0.5)[None, :] / width
        periods = [(fy * rate, fx * rate) for rate in self.frequencies for fy, fx in _DIRECTIONS]
        phases = torch.stack([2 * torch.pi * (fy * y + fx * x) for fy, fx in periods])
        return torch.stack([phases.cos(), phases.sin()], dim=1)
