"""Adversarial attacks at test time on a classifier of features: untargeted, white box, exact norms.

An attack gets a classifier that is differentiable down to the pixels (normalisation, encoder and linear
probe) and returns 8-bit images, so its norm holds for what a file or a camera would deliver.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from platodef_cli.progress import SILENT, Progress
from platodef_cli.triggers.variant import check, check_pixels

Classifier = Callable[[Tensor], Tensor]
"""float32 ``[B, 3, H, W]`` in [0, 1] -> logits ``[B, C]``, with gradients."""
Loss = Callable[[Tensor], Tensor]
"""float32 ``[B, 3, H, W]`` in [0, 1] -> what is to grow ``[B]``, with gradients."""
BATCH = 128


class AdversarialAttack(Protocol):
    """An attack. Implementations are frozen dataclasses whose fields are its parameters.

    Attributes:
        name: Its name in :data:`platodef_cli.bench.attacks.ADVERSARIAL`.
        paper: Where it was published.
        norm: What bounds (``linf``) or is minimised (``l2``).
        note: How it differs from the published attack ("reduced"), or empty.
    """

    @property
    def name(self) -> str:
        """Its name in the table."""

    @property
    def paper(self) -> str:
        """Where it was published."""

    @property
    def norm(self) -> Literal["linf", "l2"]:
        """What bounds or is minimised."""

    @property
    def note(self) -> str:
        """How it differs from the published attack."""

    def perturb(
        self,
        classifier: Classifier,
        pixels: Tensor,
        labels: Tensor,
        *,
        seed: int,
        progress: Progress = SILENT,
    ) -> Tensor:
        """Return uint8 images ``[N, 3, H, W]`` that the classifier shall get wrong.

        Args:
            classifier: What is attacked.
            pixels: uint8 ``[N, 3, H, W]`` at the encoder's input size; left untouched.
            labels: int64 ``[N]``, columns of the classifier's logits.
            seed: Random starts.
            progress: Receives one advance per image.

        Raises:
            UsageError: The images or a parameter are wrong.
        """


def in_batches(
    pixels: Tensor, labels: Tensor, title: str, progress: Progress, batch_size: int = BATCH
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield rows, float images in [0, 1] and labels, after checking them; reports the progress.

    Raises:
        UsageError: The images are not uint8 ``[N, 3, H, W]``, or there is not one label for each.
    """
    check_pixels(pixels)
    check(
        labels.shape == pixels.shape[:1], title, f"labels must be [{len(pixels)}], got {list(labels.shape)}"
    )
    with progress.step(title, len(pixels)) as task:
        for start in range(0, len(pixels), batch_size):
            rows = slice(start, min(start + batch_size, len(pixels)))
            yield rows, pixels[rows].float() / 255, labels[rows]
            task.advance(rows.stop - rows.start)


def within(unit: Tensor, clean: Tensor, eps: float) -> Tensor:
    """Clip ``unit`` to the ball of max-norm ``eps`` (0..255 scale) around ``clean`` and to [0, 1]."""
    return torch.minimum(torch.maximum(unit, clean - eps / 255), clean + eps / 255).clamp(0, 1)


def rounded(unit: Tensor, pixels: Tensor, eps: float) -> Tensor:
    """Return uint8 images nearest to ``unit``, at most ``floor(eps)`` from uint8 ``pixels``."""
    reach = int(eps + 1e-9)
    change = (unit * 255).round().int() - pixels.int()
    return (pixels.int() + change.clamp(-reach, reach)).clamp(0, 255).to(torch.uint8)


def gradient(loss: Loss, unit: Tensor) -> Tensor:
    """Return the gradient ``[B, 3, H, W]`` of the sum of ``loss`` ``[B]`` at ``unit``."""
    unit = unit.detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(loss(unit).sum(), unit)
    return slope


