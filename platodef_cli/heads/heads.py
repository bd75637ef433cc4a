"""The fitted heads of one suspect and its references, and how to apply them to feature tuples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from platodef_cli.errors import NotApplicable, UsageError
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.card import HeadCard
from platodef_cli.heads.closed_form import ClosedForm, Mask
from platodef_cli.heads.config import FitConfig
from platodef_cli.heads.denoiser import Denoiser
from platodef_cli.heads.energy import WIDEN, EnergyHead
from platodef_cli.heads.folded import FoldedScores
from platodef_cli.heads.presets import A_PRESET
from platodef_cli.heads.ridge import Ridge

SCORE_BLOCK = 2048  # rows per forward pass


@dataclass(frozen=True)
class Standardiser:
    """Per-dimension mean and standard deviation of clean features.

    Attributes:
        mean: ``[D]`` float32.
        std: ``[D]`` float32, positive (1 for dimensions that never vary).
    """

    mean: Tensor
    std: Tensor

    def apply(self, values: Tensor) -> Tensor:
        """Return standardised ``[..., D]`` float32."""
        return (values.float() - self.mean) / self.std

    def invert(self, values: Tensor) -> Tensor:
        """Return de-standardised ``[N, D]`` float32."""
        return values * self.std + self.mean


def fit_standardiser(values: Tensor) -> Standardiser:
    """Return the statistics of ``values`` ``[N, D]``."""
    mean, std = values.double().mean(dim=0), values.double().std(dim=0)
    # a dead dimension carries nothing; dividing by its rounding noise would make it the loudest
    dead = std <= 1e-6 * std.max().clamp_min(1e-30)
    return Standardiser(mean.float(), torch.where(dead, torch.ones_like(std), std).float())


@dataclass(frozen=True)
class Heads:
    """Heads fitted on clean tuples of one suspect and M references.

    Attributes:
        config: How they were fitted.
        seed: Seed they were fitted with.
        reference_names: Names of the references, in order.
        source_standardiser: Statistics of the suspect's clean features.
        reference_standardisers: Statistics of every reference, in order.
        ridge: The linear closed-form head, the baseline.
        closed_form: The Gaussian start: the closed form over lifted references.
        energy: The energy head, in evaluation mode; None for heads without networks.
        denoiser: The denoiser head, in evaluation mode; None for heads without networks.
        metrics: Held-out metrics by name (``matched_auroc``, ``energy_gap``, ...).
        clean_scores: Detector component -> float64 scores of held-out clean tuples, row by row the same
            tuples for every component, so that they can be combined.
        rows: Number of tuples fitted on, held-out ones included.
        card: Identity of the encoders, for heads that were loaded from disk.
    """

    config: FitConfig
    seed: int
    reference_names: tuple[str, ...]
    source_standardiser: Standardiser
    reference_standardisers: tuple[Standardiser, ...]
    ridge: Ridge
    closed_form: ClosedForm
    energy: EnergyHead | None
    denoiser: Denoiser | None
    metrics: Mapping[str, float]
    clean_scores: Mapping[str, Tensor] = field(default_factory=dict)
    rows: int = 0
    card: HeadCard | None = None
    _folded: dict[tuple[Mask, ...], FoldedScores] = field(
        init=False, default_factory=dict, compare=False, repr=False
    )

    @property
    def source_dim(self) -> int:
        """Length of the suspect's features."""
        return int(self.source_standardiser.mean.shape[0])

    @property
    def reference_dims(self) -> tuple[int, ...]:
        """Lengths of the references' features, in order."""
        return tuple(int(entry.mean.shape[0]) for entry in self.reference_standardisers)

    @property
    def device(self) -> torch.device:
        """Where the closed form and the networks live."""
        return self.closed_form.device

    @property
    def networks(self) -> tuple[EnergyHead, Denoiser]:
        """The energy head and the denoiser.

        Raises:
            NotApplicable: These heads were fitted without networks.
        """
        if self.energy is None or self.denoiser is None:
            raise NotApplicable(f"needs heads with trained networks; fit them with {A_PRESET}")
        return self.energy, self.denoiser

    def standardise(self, tuples: FeatureTuples) -> tuple[Tensor, list[Tensor]]:
        """Return the standardised source ``[N, D_s]`` and references ``[N, D_m]``, in the heads' order.

        Raises:
            UsageError: A reference is missing, or a dimension differs from what the heads were fitted on.
        """
        rows = self._in_order(tuples)
        standardised = [
            entry.apply(values) for entry, values in zip(self.reference_standardisers, rows, strict=True)
        ]
        return self.source_standardiser.apply(tuples.source), standardised

    def _in_order(self, tuples: FeatureTuples) -> list[Tensor]:
        """Return the references ``[N, D_m]`` in the heads' order, after a look at all shapes."""
        self._check("source", tuples.source, self.source_dim)
        missing = [name for name in self.reference_names if name not in tuples.references]
        if missing:
            have = ", ".join(tuples.references) or "none"
            raise UsageError(f"the features lack reference {missing[0]!r} of these heads (they have: {have})")
        rows = []
        for name, entry in zip(self.reference_names, self.reference_standardisers, strict=True):
            self._check(f"reference {name!r}", tuples.references[name], int(entry.mean.shape[0]))
            rows.append(tuples.references[name])
        return rows

    def standardise_source(self, tuples: FeatureTuples) -> Tensor:
        """Return the standardised source ``[N, D_s]`` alone, for scores that ignore the references.

        Raises:
            UsageError: Its dimension differs from what the heads were fitted on.
        """
        self._check("source", tuples.source, self.source_dim)
        return self.source_standardiser.apply(tuples.source)

    def keep_of(self, names: Sequence[str] | None) -> tuple[bool, ...] | None:
        """Return one flag per reference for the ``names`` to use (None: all of them).

        Raises:
            UsageError: An unknown name, or no name at all.
        """
        if names is None:
            return None
        unknown = [name for name in names if name not in self.reference_names]
        if unknown or not names:
            wrong = f"{unknown[0]!r} is not one of them" if unknown else "none was chosen"
            raise UsageError(f"these heads have the references {', '.join(self.reference_names)}; {wrong}")
        return tuple(name in names for name in self.reference_names)

    @torch.no_grad()
    def energies(self, tuples: FeatureTuples, *, references: Sequence[str] | None = None) -> Tensor:
        """Return the platonic energy ``[N]`` float64; higher is more suspicious.

        Heads without networks give the closed form's, which is the same density ratio of Gaussian features.

        Args:
            tuples: Features to score.
            references: Names of the references to use; None uses all.
        """
        if self.energy is None:
            return self.closed_energies(tuples, references=references)
        keep = self.keep_of(references)
        source, rows = self.standardise(tuples)
        scores = []
        for start in range(0, len(source), SCORE_BLOCK):
            part = slice(start, start + SCORE_BLOCK)
            block = source[part].to(self.device)
            mask = None if keep is None else torch.tensor(keep, device=self.device).expand(len(block), -1)
            values = self.energy.energy(block, [row[part].to(self.device) for row in rows], mask)
            scores.append(values.double().cpu())
        return torch.cat(scores) if scores else torch.zeros(0, dtype=torch.float64)

    def closed_energies(self, tuples: FeatureTuples, *, references: Sequence[str] | None = None) -> Tensor:
        """Return ``ln N(s; 0, widened S) - ln p(s | r)`` ``[N]`` float64 of the closed form, nats.

        Args:
            tuples: Features to score.
            references: Names of the references to use; None uses all.
        """
        return self.closed_energies_of(tuples, [references])[:, 0]

    def closed_energies_of(self, tuples: FeatureTuples, subsets: Sequence[Sequence[str] | None]) -> Tensor:
        """Return :meth:`closed_energies` ``[N, K]`` for K subsets of the references, in one go."""
        every = (True,) * len(self.reference_names)
        masks = tuple(self.keep_of(names) or every for names in subsets)
        rows = self._in_order(tuples)
        if masks not in self._folded or self._folded[masks].device != self.device:
            statistics = (self.source_standardiser, *self.reference_standardisers)
            pairs = [(entry.mean, entry.std) for entry in statistics]
            self._folded[masks] = FoldedScores(self.closed_form, pairs[0], pairs[1:], masks, WIDEN)
        return self._folded[masks].energies(tuples.source, rows).cpu()

    def closed_mean(
        self, tuples: FeatureTuples, *, references: Sequence[str] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the standardised source and its closed-form conditional mean, ``[N, D_s]`` each."""
        source, rows = self.standardise(tuples)
        lifted = self.closed_form.lift([values.to(self.device) for values in rows])
        posterior = self.closed_form.posterior(self.keep_of(references))
        return source.to(self.device), posterior.mean(lifted)

    def _check(self, what: str, values: Tensor, dim: int) -> None:
        if values.ndim != 2 or values.shape[1] != dim:
            raise UsageError(
                f"{what} has shape {tuple(values.shape)}, but these heads were fitted on {dim}-d features"
            )
