"""A universal perturbation: any pattern inside a max-norm ball (Moosavi-Dezfooli et al. 2017)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from platodef_cli.search.additive import AdditiveTrigger
from platodef_cli.search.interface import SearchKind, SearchTarget

if TYPE_CHECKING:
    import torch

    from platodef_cli.progress import Task


@dataclass(frozen=True)
class UniversalSearch(SearchKind):
    """Momentum sign ascent on one additive pattern inside the max-norm ball.

    Attributes:
        budgets: Largest change of a pixel, on the 0..255 scale.
        steps: Sign steps.
        images: Images per step.
    """

    name = "universal"
    trigger = AdditiveTrigger
    collapse_limits = (0.25, 0.75)
    version = 2
    limits_meaning = "the same for a searched universal change, per norm of the search"

    budgets: tuple[float, ...] = (4.0, 8.0)
    steps: int = 50
    images: int = 48

    def budget_text(self, budget: float) -> str:
        """Return the norm as a share of the range."""
        return f"{budget:g}/255"

    def cost(self) -> int:
        """Return the images of all steps."""
        return self.steps * self.images

    def run(
        self, target: SearchTarget, budget: float, generator: "torch.Generator", task: "Task"
    ) -> tuple[AdditiveTrigger, int]:
        """Search; see :class:`SearchKind`."""
        import torch

        from platodef_cli.search.statistics import collapse

        bound = budget / 255
        title = f"{self.name} {self.budget_text(budget)}"
        delta = (2 * torch.rand(target.pool.shape[1:], generator=generator) - 1) * bound
        momentum = torch.zeros_like(delta)
        for step in range(self.steps):
            images = target.draw(self.images, generator)
            delta.requires_grad_(True)
            features = target.encoder.differentiable((images + delta).clamp(0, 1))
            value = collapse(target.statistics.standardise(features))
            (gradient,) = torch.autograd.grad(value, delta)
            momentum = 0.8 * momentum + gradient / gradient.abs().mean().clamp_min(1e-12)
            size = bound * (0.25 if step < self.steps // 2 else 0.1)
            delta = (delta.detach() + size * momentum.sign()).clamp(-bound, bound)
            task.advance(self.images, note=f"{title}, collapse {float(value.detach()):.2f}")
        return AdditiveTrigger(self.name, delta), self.steps
