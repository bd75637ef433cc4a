"""The contract of a detector: one score per sample, higher is more suspicious."""

from typing import Protocol

from torch import Tensor

from platodef_cli.features.interface import FeatureTuples


class Detector(Protocol):
    """Scores feature tuples.

    Attributes:
        name: Its row in the table ``platodef_cli.detectors.DETECTORS``.
    """

    name: str

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Return float64 ``[N]``; higher is more suspicious; independent of batch size and order."""
