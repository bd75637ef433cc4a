"""Conformal calibration: thresholds and p-values with finite-sample guarantees.

If the calibration scores and a new clean score are exchangeable, the new one exceeds the threshold
with probability at most the stated rate, whatever the distribution (Vovk et al. 2005).
"""

import math

import torch
from torch import Tensor

from platodef_cli.defences.platonic import PlatonicDetector, members_of
from platodef_cli.errors import UsageError
from platodef_cli.heads.heads import Heads


def conformal_threshold(clean_scores: Tensor, rate: float = 0.05) -> float:
    """Return the threshold that a clean score exceeds with probability at most ``rate``.

    It is the ``ceil((n + 1)(1 - rate))``-th smallest of the n calibration scores; "exceeds" is strict.

    Args:
        clean_scores: ``[n]`` scores of clean samples that nothing was fitted on.
        rate: The false positive rate, between 0 and 1.

    Raises:
        UsageError: The rate is outside (0, 1), a score is not finite, or n is too small for the rate.
    """
    if not 0 < rate < 1:
        raise UsageError(f"the false positive rate must lie between 0 and 1, not {rate}")
    scores = _checked(clean_scores)
    # the tolerance keeps (n + 1)(1 - rate) from crossing a whole number by rounding
    rank = math.ceil((len(scores) + 1) * (1.0 - rate) - 1e-9)
    if rank > len(scores):
        needed = math.ceil(1.0 / rate) - 1
        raise UsageError(
            f"{len(scores)} calibration samples cannot guarantee a false positive rate of {rate}; "
            f"give at least {needed}"
        )
    return float(scores.kthvalue(rank).values)


def conformal_pvalues(clean_scores: Tensor, scores: Tensor) -> Tensor:
    """Return ``(1 + #{clean >= score}) / (n + 1)`` for every score, float64 ``[N]``.

    Args:
        clean_scores: ``[n]`` scores of clean samples that nothing was fitted on.
        scores: ``[N]`` scores to judge.

    Raises:
        UsageError: No calibration score, or one that is not finite.
    """
    calibration = _checked(clean_scores).sort().values
    below = torch.searchsorted(calibration, scores.double().contiguous(), right=False)
    return (1.0 + len(calibration) - below).double() / (len(calibration) + 1.0)


def stored_clean_scores(name: str, heads: Heads) -> Tensor | None:
    """Return the clean scores ``[n]`` that heads carry for a detector, or None where they carry none.

    They come from the tuples that were held out while fitting, so they calibrate a threshold for clean
    images like those that the heads were fitted on.
    """
    if name == PlatonicDetector.name and set(members_of(heads)) <= set(heads.clean_scores):
        return PlatonicDetector(heads).combine(heads.clean_scores)
    return heads.clean_scores.get(name)


def _checked(scores: Tensor) -> Tensor:
    if scores.ndim != 1 or not len(scores) or not bool(torch.isfinite(scores).all()):
        raise UsageError("calibration needs a non-empty list of finite clean scores")
    return scores.double()
