"""AutoAttack: an ensemble without step sizes to tune; reduced, or the standard one of a library."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from platodef_cli.bench.attacks.adversarial import (
    Classifier,
    cross_entropy,
    in_batches,
    margin,
    rounded,
    within,
)
from platodef_cli.errors import UsageError
from platodef_cli.progress import SILENT, Progress
from platodef_cli.triggers.variant import check

_PAPER = "Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble, ICML 2020"
_MOMENTUM = 0.75
_SQUARES = (0.8, (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8))
"""Share of the pixels that Square changes at first, and the shares of the queries that halve it."""


@dataclass(frozen=True)
class AutoAttack:
    """AutoAttack, reduced: APGD-CE, targeted APGD-DLR and Square, each on what withstood those before.

    Against the standard version it has fewer steps, targets and queries and lacks FAB-T. An image that
    withstands everything is returned as APGD-CE left it.

    Attributes:
        eps: Bound of the max-norm, on the 0..255 scale.
        steps: Steps of each APGD (standard: 100).
        targets: Most likely wrong classes that APGD-DLR aims at (standard: 9).
        queries: Random squares (standard: 5000).
        library: Run the standard version of ``pyautoattack`` (extra ``autoattack``) instead: an hour for
            what takes a minute here; only ``eps`` counts.
    """

    eps: float = 8.0
    steps: int = 20
    targets: int = 3
    queries: int = 100
    library: bool = False

    name = "autoattack"
    paper = _PAPER
    norm: ClassVar[Literal["linf", "l2"]] = "linf"

    def __post_init__(self) -> None:
        check(self.eps >= 1, self.name, f"eps={self.eps} must be at least 1 (of 255)")
        check(self.steps >= 1, self.name, "steps must be at least 1")
        check(self.targets >= 0 and self.queries >= 0, self.name, "targets and queries cannot be negative")

    @property
    def note(self) -> str:
        """What is reduced."""
        if self.library:
            return ""
        return f"reduced: {self.steps} steps, {self.targets} targets, {self.queries} queries, no FAB-T"

    def perturb(
        self,
        classifier: Classifier,
        pixels: Tensor,
        labels: Tensor,
        *,
        seed: int,
        progress: Progress = SILENT,
    ) -> Tensor:
        """Attack; see :class:`platodef_cli.bench.attacks.adversarial.AdversarialAttack`."""
        generator = torch.Generator().manual_seed(seed)
        out = torch.empty_like(pixels)
        for rows, unit, wanted in in_batches(pixels, labels, self.name, progress):
            clean = pixels[rows]
            if self.library:
                out[rows] = standard(classifier, clean, wanted, self.eps, seed)
                continue
            moved = apgd(cross_entropy(classifier, wanted), unit, self.eps, self.steps, generator)
            candidate = rounded(moved, clean, self.eps)
            for attack in self._stages(classifier, generator):
                left = _standing(classifier, candidate, wanted)
                if not len(left):
                    break
                again = rounded(attack(unit[left], wanted[left]), clean[left], self.eps)
                fooled = margin(_logits(classifier, again), wanted[left]) < 0
                candidate[left[fooled]] = again[fooled]
            out[rows] = candidate
        return out

    def _stages(
        self, classifier: Classifier, generator: torch.Generator
    ) -> list[Callable[[Tensor, Tensor], Tensor]]:
        """Return what follows APGD-CE: ``(images, labels) -> attacked images``."""

        def towards(rank: int) -> Callable[[Tensor, Tensor], Tensor]:
            def attack(unit: Tensor, labels: Tensor) -> Tensor:
                with torch.no_grad():
                    others = classifier(unit).scatter(1, labels[:, None], float("-inf"))
                ranked = others.argsort(dim=1, descending=True)[:, :-1]  # the last one is the label
                goal = ranked[:, min(rank, ranked.shape[1] - 1)]
                loss = targeted_dlr(classifier, labels, goal)
                return apgd(loss, unit, self.eps, self.steps, generator)

            return attack

        def squares(unit: Tensor, labels: Tensor) -> Tensor:
            return square(classifier, unit, labels, self.eps, self.queries, generator)

        return [*(towards(rank) for rank in range(self.targets)), *([squares] if self.queries else [])]


def _logits(classifier: Classifier, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        return classifier(pixels.float() / 255)


def _standing(classifier: Classifier, pixels: Tensor, labels: Tensor) -> Tensor:
    """Return the rows that are still classified as labelled."""
    return (margin(_logits(classifier, pixels), labels) >= 0).nonzero()[:, 0]


def targeted_dlr(classifier: Classifier, labels: Tensor, goals: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the targeted difference of logits ratio ``[B]``: ``-(z_y - z_t) / (z_1 - (z_3 + z_4) / 2)``.

    With fewer than four classes the denominator is the range of the logits.
    """

    def loss(unit: Tensor) -> Tensor:
        logits = classifier(unit)
        ordered = logits.sort(dim=1, descending=True).values
        tail = (ordered[:, 2] + ordered[:, 3]) / 2 if logits.shape[1] > 3 else ordered[:, -1]
        own, other = (logits.gather(1, index[:, None])[:, 0] for index in (labels, goals))
        return (other - own) / (ordered[:, 0] - tail + 1e-12)

    return loss


