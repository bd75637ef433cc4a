"""Negative joint-Gaussian log density ratio (CCA): the energy head's closed-form start."""

from torch import Tensor

from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.evaluate import gaussian_scores
from platodef_cli.heads.heads import Heads


class GaussianDetector:
    """Negative joint-Gaussian log density ratio (CCA): the energy head's closed-form start.

    Args:
        heads: Fitted heads.
        clean: Not used.
    """

    name = "gaussian"

    def __init__(self, heads: Heads, clean: FeatureTuples | None = None):
        self._heads = heads

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Return float64 ``[N]``; higher is more suspicious."""
        return gaussian_scores(self._heads, tuples)
