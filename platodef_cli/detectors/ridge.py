"""Mahalanobis length of the ridge residual: how far the source lies from what the references predict."""

from torch import Tensor

from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.evaluate import ridge_scores
from platodef_cli.heads.heads import Heads


class RidgeDetector:
    """Mahalanobis length of the ridge residual: how far the source lies from what the references predict.

    Args:
        heads: Fitted heads.
        clean: Not used.
    """

    name = "ridge"

    def __init__(self, heads: Heads, clean: FeatureTuples | None = None):
        self._heads = heads

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Return float64 ``[N]``; higher is more suspicious."""
        return ridge_scores(self._heads, tuples)