def apgd(
    loss: Callable[[Tensor], Tensor], unit: Tensor, eps: float, steps: int, generator: torch.Generator
) -> Tensor:
    """Return the iterate of the highest loss of Auto-PGD (Croce and Hein 2020, algorithm 1), max-norm.

    The step starts at twice ``eps`` and is halved for an image whose loss rose in less than 75 % of the
    steps since the last checkpoint, or neither its step nor its best loss has changed since; then it
    goes on from its best iterate.

    Args:
        loss: Images -> ``[B]``, increased for every image on its own.
        unit: Clean images ``[B, 3, H, W]``.
        eps: Bound, on the 0..255 scale.
        steps: Number of gradient steps.
        generator: Random start.
    """
    checkpoints = _checkpoints(steps)
    start = (2 * torch.rand(unit.shape, generator=generator) - 1).to(unit)
    moved = before = within(unit + eps / 255 * start, unit, eps)
    value, slope = _value_and_slope(loss, moved)
    best, best_value, best_slope = moved.clone(), value.clone(), slope.clone()
    size = torch.full((len(unit), 1, 1, 1), 2 * eps / 255, device=unit.device)
    rises = torch.zeros(len(unit), device=unit.device)
    halved = torch.zeros(len(unit), dtype=torch.bool, device=unit.device)
    last, last_value = 0, best_value.clone()
    for step in range(1, steps + 1):
        ahead = within(moved + size * slope.sign(), unit, eps)
        share = _MOMENTUM if step > 1 else 1.0
        moved, before = (
            within(moved + share * (ahead - moved) + (1 - share) * (moved - before), unit, eps),
            moved,
        )
        old = value
        value, slope = _value_and_slope(loss, moved)
        rises += value > old
        better = value > best_value
        best[better], best_value[better], best_slope[better] = moved[better], value[better], slope[better]
        if step in checkpoints:
            stuck = ~halved & (best_value <= last_value)
            halved = (rises < 0.75 * (step - last)) | stuck
            size[halved] /= 2
            moved = torch.where(halved.view(-1, 1, 1, 1), best, moved)
            value = torch.where(halved, best_value, value)
            slope = torch.where(halved.view(-1, 1, 1, 1), best_slope, slope)
            rises.zero_()
            last, last_value = step, best_value.clone()
    return best


def _checkpoints(steps: int) -> set[int]:
    """Return the steps at which sizes may be halved: 0.22 of all, then ever shorter periods."""
    points, previous, current = [], 0.0, 0.22
    while current <= 1:
        points.append(math.ceil(current * steps))
        previous, current = current, current + max(current - previous - 0.03, 0.06)
    return set(points)


def _value_and_slope(loss: Callable[[Tensor], Tensor], unit: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss ``[B]`` and its gradient ``[B, 3, H, W]``."""
    unit = unit.detach().requires_grad_(True)
    value = loss(unit)
    (slope,) = torch.autograd.grad(value.sum(), unit)
    return value.detach(), slope


def square(
    classifier: Classifier,
    unit: Tensor,
    labels: Tensor,
    eps: float,
    queries: int,
    generator: torch.Generator,
) -> Tensor:
    """Return images after Square, a random search without gradients (Andriushchenko et al. 2020), max-norm.

    It starts from vertical stripes of ±eps and proposes squares of one colour; a proposal is kept where
    it lowers the margin.
    """
    count, _, height, width = unit.shape

    def signs(*shape: int) -> Tensor:
        return (2 * torch.randint(2, shape, generator=generator) - 1).to(unit)

    moved = within(unit + eps / 255 * signs(count, 3, 1, width), unit, eps)
    with torch.no_grad():
        lowest = margin(classifier(moved), labels)
        for query in range(queries):
            share = _SQUARES[0] / 2 ** sum(query >= stage * queries for stage in _SQUARES[1])
            side = max(1, min(round(math.sqrt(share * height * width)), height, width))
            top, left = (
                int(torch.randint(total - side + 1, (1,), generator=generator)) for total in (height, width)
            )
            proposal = moved.clone()
            box = (..., slice(top, top + side), slice(left, left + side))
            proposal[box] = unit[box] + eps / 255 * signs(count, 3, 1, 1)
            proposal = within(proposal, unit, eps)
            value = margin(classifier(proposal), labels)
            better = value < lowest
            moved[better], lowest[better] = proposal[better], value[better]
    return moved


class _Module(nn.Module):
    """A classifier as the library wants it."""

    def __init__(self, classifier: Classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, unit: Tensor) -> Tensor:
        return self.classifier(unit)


def standard(classifier: Classifier, pixels: Tensor, labels: Tensor, eps: float, seed: int) -> Tensor:
    """Return uint8 images after the standard version of the library ``pyautoattack``.

    Raises:
        UsageError: The library is not installed.
    """
    try:
        from pyautoattack import AutoAttack as Library
    except ImportError:
        raise UsageError(
            "the standard AutoAttack needs the package pyautoattack; pip install 'platodef[autoattack]', "
            "or use the reduced one"
        ) from None
    unit = pixels.float() / 255
    adversary = Library(_Module(classifier), device=unit.device, eps=eps / 255, norm="Linf", seed=seed)
    moved, _ = adversary.run_standard_evaluation(unit, labels, batch_size=len(unit))
    return rounded(moved, pixels, eps)
