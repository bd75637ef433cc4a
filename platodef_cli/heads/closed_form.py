"""The Gaussian start of the networks: ridge posteriors over lifted references.

Each reference is lifted to itself plus random ReLU features of its leading principal components
(Rahimi & Recht 2007), which lets a closed form follow smooth nonlinear maps; on the lifted features
everything is the joint Gaussian of :mod:`platodef_cli.heads.ridge`. No step of it is iterative.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from platodef_cli.errors import UsageError
from platodef_cli.heads.ridge import GaussianPosterior, exact_product, fit_ridge

Mask = tuple[bool, ...]
Group = tuple[Tensor | None, GaussianPosterior]
COMPONENTS = 32  # principal components of a reference that the random features look at
OFFSET_STD = 0.5  # spread of the ReLU thresholds, in standard deviations of their input
PARTS = ("weights", "values", "vectors")


@dataclass(frozen=True)
class Lift:
    """One reference's map ``r -> standardise([r, relu(r A + b)])``.

    Attributes:
        directions: A ``[D_m, F]``.
        offsets: b ``[F]``.
        mean: ``[D_m + F]`` of the lifted fitted rows.
        std: ``[D_m + F]``, positive.
    """

    directions: Tensor
    offsets: Tensor
    mean: Tensor
    std: Tensor

    def apply(self, values: Tensor) -> Tensor:
        """Return lifted rows ``[B, D_m + F]`` of standardised ``values`` ``[B, D_m]``."""
        hidden = torch.relu(exact_product(values, self.directions) + self.offsets)
        return (torch.cat([values, hidden], dim=1) - self.mean) / self.std


def fit_lift(values: Tensor, features: int, generator: torch.Generator) -> Lift:
    """Draw the random features of one standardised reference ``[N, D_m]``."""
    size = values.shape[1]
    moment = (values.double().T @ values.double()) / len(values)
    variances, axes = torch.linalg.eigh(moment)
    kept = min(COMPONENTS, size)
    # half-whitening: leading components keep some of their dominance, the tail is not amplified
    basis = axes[:, -kept:] / variances[-kept:].clamp_min(1e-6).pow(0.25)
    directions = basis @ torch.randn(kept, features, generator=generator, dtype=torch.float64)
    spread = (directions * (moment @ directions)).sum(dim=0).sqrt().clamp_min(1e-12)
    directions = (directions / spread).float().contiguous()
    offsets = torch.randn(features, generator=generator) * OFFSET_STD
    raw = Lift(directions, offsets, torch.zeros(size + features), torch.ones(size + features))
    lifted = raw.apply(values)
    mean, std = lifted.mean(dim=0), lifted.std(dim=0)
    return Lift(directions, offsets, mean, torch.where(std > 1e-6, std, torch.ones_like(std)))


class ClosedForm(nn.Module):
    """Gaussian posteriors over lifted references, one per prepared subset, as buffers that move along.

    Args:
        lifts: One lift per reference.
        posteriors: Subset of the references -> posterior over the concatenated lifted references;
            the empty subset (the marginal) must be among them.
    """

    def __init__(self, lifts: Sequence[Lift], posteriors: Mapping[Mask, GaussianPosterior]):
        super().__init__()
        self.masks = tuple(posteriors)
        self.references = len(lifts)
        self._scalars = [(entry.penalty, entry.degrees) for entry in posteriors.values()]
        for number, lift in enumerate(lifts):
            for part in ("directions", "offsets", "mean", "std"):
                self.register_buffer(f"lift_{number}_{part}", getattr(lift, part), persistent=False)
        for number, posterior in enumerate(posteriors.values()):
            for part in PARTS:
                self.register_buffer(f"posterior_{number}_{part}", getattr(posterior, part), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the buffers live."""
        return self.get_buffer("posterior_0_weights").device

    def lift(self, references: Sequence[Tensor]) -> Tensor:
        """Return the lifted references side by side ``[B, sum(D_m + F)]``."""
        return torch.cat([self.lift_of(n).apply(values) for n, values in enumerate(references)], dim=1)

    def lift_of(self, number: int) -> Lift:
        """Return the lift of a reference."""
        return Lift(
            *(self.get_buffer(f"lift_{number}_{p}") for p in ("directions", "offsets", "mean", "std"))
        )

    def posterior(self, mask: Sequence[bool] | None = None) -> GaussianPosterior:
        """Return the posterior for one prepared subset (None: all references).

        Raises:
            UsageError: The subset was not prepared when the heads were fitted.
        """
        key = (True,) * self.references if mask is None else tuple(bool(flag) for flag in mask)
        if key not in self.masks:
            kept = [number for number, flag in enumerate(key) if flag]
            raise UsageError(f"the heads were not prepared for the subset {kept} of their references")
        number = self.masks.index(key)
        weights, values, vectors = (self.get_buffer(f"posterior_{number}_{part}") for part in PARTS)
        return GaussianPosterior(weights, values, vectors, *self._scalars[number])

    def marginal(self) -> GaussianPosterior:
        """Return ``p(s)``, the posterior without references."""
        return self.posterior((False,) * self.references)

    def groups(self, batch: int, keep: Tensor | None) -> list[Group]:
        """Return ``(rows, posterior)`` for every distinct subset in ``keep`` ``[B, M]`` (None keeps all)."""
        if keep is None:
            return [(None, self.posterior())]
        masks, which = torch.unique(keep.bool(), dim=0, return_inverse=True)
        if len(masks) == 1:
            return [(None, self.posterior(masks[0].tolist()))]
        return [
            ((which == number).nonzero().flatten(), self.posterior(mask.tolist()))
            for number, mask in enumerate(masks)
        ]

    def ratio(self, source: Tensor, residual: Tensor, posterior: GaussianPosterior, widen: float) -> Tensor:
        """Return ``ln p(s | r) - ln N(s; 0, widen S)`` ``[B]``, nats.

        ``widen = 1`` is the joint-Gaussian log density ratio. Attacked sources also land off the clean
        manifold, where a narrow marginal would excuse any residual; a wider one does not.

        Args:
            source: Standardised sources ``[B, D_s]``.
            residual: ``source`` minus the posterior mean.
            posterior: The posterior that ``residual`` belongs to.
            widen: Factor on the marginal covariance S.
        """
        marginal = self.marginal()
        quadratic = marginal.mahalanobis(source) / widen - posterior.mahalanobis(residual)
        determinant = (marginal.values * widen).log().sum() - posterior.values.log().sum()
        return 0.5 * (quadratic + determinant)

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that is stored, by name."""
        return dict(self.named_buffers())


def prepared_subsets(references: int) -> list[Mask]:
    """Return the subsets to prepare: every one up to 3 references, else none, singles, all but one, all."""
    every = product((False, True), repeat=references)
    wanted = set(range(references + 1)) if references <= 3 else {0, 1, references - 1, references}
    return [mask for mask in every if sum(mask) in wanted]


def fit_closed_form(
    source: Tensor,
    references: Sequence[Tensor],
    *,
    features: int,
    seed: int,
    advance: Callable[[], object] = lambda: None,
) -> tuple[ClosedForm, dict[Mask, Tensor]]:
    """Fit the Gaussian start.

    Args:
        source: Standardised sources ``[N, D_s]``.
        references: Standardised references, ``[N, D_m]`` each.
        features: Random features F per reference; 0 is the linear ridge.
        seed: Seed of the random features.
        advance: Called after every of the :func:`closed_form_steps`.

    Returns:
        The closed form, and for every prepared subset the leverage ``[N]`` of the fitted rows.
    """
    generator = torch.Generator().manual_seed(seed)
    lifts = [fit_lift(values, features, generator) for values in references]
    lifted = [lift.apply(values) for lift, values in zip(lifts, references, strict=True)]
    ridge = fit_ridge(source, lifted)
    masks = prepared_subsets(len(lifts))
    stacked = torch.cat(lifted, dim=1)
    leverage, posteriors = {}, {}
    for mask in masks:
        advance()
        leverage[mask], posteriors[mask] = ridge.leverage(stacked, mask), ridge.posterior(mask)
    advance()
    return ClosedForm(lifts, posteriors), leverage


def closed_form_steps(references: int) -> int:
    """Return how often :func:`fit_closed_form` calls ``advance`` for so many references."""
    return len(prepared_subsets(references)) + 1


def restore_closed_form(
    tensors: Mapping[str, Tensor], dims: Sequence[int], source_dim: int, features: int
) -> ClosedForm:
    """Rebuild a closed form from :meth:`ClosedForm.tensors`.

    Raises:
        UsageError: A tensor is missing, unexpected or has the wrong shape.
    """
    left = dict(tensors)

    def take(name: str, *shape: int) -> Tensor:
        value = left.pop(name, None)
        if value is None or tuple(value.shape) != shape:
            state = "missing" if value is None else f"of shape {tuple(value.shape)}, expected {shape}"
            raise UsageError(f"closed-form tensor {name!r} is {state}")
        return value

    lifts = [
        Lift(
            take(f"lift_{n}_directions", dim, features),
            take(f"lift_{n}_offsets", features),
            take(f"lift_{n}_mean", dim + features),
            take(f"lift_{n}_std", dim + features),
        )
        for n, dim in enumerate(dims)
    ]
    total = sum(dims) + len(dims) * features
    posteriors = {
        mask: GaussianPosterior(
            take(f"posterior_{n}_weights", total, source_dim),
            take(f"posterior_{n}_values", source_dim),
            take(f"posterior_{n}_vectors", source_dim, source_dim),
            0.0,
            0.0,
        )
        for n, mask in enumerate(prepared_subsets(len(dims)))
    }
    if left:
        raise UsageError(f"unexpected closed-form tensor {min(left)!r}")
    return ClosedForm(lifts, posteriors)


def spread(groups: list[Group], values: Sequence[Tensor]) -> Tensor:
    """Put per-group rows back in the order of the batch."""
    if groups[0][0] is None:
        return values[0]
    total = sum(len(part) for part in values)
    result = values[0].new_empty(total, *values[0].shape[1:])
    for (rows, _), part in zip(groups, values, strict=True):
        assert rows is not None
        result = result.index_copy(0, rows, part)
    return result


def pick(rows: Tensor | None, values: Tensor) -> Tensor:
    """Return the group's rows of ``values`` (all of them for ``None``)."""
    return values if rows is None else values[rows]
