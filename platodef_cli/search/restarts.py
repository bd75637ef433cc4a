"""What the randomness of a search adds to its intervals: another seed finds another trigger.

The standard deviation of one run between seeds is estimated from the restarts, which are few, together with
what was measured for the kind on other encoders: both variances are averaged with their degrees of freedom
as weights (moderated variances, Smyth 2004). On the scale of Fisher's z, the inverse hyperbolic tangent of a
collapse, that deviation is about the same share of z on every encoder.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

# Standard deviation of one run between seeds as a share of Fisher's z: root mean square over clean encoders
# of 32 pixels, by examples/measure_limits.py with --seeds. New numbers are a new version of the kind.
_MEASURED: Mapping[str, float] = {
    "patch": 0.15,
    "universal": 0.20,
    "wave": 0.12,
    "warp": 0.35,
    "corners": 0.10,
    "pairs": 0.14,
}
# The same at other sizes, side in pixels -> share. A universal change has a free value per pixel, and starts
# that differ in 150 000 of them end at the same collapse: 0.014 for MobileNetV1 at 224 pixels (four seeds),
# 0.022 for EfficientNet-Lite1 at 240 (three); what is used is higher, since these are few.
_MEASURED_AT: Mapping[str, Mapping[int, float]] = {"universal": {224: 0.04}}
_MEASURED_SIDE = 32
_PRIOR = 8  # degrees of freedom of what was measured: it differs between encoders by about a quarter
_LEAST = 0.05  # z below which the deviation no longer falls
_CLOSEST = 1 - 1e-9  # collapses of 1 have no finite z


@dataclass(frozen=True)
class SearchError:
    """How far the best run of a search is from what the best run of another seed reaches.

    Attributes:
        deviation: Standard deviation on Fisher's scale.
        freedom: Degrees of freedom behind it; 0 where nothing is known.
    """

    deviation: float = 0.0
    freedom: int = 0

    @classmethod
    def of(cls, reached: Sequence[float], spread: float = 0.0) -> "SearchError":
        """Estimate it.

        Args:
            reached: Collapse of every restart, at least one.
            spread: Standard deviation of one run between seeds as a share of z, as :func:`spread_of` gives
                it.
        """
        z = _fisher(torch.tensor(reached, dtype=torch.float64))
        prior, own = (_PRIOR if spread > 0 else 0), len(z) - 1
        if not prior + own:
            return cls()
        usual = spread * max(float(z.max()), _LEAST)
        squares = prior * usual**2 + float((z - z.mean()).square().sum())
        return cls(best_deviation(len(z)) * (squares / (prior + own)) ** 0.5, prior + own)

    def added_to(self, draws: Tensor, name: str) -> Tensor:
        """Return resampled collapses ``[R]`` that vary as the search does, too.

        Args:
            draws: Resampled over images only.
            name: Of what the search found. It decides the order of the errors, so that those of different
                encoders are independent, and equal searches give equal draws.
        """
        if not self.freedom or not self.deviation:
            return draws
        count = len(draws)
        levels = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        errors = torch.from_numpy(stdtrit(self.freedom, levels.numpy()))
        seed = int(hashlib.sha256(name.encode()).hexdigest()[:15], 16)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        return torch.tanh(_fisher(draws) + self.deviation * errors[order])


def spread_of(kind: str, side: int) -> float:
    """Return the standard deviation of one run of a kind between seeds, as a share of Fisher's z.

    Between the sizes that it was measured at it follows a power of the side; beyond them it stays.

    Args:
        kind: Name of the kind; 0 where it was not measured, as for those of plug-ins: there only restarts
            tell.
        side: Shorter side of the encoder's input, pixels.
    """
    if kind not in _MEASURED:
        return 0.0
    measured = {_MEASURED_SIDE: _MEASURED[kind], **_MEASURED_AT.get(kind, {})}
    sides = sorted(measured)
    logs = [math.log(measured[entry]) for entry in sides]
    return float(math.exp(np.interp(math.log(max(side, 1)), [math.log(entry) for entry in sides], logs)))


@lru_cache
def best_deviation(count: int) -> float:
    """Return the standard deviation of the largest of ``count`` independent standard normal numbers."""
    normal, steps = NormalDist(), 4000
    # the largest is below a value with the count-th power of the probability of one
    largest = torch.tensor([normal.inv_cdf(((i + 0.5) / steps) ** (1 / count)) for i in range(steps)])
    return float(largest.double().std(correction=0))


def _fisher(collapses: Tensor) -> Tensor:
    return torch.atanh(collapses.clamp(-_CLOSEST, _CLOSEST))
