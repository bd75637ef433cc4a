"""The closed-form head: ridge regression r -> s and the joint Gaussian around it.

For jointly Gaussian ``(s, r)`` the posterior of the source is ``N(W' r, C)``: its mean is the ridge
prediction, its log density ratio against ``N(0, S)`` is the optimal energy up to sign, and its
denoiser is ``mu + C (C + sigma^2 I)^-1 (x - mu)``. All of it follows from second moments, so they are
kept and every subset of the references has its own closed form.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from platodef_cli.errors import UsageError

PENALTIES = tuple(10.0 ** (k / 4) for k in range(-20, 9))  # relative to the mean variance of a dimension
MOST_DEGREES = 0.9  # effective degrees of freedom per row that a fit may use
VARIANCE_FLOOR = 1e-4  # of a standardised dimension; below it float32 features are rounding noise


def exact_product(left: Tensor, right: Tensor) -> Tensor:
    """Return ``left @ right`` in the precision of ``right``, also where training runs under autocast.

    Squared lengths of hundreds of nats decide the logit, so bfloat16 would drown it in rounding.
    """
    with torch.autocast(left.device.type, enabled=False):
        return left.to(right.dtype) @ right


@dataclass(frozen=True)
class GaussianPosterior:
    """``p(s | r) = N(W' r, V diag(values) V')`` for one subset of the references.

    Attributes:
        weights: ``[D_r, D_s]`` over the concatenated references; rows of dropped references are zero.
        values: ``[D_s]`` eigenvalues of the residual covariance, ascending, positive.
        vectors: ``[D_s, D_s]``, its eigenvectors in columns.
        penalty: The chosen ridge penalty, in the units of a mean square.
        degrees: Effective degrees of freedom ``trace(H)``.
    """

    weights: Tensor
    values: Tensor
    vectors: Tensor
    penalty: float
    degrees: float

    def mean(self, references: Tensor) -> Tensor:
        """Return the posterior mean ``[B, D_s]`` of the standardised references ``[B, D_r]``."""
        return exact_product(references, self.weights)

    def shaped(self, rows: Tensor, scale: Tensor) -> Tensor:
        """Return ``V diag(scale) V' rows`` for ``rows`` ``[B, D_s]`` and ``scale`` ``[B or 1, D_s]``."""
        return exact_product(exact_product(rows, self.vectors) * scale, self.vectors.T)

    def mahalanobis(self, residual: Tensor) -> Tensor:
        """Return the squared Mahalanobis length ``[B]`` of ``residual`` ``[B, D_s]``."""
        return (exact_product(residual, self.vectors).square() / self.values).sum(dim=1)

    def denoise(self, x: Tensor, sigma: Tensor, references: Tensor) -> Tensor:
        """Return the optimal Gaussian denoiser ``E[s | x = s + sigma eps, r]`` ``[B, D_s]``.

        Args:
            x: Noisy standardised sources ``[B, D_s]``.
            sigma: Noise levels ``[B]`` or scalar.
            references: Standardised references ``[B, D_r]``.
        """
        mean = self.mean(references)
        noise = sigma.reshape(-1, 1).square()
        return mean + self.shaped(x - mean, self.values / (self.values + noise))


@dataclass(frozen=True)
class Ridge:
    """Second moments of standardised ``(s, r)`` and the closed forms that follow from them.

    Attributes:
        reference_dims: Lengths ``D_m`` of the references, in order.
        reference_moment: ``[D_r, D_r]`` mean of ``r r'``.
        cross_moment: ``[D_r, D_s]`` mean of ``r s'``.
        source_moment: ``[D_s, D_s]`` mean of ``s s'``.
        count: Number of rows behind the moments.
    """

    reference_dims: tuple[int, ...]
    reference_moment: Tensor
    cross_moment: Tensor
    source_moment: Tensor
    count: int
    _posteriors: dict[tuple[bool, ...], GaussianPosterior] = field(
        default_factory=dict, compare=False, repr=False
    )

    def keep_mask(self, keep: Sequence[bool] | None) -> tuple[bool, ...]:
        """Return ``keep`` as one bool per reference (None keeps all).

        Raises:
            UsageError: The length differs from the number of references.
        """
        if keep is None:
            return (True,) * len(self.reference_dims)
        if len(keep) != len(self.reference_dims):
            raise UsageError(f"keep has {len(keep)} entries for {len(self.reference_dims)} references")
        return tuple(bool(flag) for flag in keep)

    def posterior(self, keep: Sequence[bool] | None = None) -> GaussianPosterior:
        """Return the Gaussian posterior given a subset of the references (None: all of them).

        The penalty minimises the generalised leave-one-out error (GCV), whole path from one
        eigendecomposition; without references the posterior is the marginal ``N(0, S)``.
        """
        mask = self.keep_mask(keep)
        if mask not in self._posteriors:
            self._posteriors[mask] = self._solve(mask)
        return self._posteriors[mask]

    def mahalanobis(self, source: Tensor, references: Tensor, keep: Sequence[bool] | None = None) -> Tensor:
        """Return the squared Mahalanobis length ``[B]`` of the ridge residual.

        Args:
            source: Standardised sources ``[B, D_s]``.
            references: Concatenated standardised references ``[B, D_r]``.
            keep: Which references to use.
        """
        posterior = self.posterior(keep)
        return posterior.mahalanobis(source - posterior.mean(references))

    def mutual_information(self, keep: Sequence[bool] | None = None) -> float:
        """Return ``I(s; r)`` in nats under the joint Gaussian."""
        marginal = self.posterior((False,) * len(self.reference_dims))
        gap = marginal.values.double().log().sum() - self.posterior(keep).values.double().log().sum()
        return 0.5 * float(gap)

    def leverage(self, references: Tensor, keep: Sequence[bool] | None = None) -> Tensor:
        """Return each fitted row's leverage ``h_ii`` ``[B]``, clamped below 0.9.

        With it the leave-one-out prediction of a row that was fitted on is ``(mu - h s) / (1 - h)``.
        """
        mask = self.keep_mask(keep)
        rows = self._rows(mask)
        if not len(rows):
            return references.new_zeros(len(references))
        penalty = self.posterior(mask).penalty
        moment = self.reference_moment[rows][:, rows].double()
        moment.diagonal().add_(penalty)
        kept = references[:, rows.to(references.device)]
        solved = kept @ torch.linalg.inv(moment).to(kept)
        leverage: Tensor = (solved * kept).sum(dim=1) / self.count
        return leverage.clamp(0.0, 0.9)

    def _rows(self, mask: tuple[bool, ...]) -> Tensor:
        flags = [torch.full((dim,), kept) for dim, kept in zip(self.reference_dims, mask, strict=True)]
        return torch.cat(flags).nonzero().flatten()

    def _solve(self, mask: tuple[bool, ...]) -> GaussianPosterior:
        rows = self._rows(mask)
        source = self.source_moment.double()
        weights = source.new_zeros(sum(self.reference_dims), source.shape[0])
        penalty, degrees, covariance = 0.0, 0.0, source
        if len(rows):
            moment = self.reference_moment[rows][:, rows].double()
            cross = self.cross_moment[rows].double()
            if all(mask):
                solved = _solve_path(moment, cross, source, self.count)
            else:  # one path is enough: a subset takes the penalty of the whole
                solved = _solve_once(moment, cross, source, self.count, self.posterior().penalty)
            weights[rows], penalty, degrees, covariance = solved
        values, vectors = torch.linalg.eigh(shrink(covariance, self.count))
        # LAPACK returns columns first; one layout makes stored and fresh heads multiply alike, bit by bit
        return GaussianPosterior(
            weights.float().contiguous(),
            values.clamp_min(VARIANCE_FLOOR).float(),
            vectors.float().contiguous(),
            penalty,
            degrees,
        )