def cross_entropy(classifier: Classifier, labels: Tensor) -> Loss:
    """Return the loss ``[B]`` that an untargeted attack increases."""
    return lambda unit: F.cross_entropy(classifier(unit), labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return ``[B]``, the label's logit minus the largest other one; negative: misclassified."""
    own = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], float("-inf")).max(dim=1).values
    return own - others


class _SignSteps:
    """Attacks inside a ball of the max-norm that differ in the steps they take; fields as in them."""

    eps: float
    name: ClassVar[str]
    norm: ClassVar[Literal["linf", "l2"]] = "linf"
    note = ""

    def __post_init__(self) -> None:
        check(self.eps >= 1, self.name, f"eps={self.eps} must be at least 1 (of 255)")

    def perturb(
        self,
        classifier: Classifier,
        pixels: Tensor,
        labels: Tensor,
        *,
        seed: int,
        progress: Progress = SILENT,
    ) -> Tensor:
        """Attack; see :class:`AdversarialAttack`."""
        generator = torch.Generator().manual_seed(seed)
        out = torch.empty_like(pixels)
        for rows, unit, wanted in in_batches(pixels, labels, self.name, progress):
            moved = self._move(cross_entropy(classifier, wanted), unit, generator)
            out[rows] = rounded(moved, pixels[rows], self.eps)
        return out

    def _move(self, loss: Loss, unit: Tensor, generator: torch.Generator) -> Tensor:
        """Return images within ``eps`` of ``unit``, float32 ``[B, 3, H, W]`` in [0, 1], of a larger loss."""
        raise NotImplementedError


@dataclass(frozen=True)
class Fgsm(_SignSteps):
    """FGSM: one step of ``eps`` along the sign of the gradient of the cross-entropy.

    Attributes:
        eps: Bound of the max-norm, on the 0..255 scale.
    """

    eps: float = 8.0

    name = "fgsm"
    paper = "Goodfellow et al., Explaining and Harnessing Adversarial Examples, ICLR 2015"

    def _move(self, loss: Loss, unit: Tensor, generator: torch.Generator) -> Tensor:
        return within(unit + self.eps / 255 * gradient(loss, unit).sign(), unit, self.eps)


@dataclass(frozen=True)
class Pgd(_SignSteps):
    """PGD: projected sign steps from a random start in the ball.

    Attributes:
        eps: Bound of the max-norm, on the 0..255 scale.
        step: Size of a step, on the same scale.
        steps: Number of steps.
    """

    eps: float = 8.0
    step: float = 2.0
    steps: int = 10

    name = "pgd"
    paper = "Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.step > 0 and self.steps >= 1, self.name, "step and steps must be positive")

    def _move(self, loss: Loss, unit: Tensor, generator: torch.Generator) -> Tensor:
        start = (2 * torch.rand(unit.shape, generator=generator) - 1).to(unit)
        moved = within(unit + self.eps / 255 * start, unit, self.eps)
        for _ in range(self.steps):
            moved = within(moved + self.step / 255 * gradient(loss, moved).sign(), unit, self.eps)
        return moved


@dataclass(frozen=True)
class MiFgsm(Pgd):
    """MI-FGSM: PGD without the random start, along an accumulated gradient of unit mean size.

    Attributes:
        eps: Bound of the max-norm, on the 0..255 scale.
        step: Size of a step, on the same scale.
        steps: Number of steps.
        decay: Weight of what was accumulated before.
    """

    decay: float = 1.0

    name = "mi-fgsm"
    paper = "Dong et al., Boosting Adversarial Attacks with Momentum, CVPR 2018"

    def _move(self, loss: Loss, unit: Tensor, generator: torch.Generator) -> Tensor:
        moved, momentum = unit, torch.zeros_like(unit)
        for _ in range(self.steps):
            slope = gradient(loss, moved)
            size = slope.abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-30)
            momentum = self.decay * momentum + slope / size
            moved = within(moved + self.step / 255 * momentum.sign(), unit, self.eps)
        return moved
