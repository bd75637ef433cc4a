"""Mahalanobis length of the source alone; blind to sources that look like other clean ones."""

from torch import Tensor

from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.evaluate import marginal_scores
from platodef_cli.heads.heads import Heads


class MahalanobisDetector:
    """Mahalanobis length of the source alone; blind to sources that look like other clean ones.

    Args:
        heads: Fitted heads.
        clean: Not used.
    """

    name = "mahalanobis"

    def __init__(self, heads: Heads, clean: FeatureTuples | None = None):
        self._heads = heads

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Return float64 ``[N]``; higher is more suspicious."""
        return marginal_scores(self._heads, tuples)
