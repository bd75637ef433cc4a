"""Linear probe: a closed-form ridge classifier with its penalty chosen by leave-one-out accuracy.

One eigendecomposition serves every penalty, so the probe costs about as much as one matrix product;
see Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning", 3.4.1 and 7.10 for the
leave-one-out formula.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from platodef_cli.errors import InconclusiveError, UsageError

PENALTIES = tuple(10.0 ** (exponent / 2) for exponent in range(-10, 5))  # per sample: 1e-5 .. 1e2
_ROWS = 4096  # rows per block
_HELD_OUT = 4096  # leave-one-out rows that choose the penalty


@dataclass(frozen=True)
class LinearProbe:
    """A fitted linear classifier of features.

    Attributes:
        classes: int64 ``[C]``, the labels in ascending order.
        mean: float32 ``[D]``, subtracted from the features.
        scale: float32 ``[D]``, divides the features.
        weight: float32 ``[D, C]``.
        bias: float32 ``[C]``.
        penalty: Chosen ridge penalty per sample.
    """

    classes: Tensor
    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    penalty: float

    @classmethod
    def fit(cls, features: Tensor, labels: Tensor, seed: int = 0) -> "LinearProbe":
        """Fit one-against-rest ridge regression on ±1 targets of standardised features.

        Args:
            features: float ``[N, D]``.
            labels: int64 ``[N]``; any integers.
            seed: Chooses the rows whose leave-one-out error selects the penalty, where N is large.

        Raises:
            UsageError: Shapes do not match, or a feature is not finite.
            InconclusiveError: There are fewer than two classes.
        """
        _check(features, labels)
        classes, index = torch.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise InconclusiveError(f"a linear probe needs at least two classes, got {len(classes)}")
        x = features.float()
        mean = x.double().mean(dim=0).float()
        deviation = (x - mean).double().square().mean(dim=0).sqrt().float()
        # A constant dimension carries nothing; dividing it by 1 keeps it at 0.
        scale = torch.where(deviation > 1e-6 * (mean.abs() + 1e-30), deviation, torch.ones_like(deviation))
        x = (x - mean) / scale
        y = torch.full((len(x), len(classes)), -1.0)
        y[torch.arange(len(x)), index] = 1.0
        weight, bias, penalty = _ridge(x, y, index, seed)
        return cls(classes, mean, scale, weight, bias, penalty)

    def scores(self, features: Tensor) -> Tensor:
        """Return the regression output, float32 ``[N, C]``, of ``features`` ``[N, D]``."""
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise UsageError(
                f"the probe was fitted on [N, {len(self.mean)}] features, got {list(features.shape)}"
            )
        return ((features.float() - self.mean) / self.scale) @ self.weight + self.bias

    def predict(self, features: Tensor) -> Tensor:
        """Return the predicted labels, int64 ``[N]``, of ``features`` ``[N, D]``."""
        return self.classes[self.scores(features).argmax(dim=1)]

    def accuracy(self, features: Tensor, labels: Tensor) -> float:
        """Return the share of ``features`` ``[N, D]`` whose prediction equals ``labels`` ``[N]``."""
        return float((self.predict(features) == labels).double().mean())


def _check(features: Tensor, labels: Tensor) -> None:
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise UsageError(
            f"a linear probe needs features [N, D] and labels [N], got {list(features.shape)} and "
            f"{list(labels.shape)}"
        )
    if not torch.isfinite(features).all():
        raise UsageError("a linear probe needs finite features; some are NaN or infinite")


def _ridge(x: Tensor, y: Tensor, index: Tensor, seed: int) -> tuple[Tensor, Tensor, float]:
    """Return weight ``[D, C]``, bias ``[C]`` and penalty of centred ``x`` ``[N, D]``, ``y`` ``[N, C]``."""
    n, d = x.shape
    bias = y.mean(dim=0)
    y = y - bias  # the features are centred, so the intercept is the mean target at every penalty
    # The smaller Gram matrix gives the same non-zero spectrum: primal X'X or dual XX'.
    dual = n < d
    gram = _gram(x.T) if dual else _gram(x)
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp_min(0.0)
    if dual:
        projected = vectors * values.sqrt()  # [N, N], the rows of X in the eigenbasis
    else:
        projected = x @ vectors.float()  # [N, D]
    moment = (projected.T.to(y.dtype) @ y).double()  # [D or N, C]
    penalty = _choose(projected, values, moment, y, bias, index, seed)
    coefficient = moment / (values + penalty * n)[:, None]
    if dual:
        # X'U Λ^-1/2 maps back to the feature space; null directions carry no moment.
        inverse = torch.where(values > values.max() * 1e-10, values.rsqrt(), torch.zeros_like(values))
        weight = x.T.double() @ (vectors @ (inverse[:, None] * coefficient))
    else:
        weight = vectors @ coefficient
    return weight.float(), bias, penalty


def _gram(x: Tensor) -> Tensor:
    """Return ``x' x`` in float64, from float32 products of blocks of rows."""
    total = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for start in range(0, len(x), _ROWS):
        block = x[start : start + _ROWS]
        total += (block.T @ block).double()
    return total


def _choose(
    projected: Tensor, values: Tensor, moment: Tensor, y: Tensor, bias: Tensor, index: Tensor, seed: int
) -> float:
    """Return the penalty of the best exact leave-one-out accuracy on at most ``_HELD_OUT`` rows.

    Leaving row i out changes its fit to ``y - (y - fit) / (1 - h_i)`` with the leverage
    ``h_i = 1/n + z_i' (Λ + penalty)^-1 z_i``. The larger penalty wins a tie.
    """
    n = len(y)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(n, generator=generator)[:_HELD_OUT].sort().values
    z, target, truth = projected[rows].float(), y[rows], index[rows]
    squares = z.square()
    best, chosen = -1, float(PENALTIES[-1])
    for penalty in reversed(PENALTIES):
        inverse = 1 / (values + penalty * n)
        fit = z @ (moment * inverse[:, None]).float()
        leverage = (squares @ inverse.float() + 1 / n).clamp(max=1 - 1e-4)
        left_out = target - (target - fit) / (1 - leverage)[:, None]
        correct = int(((left_out + bias).argmax(dim=1) == truth).sum())
        if correct > best:
            best, chosen = correct, float(penalty)
    return chosen
