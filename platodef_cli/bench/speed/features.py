"""Random features of encoders that look at the same images."""

from collections.abc import Sequence

import torch
from torch import Tensor

from platodef_cli.features.interface import FeatureTuples

_SHARED = 32  # dimensions that the encoders share


def random_tuples(rows: int, dims: Sequence[int], names: Sequence[str], seed: int = 1) -> FeatureTuples:
    """Return features that are linear in what the encoders share, and noise.

    Args:
        rows: Number of images.
        dims: Lengths of the features: of the suspect, then of every reference.
        names: Of the references.
        seed: Draws everything.
    """
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(rows, _SHARED, generator=generator)

    def space(width: int) -> Tensor:
        noise = torch.randn(rows, width, generator=generator)
        return shared @ torch.randn(_SHARED, width, generator=generator) + noise

    source, *references = (space(width) for width in dims)
    return FeatureTuples(source, dict(zip(names, references, strict=True)))
