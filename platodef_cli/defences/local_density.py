"""Nearest neighbours and what local density detectors make of their distances (Huang et al. 2025).

For a query x with neighbours ``o_1 .. o_k`` at distances ``d_1 <= .. <= d_k``:
``LID(x) = -[mean_i ln(d_i / d_k)]^-1``, the maximum-likelihood local intrinsic dimension (Amsaleg 2015).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from platodef_cli.defences.interface import DEFAULT_SETUP, Access, Setup
from platodef_cli.errors import UsageError
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.heads import Heads

NEIGHBOURS = 16

BLOCK = 1024

_TINY = 1e-12  # of a distance: duplicates must not divide by zero

_FLATTEST = 1e-3  # of a mean log ratio: k equal distances would have infinite dimension


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
        return self.distances[:, -1].clamp_min(_TINY)

    @property
    def dimension(self) -> Tensor:
        """Local intrinsic dimension ``[N]``."""
        ratios = (self.distances.clamp_min(_TINY) / self.reach[:, None]).log()
        return 1.0 / (-ratios.mean(dim=1)).clamp_min(_FLATTEST)


def nearest(queries: Tensor, bank: Tensor, k: int, *, own: bool = False) -> Neighbourhood:
    """Return the k nearest rows of ``bank`` ``[R, D]`` to every row of ``queries`` ``[N, D]``, Euclidean.

    Args:
        queries: Rows to look up.
        bank: Rows to find.
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
        found = distances.topk(k, dim=1, largest=False)
        values.append(found.values)
        places.append(found.indices)
    if not values:
        return Neighbourhood(torch.zeros(0, k, dtype=torch.float64), torch.zeros(0, k, dtype=torch.int64))
    return Neighbourhood(torch.cat(values), torch.cat(places))


class LocalDetector:
    """What DAO and its siblings share: the neighbours of a query and the neighbourhood of the bank.

    Args:
        heads: Fitted heads, for the standardisation.
        clean: The reference bank, in default mode; must not contain the rows that are scored.
        published: Take the scored batch itself as the reference, on features of unit length.
        neighbours: k.

    Raises:
        UsageError: Default mode without a bank of more than k rows.
    """

    def __init__(
        self, heads: Heads, clean: FeatureTuples | None, *, published: bool, neighbours: int = NEIGHBOURS
    ):
        self._heads, self._k = heads, neighbours
        self._bank: tuple[Tensor, Neighbourhood] | None = None
        if published:
            return
        if clean is None or len(clean) <= neighbours:
            raise UsageError(f"a local density detector needs a bank of more than {neighbours} clean tuples")
        rows = heads.standardise_source(clean)
        self._bank = rows, nearest(rows, rows, neighbours, own=True)

    def around(self, tuples: FeatureTuples) -> tuple[Neighbourhood, Neighbourhood]:
        """Return the neighbourhood of the queries in the reference, and of the reference in itself.

        Raises:
            UsageError: The batch is its own reference and has too few rows.
        """
        if self._bank is not None:
            rows, own = self._bank
            return nearest(self._heads.standardise_source(tuples), rows, self._k), own
        rows = F.normalize(tuples.source.double(), dim=1)
        if not len(rows):
            empty = nearest(rows, rows.new_zeros(self._k, rows.shape[1]), self._k)
            return empty, empty
        both = nearest(rows, rows, self._k, own=True)
        return both, both


class DaoDetector(LocalDetector):
    """``mean_o LID(o) ln(d_k(x) / d_k(o))`` over the k neighbours o of x.

    Args:
        heads: Fitted heads, for the standardisation.
        clean: The reference bank, in default mode.
        setup: ``published`` takes the scored batch as its own reference.
        neighbours: k.
    """

    name = "dao"
    needs = frozenset({Access.features})
    bank = NEIGHBOURS + 1
    description = "Sparser than its neighbours, by dimension: blind where a backdoor lands among clean ones."
    published = "the scored batch is its own reference, so many alike poisons look normal"
    expected_auroc = None

    def __init__(
        self,
        heads: Heads,
        clean: FeatureTuples | None = None,
        setup: Setup = DEFAULT_SETUP,
        *,
        neighbours: int = NEIGHBOURS,
    ):
        super().__init__(heads, clean, published=setup.mode == "published", neighbours=neighbours)

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Return float64 ``[N]``; higher is more suspicious."""
        own, others = self.around(tuples)
        ratios = (own.reach[:, None] / others.reach[own.index]).log()
        return (others.dimension[own.index] * ratios).mean(dim=1)


class KDistanceDetector(LocalDetector):
    """``d_k(x)``, k = 16.

    Args:
        heads: Fitted heads, for the standardisation.
        clean: The reference bank, in default mode.
        setup: ``published`` takes the scored batch as its own reference.
        neighbours: k.
    """

    name = "kdist"
    needs = frozenset({Access.features})
    bank = NEIGHBOURS + 1
    description = "Far from its k-th neighbour: blind where a backdoor lands among clean features."
    published = "the scored batch is its own reference, so many alike poisons look normal"
    expected_auroc = None

    def __init__(
        self,
        heads: Heads,
        clean: FeatureTuples | None = None,
        setup: Setup = DEFAULT_SETUP,
        *,
        neighbours: int = NEIGHBOURS,
    ):
        super().__init__(heads, clean, published=setup.mode == "published", neighbours=neighbours)

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Return float64 ``[N]``; higher is more suspicious."""
        own, _ = self.around(tuples)
        return own.reach


class LidDetector(LocalDetector):
    """``LID(x)`` from the distances to the k neighbours.

    Args:
        heads: Fitted heads, for the standardisation.
        clean: The reference bank, in default mode.
        setup: ``published`` takes the scored batch as its own reference.
        neighbours: k.
    """

    name = "lid"
    needs = frozenset({Access.features})
    bank = NEIGHBOURS + 1
    description = (
        "Dimension of the neighbourhood: weak alone, and blind where a backdoor lands among clean features."
    )
    published = "the scored batch is its own reference, so many alike poisons look normal"
    expected_auroc = None

    def __init__(
        self,
        heads: Heads,
        clean: FeatureTuples | None = None,
        setup: Setup = DEFAULT_SETUP,
        *,
        neighbours: int = NEIGHBOURS,
    ):
        super().__init__(heads, clean, published=setup.mode == "published", neighbours=neighbours)

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Return float64 ``[N]``; higher is more suspicious."""
        own, _ = self.around(tuples)
        return own.dimension


class SlofDetector(LocalDetector):
    """``mean_o d_k(x) / d_k(o)`` over the k neighbours o of x.

    Args:
        heads: Fitted heads, for the standardisation.
        clean: The reference bank, in default mode.
        setup: ``published`` takes the scored batch as its own reference.
        neighbours: k.
    """

    name = "slof"
    needs = frozenset({Access.features})
    bank = NEIGHBOURS + 1
    description = "Sparser than its neighbours: blind where a backdoor lands among clean features."
    published = "the scored batch is its own reference, so many alike poisons look normal"
    expected_auroc = None

    def __init__(
        self,
        heads: Heads,
        clean: FeatureTuples | None = None,
        setup: Setup = DEFAULT_SETUP,
        *,
        neighbours: int = NEIGHBOURS,
    ):
        super().__init__(heads, clean, published=setup.mode == "published", neighbours=neighbours)

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Return float64 ``[N]``; higher is more suspicious."""
        own, others = self.around(tuples)
        return (own.reach[:, None] / others.reach[own.index]).mean(dim=1)
