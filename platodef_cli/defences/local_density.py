"""DetectCLIP's family (Huang et al. 2025): is the source in a sparser place than clean features are?

For a query x with neighbours ``o_1 .. o_k`` in the reference, at distances ``d_1 <= .. <= d_k``:

- ``kdist(x) = d_k(x)`` (Ramaswamy et al. 2000)
- ``LID(x) = -[mean_i ln(d_i / d_k)]^-1``, the maximum-likelihood local intrinsic dimension
  (Amsaleg et al. 2015)
- ``SLOF(x) = mean_o d_k(x) / d_k(o)``, the simplified local outlier factor (Schubert et al. 2014)
- ``DAO(x) = mean_o LID(o) ln(d_k(x) / d_k(o))``, the dimensionality-aware outlier score
  (Anderberg et al. 2024)

They need the source features only, and a clean reference bank in default mode.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from platodef_cli.defences.interface import DEFAULT_SETUP, ExpectedAuroc, Setup, require_bank
from platodef_cli.errors import UsageError
from platodef_cli.features.access import Access
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.heads import Heads

NEIGHBOURS = 16
BLOCK = 1024  # queries per matrix of distances
MIN_DISTANCE = 1e-12  # duplicates must not divide by zero
MIN_LOG_RATIO = 1e-3  # k equal distances would have infinite dimension


@dataclass(frozen=True)
class Neighbourhood:
    """Neighbours of N queries in a bank.

    Attributes:
        distances: float64 ``[N, k]``, ascending.
        index: int64 ``[N, k]``, rows of the bank.
    """

    distances: Tensor
    index: Tensor

    @property
    def reach(self) -> Tensor:
        """Distance to the k-th neighbour ``[N]``."""
        return self.distances[:, -1].clamp_min(MIN_DISTANCE)

    @property
    def dimension(self) -> Tensor:
        """Local intrinsic dimension ``[N]``."""
        ratios = (self.distances.clamp_min(MIN_DISTANCE) / self.reach[:, None]).log()
        return 1.0 / (-ratios.mean(dim=1)).clamp_min(MIN_LOG_RATIO)


def nearest(queries: Tensor, bank: Tensor, k: int, *, own: bool = False) -> Neighbourhood:
    """Return the k nearest rows of ``bank`` ``[R, D]`` to every row of ``queries`` ``[N, D]``, Euclidean.

    Args:
        queries: Rows to look up.
        bank: Rows among which neighbours are looked for.
        k: Number of neighbours.
        own: The queries are the bank, and no row is its own neighbour.

    Raises:
        UsageError: The bank has too few rows.
    """
    if len(bank) < k + own:
        raise UsageError(f"{len(bank)} rows have no {k} neighbours each; give at least {k + own}")
    values, places = [], []
    for start in range(0, len(queries), BLOCK):
        block = queries[start : start + BLOCK].double()
        # the exact form: the shortcut through products loses small distances, on which LID depends
        distances = torch.cdist(block, bank.double(), compute_mode="donot_use_mm_for_euclid_dist")
        if own:
            rows = torch.arange(len(block))
            distances[rows, rows + start] = torch.inf
        closest = distances.topk(k, dim=1, largest=False)
        values.append(closest.values)
        places.append(closest.indices)
    if not values:
        return Neighbourhood(torch.zeros(0, k, dtype=torch.float64), torch.zeros(0, k, dtype=torch.int64))
    return Neighbourhood(torch.cat(values), torch.cat(places))


Measure = Callable[[Neighbourhood, Neighbourhood], Tensor]
"""(neighbourhood of N queries in the reference, of the reference in itself) -> scores float64 ``[N]``."""


def k_distance(query: Neighbourhood, reference: Neighbourhood) -> Tensor:
    """Return ``d_k(x)`` ``[N]``."""
    return query.reach


def intrinsic_dimension(query: Neighbourhood, reference: Neighbourhood) -> Tensor:
    """Return ``LID(x)`` ``[N]``."""
    return query.dimension


def simplified_outlier_factor(query: Neighbourhood, reference: Neighbourhood) -> Tensor:
    """Return ``mean_o d_k(x) / d_k(o)`` ``[N]``."""
    return (query.reach[:, None] / reference.reach[query.index]).mean(dim=1)


def dimension_aware_outlierness(query: Neighbourhood, reference: Neighbourhood) -> Tensor:
    """Return ``mean_o LID(o) ln(d_k(x) / d_k(o))`` ``[N]``."""
    ratios = (query.reach[:, None] / reference.reach[query.index]).log()
    return (reference.dimension[query.index] * ratios).mean(dim=1)


MEASURES: dict[str, Measure] = {
    "dao": dimension_aware_outlierness,
    "slof": simplified_outlier_factor,
    "kdist": k_distance,
    "lid": intrinsic_dimension,
}


class LocalDensityDetector:
    """One of :data:`MEASURES` as a detector; the classes below are its rows.

    Args:
        heads: Fitted heads, for the standardisation.
        clean: The reference bank, in default mode; must not contain the rows that are scored.
        setup: ``published`` takes the scored batch itself as the reference, on features of unit length.

    Raises:
        UsageError: Default mode without a bank of more than k rows.
    """

    name: ClassVar[str]
    needs = frozenset({Access.features})
    bank = NEIGHBOURS + 1
    description: ClassVar[str]
    use_when: ClassVar[str]
    published = "the scored batch is its own reference, so many alike poisons look normal"
    expected_auroc: ClassVar[ExpectedAuroc | None] = None

    def __init__(self, heads: Heads, clean: FeatureTuples | None = None, setup: Setup = DEFAULT_SETUP):
        self._heads = heads
        self._reference: tuple[Tensor, Neighbourhood] | None = None
        if setup.mode == "default":
            rows = heads.standardise_source(require_bank(self.name, clean, self.bank))
            self._reference = rows, nearest(rows, rows, NEIGHBOURS, own=True)

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Return float64 ``[N]``; higher is more suspicious.

        Raises:
            UsageError: The batch is its own reference and has too few rows.
        """
        if self._reference is not None:
            rows, reference = self._reference
            query = nearest(self._heads.standardise_source(tuples), rows, NEIGHBOURS)
            return MEASURES[self.name](query, reference)
        if not len(tuples):
            return torch.zeros(0, dtype=torch.float64)
        rows = F.normalize(tuples.source.double(), dim=1)
        batch = nearest(rows, rows, NEIGHBOURS, own=True)
        return MEASURES[self.name](batch, batch)


class DaoDetector(LocalDensityDetector):
    """:func:`dimension_aware_outlierness` as a detector."""

    name = "dao"
    description = "Sparser than its neighbours, by dimension: blind where a backdoor lands among clean ones."
    use_when = "You have no reference encoder, or you compare with DetectCLIP."


class SlofDetector(LocalDensityDetector):
    """:func:`simplified_outlier_factor` as a detector."""

    name = "slof"
    description = "Sparser than its neighbours: blind where a backdoor lands among clean features."
    use_when = "You compare with DetectCLIP's baselines."


class KDistanceDetector(LocalDensityDetector):
    """:func:`k_distance` as a detector."""

    name = "kdist"
    description = "Far from its k-th neighbour: blind where a backdoor lands among clean features."
    use_when = "You have no reference encoder and want the simplest score of the suspect's features alone."


class LidDetector(LocalDensityDetector):
    """:func:`intrinsic_dimension` as a detector."""

    name = "lid"
    description = (
        "Dimension of the neighbourhood: weak alone, and blind where a backdoor lands among clean features."
    )
    use_when = "You compare with DetectCLIP's baselines; too weak to decide by."