Solved = tuple[Tensor, float, float, Tensor]  # weights, penalty, degrees, residual covariance


def _solve_path(moment: Tensor, cross: Tensor, source: Tensor, count: int) -> Solved:
    """Solve for the penalty of least generalised leave-one-out error, from one eigendecomposition."""
    values, vectors = torch.linalg.eigh(moment)
    values = values.clamp_min(0.0)
    energy = (vectors.T @ cross).square().sum(dim=1)  # of a direction's covariance with the source
    total, scale = float(source.diagonal().sum()), float(values.mean())
    best = (math.inf, PENALTIES[-1] * scale)
    for factor in PENALTIES:
        penalty = factor * scale
        gain = 1.0 / (values + penalty)
        degrees = float((values * gain).sum())
        if degrees > MOST_DEGREES * count:
            continue  # nearly interpolating: the denominator is meaningless there
        error = total - 2 * float((gain * energy).sum()) + float((gain.square() * values * energy).sum())
        best = min(best, (error / (1.0 - degrees / count) ** 2, penalty))
    return _solve_once(moment, cross, source, count, best[1])


def _solve_once(moment: Tensor, cross: Tensor, source: Tensor, count: int, penalty: float) -> Solved:
    """Solve for one penalty."""
    damped = moment.clone()
    damped.diagonal().add_(penalty)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    weights = inverse @ cross
    degrees = min(len(moment) - penalty * float(inverse.diagonal().sum()), MOST_DEGREES * count)
    explained = weights.T @ cross
    residual = source - explained - explained.T + weights.T @ moment @ weights
    # leave-one-out residuals are r_i / (1 - h_ii); h_ii is replaced by its mean, as in GCV
    return weights, penalty, degrees, residual / (1.0 - degrees / count) ** 2


def shrink(covariance: Tensor, count: int) -> Tensor:
    """Shrink ``[D, D]`` towards its scaled identity by the oracle-approximating amount (Chen et al. 2010)."""
    size = covariance.shape[0]
    trace = float(covariance.diagonal().sum())
    square = float(covariance.square().sum())
    numerator = (1.0 - 2.0 / size) * square + trace**2
    denominator = (count + 1.0 - 2.0 / size) * (square - trace**2 / size)
    amount = 1.0 if denominator <= 0 else min(1.0, numerator / denominator)
    shrunk = (1.0 - amount) * covariance
    shrunk.diagonal().add_(amount * trace / size)
    return shrunk


def fit_ridge(source: Tensor, references: Sequence[Tensor]) -> Ridge:
    """Fit the closed-form head.

    Args:
        source: Standardised sources ``[N, D_s]``.
        references: Standardised references, ``[N, D_m]`` each.

    Raises:
        UsageError: Fewer than 10 rows.
    """
    if len(source) < 10:
        raise UsageError(f"{len(source)} feature tuples are too few to fit on; give at least 10")
    stacked = torch.cat(list(references), dim=1).double()
    target = source.double()
    count = len(target)
    return Ridge(
        reference_dims=tuple(int(reference.shape[1]) for reference in references),
        reference_moment=(stacked.T @ stacked / count).float().cpu(),
        cross_moment=(stacked.T @ target / count).float().cpu(),
        source_moment=(target.T @ target / count).float().cpu(),
        count=count,
    )
