"""Distance to the k-th nearest clean source; blind where a backdoor lands on the target's clean features."""

import torch
from torch import Tensor
from torch.nn import functional as F

from platodef_cli.defences.interface import DEFAULT_SETUP, Access, Setup
from platodef_cli.errors import UsageError
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.heads import Heads

NEIGHBOURS = 10
PUBLISHED_NEIGHBOURS = 50
BLOCK = 1024


class KnnDetector:
    """Euclidean distance to the k-th nearest clean source, in standardised features.

    Args:
        heads: Fitted heads, for the standardisation.
        clean: The reference bank; must not contain the rows that are scored.
        setup: ``published`` (Sun et al. 2022) takes features of unit length and k = 50.
        neighbours: k; by default that of the mode.

    Raises:
        UsageError: No bank, or one with fewer than k rows.
    """

    name = "knn"
    needs = frozenset({Access.features})
    bank = NEIGHBOURS
    description = "Far from every clean source: blind where a backdoor lands on clean features of its target."
    published = "features of unit length instead of standardised ones, k = 50 instead of 10"
    expected_auroc = None

    def __init__(
        self,
        heads: Heads,
        clean: FeatureTuples | None = None,
        setup: Setup = DEFAULT_SETUP,
        *,
        neighbours: int | None = None,
    ):
        self._published = setup.mode == "published"
        self._neighbours = neighbours or (PUBLISHED_NEIGHBOURS if self._published else NEIGHBOURS)
        if clean is None or len(clean) < self._neighbours:
            raise UsageError(f"the knn detector needs a bank of at least {self._neighbours} clean tuples")
        self._heads = heads
        self._bank = self._rows(clean)

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Return float64 ``[N]``; higher is more suspicious."""
        source = self._rows(tuples)
        distances = [
            torch.cdist(block, self._bank).kthvalue(self._neighbours, dim=1).values
            for block in torch.split(source, BLOCK)
        ]
        return torch.cat(distances).double() if distances else torch.zeros(0, dtype=torch.float64)

    def _rows(self, tuples: FeatureTuples) -> Tensor:
        standard = self._heads.standardise_source(tuples)
        return F.normalize(tuples.source.float(), dim=1) if self._published else standard
