"""Mahalanobis length of the source around the denoiser's one-shot mean D(.; sigma_max)."""

from torch import Tensor

from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.evaluate import denoiser_scores
from platodef_cli.heads.heads import Heads


class DenoiserDetector:
    """Mahalanobis length of the source around the denoiser's one-shot mean D(.; sigma_max).

    Args:
        heads: Fitted heads.
        clean: Not used.
    """

    name = "denoiser"

    def __init__(self, heads: Heads, clean: FeatureTuples | None = None):
        self._heads = heads

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Return float64 ``[N]``; higher is more suspicious."""
        return denoiser_scores(self._heads, tuples)
