"""Purify only what a calibrated detector flags, so that clean features stay as they are."""

import torch
from torch import Tensor

from platodef_cli.errors import UsageError
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.purifiers.interface import Purifier


def purify_flagged(
    purifier: Purifier, tuples: FeatureTuples, flagged: Tensor, *, generator: torch.Generator
) -> Tensor:
    """Return source features ``[N, D_s]`` float32 with the flagged rows purified and the others untouched.

    Args:
        purifier: Any purifier.
        tuples: N feature tuples.
        flagged: Boolean ``[N]``.
        generator: Source of randomness.

    Raises:
        UsageError: ``flagged`` is not a boolean mask with one entry per tuple.
    """
    if flagged.dtype != torch.bool or flagged.shape != (len(tuples),):
        raise UsageError(
            f"flagged must be a boolean mask of {len(tuples)} entries, "
            f"not {flagged.dtype} of shape {tuple(flagged.shape)}"
        )
    result = tuples.source.float().clone()
    if bool(flagged.any()):
        result[flagged] = purifier.purify(tuples.select(flagged), generator=generator)
    return result
