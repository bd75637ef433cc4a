"""Distance to the k-th nearest clean source; blind where a backdoor lands on the target's clean features."""

import torch
from torch import Tensor

from platodef_cli.errors import UsageError
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.heads import Heads

NEIGHBOURS = 10
BLOCK = 1024


class KnnDetector:
    """Euclidean distance to the k-th nearest clean source, in standardised features.

    Args:
        heads: Fitted heads, for the standardisation.
        clean: The reference bank; must not contain the rows that are scored.
        neighbours: k.

    Raises:
        UsageError: No bank, or one with fewer than k rows.
    """

    name = "knn"

    def __init__(self, heads: Heads, clean: FeatureTuples | None = None, *, neighbours: int = NEIGHBOURS):
        if clean is None or len(clean) < neighbours:
            raise UsageError(f"the knn detector needs a bank of at least {neighbours} clean tuples")
        self._heads, self._neighbours = heads, neighbours
        self._bank = heads.standardise(clean)[0]

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Return float64 ``[N]``; higher is more suspicious."""
        source, _ = self._heads.standardise(tuples)
        distances = [
            torch.cdist(block, self._bank).kthvalue(self._neighbours, dim=1).values
            for block in torch.split(source, BLOCK)
        ]
        return torch.cat(distances).double() if distances else torch.zeros(0, dtype=torch.float64)
