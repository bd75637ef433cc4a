"""Linear probe: a closed-form ridge classifier with its penalty chosen by leave-one-out accuracy.

One eigendecomposition serves every penalty, so the probe costs about as much as one matrix product;
see Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning", 3.4.1 and 7.10 for the
leave-one-out formula.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from platodef_cli.errors import InconclusiveError, UsageError
from platodef_cli.metrics.products import add_gram, all_finite, gram, mirrored, row_blocks

PENALTIES = tuple(10.0 ** (exponent / 2) for exponent in range(-10, 5))  # per sample: 1e-5 .. 1e2
_NEAR = 1024  # rows whose mean the moments are taken around
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
        bias = 2 * torch.bincount(index, minlength=len(classes)).float() / len(index) - 1
        fit = _dual if len(features) < features.shape[1] else _primal
        data, weight, penalty = fit(features, index, bias, seed)
        return cls(classes, data.mean, data.scale, weight, bias, penalty)

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
    if not all_finite(features):
        raise UsageError("a linear probe needs finite features; some are NaN or infinite")


@dataclass(frozen=True)
class _Standardised:
    """Features and labels of a fit; rows are standardised when they are looked at.

    Attributes:
        features: ``[N, D]``.
        index: int64 ``[N]``, the class of every row.
        mean: float32 ``[D]``.
        scale: float32 ``[D]``.
        bias: float32 ``[C]``, the mean targets. The features are centred, so that it is the intercept at
            every penalty.
    """

    features: Tensor
    index: Tensor
    mean: Tensor
    scale: Tensor
    bias: Tensor

    def rows(self, which: Tensor) -> Tensor:
        """Return standardised rows, float32 ``[n, D]``."""
        return (self.features[which].float() - self.mean) / self.scale

    def targets(self, which: Tensor) -> Tensor:
        """Return the centred targets of rows, float32 ``[n, C]``: 1 for the class, -1 for the others."""
        y = torch.full((len(which), len(self.bias)), -1.0) - self.bias
        y[torch.arange(len(which)), self.index[which]] += 2
        return y


def _scale(variance: Tensor, mean: Tensor) -> Tensor:
    """Return the deviations; a constant dimension carries nothing, and dividing it by 1 keeps it at 0."""
    deviation = variance.clamp_min(0).sqrt()
    return torch.where(deviation > 1e-6 * (mean.abs() + 1e-30), deviation, torch.ones_like(deviation)).float()


Fitted = tuple[_Standardised, Tensor, float]  # data, weight [D, C], penalty


def _primal(features: Tensor, index: Tensor, bias: Tensor, seed: int) -> Fitted:
    """Fit through the moments of the features, ``[D, D]``: one pass over the rows, which are not copied."""
    n, d = features.shape
    # moments around a value near the mean do not cancel; those around the mean itself follow at the end
    near = features[: min(n, _NEAR)].double().mean(dim=0).float()
    total = torch.zeros(d, d, dtype=torch.float64)
    sums = torch.zeros(len(bias), d, dtype=torch.float64)
    for rows in row_blocks(n):
        block = features[rows].float() - near
        add_gram(total, block)
        # X'Y of targets that are 1 for one class and -1 for the others needs the sum of every class only
        sums += torch.zeros(len(bias), d).index_add_(0, index[rows], block)
    offset = sums.sum(dim=0) / n
    mean = near.double() + offset
    moment = mirrored(total) - n * torch.outer(offset, offset)
    scale = _scale(moment.diagonal() / n, mean)
    data = _Standardised(features, index, mean.float(), scale, bias)
    sums = (sums - torch.bincount(index, minlength=len(bias))[:, None] * offset) / scale
    values, vectors = torch.linalg.eigh(moment / torch.outer(scale, scale))
    values = values.clamp_min(0.0)
    crossed = vectors.T @ (2 * sums).T
    held = _held_out(n, seed)
    penalty = _choose(data.rows(held) @ vectors.float(), values, crossed, data, held)
    return data, (vectors @ (crossed / (values + penalty * n)[:, None])).float(), penalty


def _dual(features: Tensor, index: Tensor, bias: Tensor, seed: int) -> Fitted:
    """Fit fewer rows than dimensions through ``X X'``, which has the same non-zero spectrum."""
    n = len(features)
    mean = features.double().mean(dim=0)
    variance = (features.double() - mean).square().mean(dim=0)
    data = _Standardised(features, index, mean.float(), _scale(variance, mean), bias)
    every = torch.arange(n)
    x = data.rows(every)
    values, vectors = torch.linalg.eigh(gram(x.T))
    values = values.clamp_min(0.0)
    projected = vectors * values.sqrt()  # [N, N], the rows of X in the eigenbasis
    crossed = (projected.T.float() @ data.targets(every)).double()
    rows = _held_out(n, seed)
    penalty = _choose(projected[rows].float(), values, crossed, data, rows)
    # X'U Λ^-1/2 maps back to the feature space; null directions carry no moment.
    inverse = torch.where(values > values.max() * 1e-10, values.rsqrt(), torch.zeros_like(values))
    coefficient = crossed / (values + penalty * n)[:, None]
    return data, (x.T.double() @ (vectors @ (inverse[:, None] * coefficient))).float(), penalty


def _held_out(n: int, seed: int) -> Tensor:
    """Return the rows whose leave-one-out error selects the penalty, ascending."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:_HELD_OUT].sort().values


def _choose(z: Tensor, values: Tensor, moment: Tensor, data: _Standardised, rows: Tensor) -> float:
    """Return the penalty of the best exact leave-one-out accuracy on some rows.

    Leaving row i out changes its fit to ``y - (y - fit) / (1 - h_i)`` with the leverage
    ``h_i = 1/n + z_i' (Λ + penalty)^-1 z_i``. The larger penalty wins a tie.

    Args:
        z: The rows in the eigenbasis, float32 ``[n, D]``.
        values: The spectrum Λ, float64 ``[D]``.
        moment: ``Z'Y`` of all rows, float64 ``[D, C]``.
        data: All rows.
        rows: Which of them ``z`` holds.
    """
    n = len(data.index)
    target, truth = data.targets(rows), data.index[rows]
    squares = z.square()
    best, chosen = -1, float(PENALTIES[-1])
    for penalty in reversed(PENALTIES):
        inverse = 1 / (values + penalty * n)
        fit = z @ (moment * inverse[:, None]).float()
        leverage = (squares @ inverse.float() + 1 / n).clamp(max=1 - 1e-4)
        left_out = target - (target - fit) / (1 - leverage)[:, None]
        correct = int(((left_out + data.bias).argmax(dim=1) == truth).sum())
        if correct > best:
            best, chosen = correct, float(penalty)
    return chosen
