"""The contract of a purifier: suspicious source features in, clean ones out."""

from typing import Protocol

import torch
from torch import Tensor

from platodef_cli.features.interface import FeatureTuples


class Purifier(Protocol):
    """Regenerates source features from the references.

    Attributes:
        name: Its row in the table ``platodef_cli.purifiers.PURIFIERS``.
        evaluations: Network function evaluations (NFE) per sample, 0 for closed forms.
    """

    name: str
    evaluations: int

    def purify(self, tuples: FeatureTuples, *, generator: torch.Generator) -> Tensor:
        """Return purified source features ``[N, D_s]`` float32, de-standardised."""
