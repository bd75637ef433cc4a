"""The platonic energy: the negative logit of the NCE head (paper, Eq. 12)."""

from torch import Tensor

from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.evaluate import energy_scores
from platodef_cli.heads.heads import Heads


class EnergyDetector:
    """The platonic energy: the negative logit of the NCE head (paper, Eq. 12).

    Args:
        heads: Fitted heads.
        clean: Not used.
    """

    name = "energy"

    def __init__(self, heads: Heads, clean: FeatureTuples | None = None):
        self._heads = heads

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Return float64 ``[N]``; higher is more suspicious."""
        return energy_scores(self._heads, tuples)
