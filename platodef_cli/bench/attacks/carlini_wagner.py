"""CW-L2: the smallest change that is misclassified, with a binary search over the trade-off."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from platodef_cli.bench.attacks.adversarial import Classifier, in_batches, margin
from platodef_cli.progress import SILENT, Progress
from platodef_cli.triggers.variant import check, to_bytes

_INSIDE = 1 - 1e-6  # the inverse hyperbolic tangent is infinite at the ends of the pixel range
_NEAR = 0.02  # logits that an iterate may lack of success and still have it after rounding
_SEARCHES, _STEPS = 20, 10_000  # of the paper


@dataclass(frozen=True)
class CarliniWagner:
    """CW-L2: minimise ``|x' - x|^2 + c max(Z_y - max_j Z_j + confidence, 0)`` over ``x' = (tanh w + 1) / 2``.

    Of all iterates the nearest is kept whose 8-bit version is misclassified by more than ``confidence``;
    images without one are returned unchanged. c is multiplied by 10 until it succeeds, then bisected.

    Attributes:
        start: First c.
        searches: Values of c tried for each image.
        steps: Steps of Adam for each c.
        lr: Adam's learning rate in w.
        confidence: Logits by which the wrong class must lead.
    """

    start: float = 1.0
    searches: int = 6
    steps: int = 60
    lr: float = 0.02
    confidence: float = 0.0

    name = "cw"
    paper = "Carlini and Wagner, Towards Evaluating the Robustness of Neural Networks, S&P 2017"
    norm: ClassVar[Literal["linf", "l2"]] = "l2"

    def __post_init__(self) -> None:
        check(self.start > 0 and self.lr > 0, self.name, "start and lr must be positive")
        check(self.searches >= 1 and self.steps >= 1, self.name, "searches and steps must be positive")
        check(self.confidence >= 0, self.name, f"confidence={self.confidence} must be at least 0")

    @property
    def note(self) -> str:
        """How it is shorter than the published attack."""
        if self.searches >= _SEARCHES and self.steps >= _STEPS:
            return ""
        return f"reduced: {self.steps} steps, {self.searches} searches"

    def perturb(
        self,
        classifier: Classifier,
        pixels: Tensor,
        labels: Tensor,
        *,
        seed: int,
        progress: Progress = SILENT,
    ) -> Tensor:
        """Attack; see :class:`~platodef_cli.bench.attacks.adversarial.AdversarialAttack`."""
        out = pixels.clone()
        for rows, unit, wanted in in_batches(pixels, labels, self.name, progress):
            out[rows] = self._search(classifier, unit, wanted)
        return out

    def _search(self, classifier: Classifier, unit: Tensor, labels: Tensor) -> Tensor:
        """Return uint8 images of one batch."""
        count, device = len(unit), unit.device
        best = to_bytes(unit)
        nearest = torch.full((count,), float("inf"), device=device)
        low = torch.zeros(count, device=device)
        high = torch.full((count,), float("inf"), device=device)
        c = torch.full((count,), self.start, device=device)
        for _ in range(self.searches):
            candidate, distance = self._minimise(classifier, unit, labels, c)
            success = distance.isfinite()
            closer = distance < nearest
            best[closer], nearest[closer] = candidate[closer], distance[closer]
            high = torch.where(success, torch.minimum(high, c), high)
            low = torch.where(success, low, torch.maximum(low, c))
            c = torch.where(high.isfinite(), (low + high) / 2, 10 * c)
        return best

    def _minimise(
        self, classifier: Classifier, unit: Tensor, labels: Tensor, c: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the nearest successful 8-bit iterates and their squared distance, infinite without."""
        w = torch.atanh((2 * unit - 1) * _INSIDE).requires_grad_(True)
        optimiser = torch.optim.Adam([w], lr=self.lr)
        best, nearest = to_bytes(unit), torch.full((len(unit),), float("inf"), device=unit.device)
        for _ in range(self.steps):
            moved = (torch.tanh(w) + 1) / 2
            square = (moved - unit).square().sum((1, 2, 3))
            excess = (margin(classifier(moved), labels) + self.confidence).clamp(min=0)
            optimiser.zero_grad(set_to_none=True)
            (square + c * excess).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            # What counts is the saved image, so success is measured after rounding, where it can be near.
            near = (excess.detach() <= _NEAR).nonzero()[:, 0]
            if not len(near):
                continue
            candidate = to_bytes(moved.detach()[near])
            with torch.no_grad():
                fooled = margin(classifier(candidate.float() / 255), labels[near]) < -self.confidence
            size = (candidate.float() / 255 - unit[near]).square().sum((1, 2, 3))
            better = fooled & (size < nearest[near])
            best[near[better]], nearest[near[better]] = candidate[better], size[better]
        return best, nearest
