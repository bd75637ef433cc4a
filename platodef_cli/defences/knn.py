"""Distance to the k-th nearest clean source (Sun et al. 2022); needs source features and a clean bank."""

import torch
from torch import Tensor
from torch.nn import functional as F

from platodef_cli.defences.interface import DEFAULT_SETUP, Setup, require_bank
from platodef_cli.features.access import Access
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.heads import Heads

NEIGHBOURS = 10
PUBLISHED_NEIGHBOURS = 50
BLOCK = 1024  # queries per matrix of distances


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
    use_when = "You have no reference encoder and expect triggered features far away from all clean ones."
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
        self._heads = heads
        self._bank = self._rows(require_bank(self.name, clean, self._neighbours))

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
