"""Bootstrap intervals of collapses over the images that they were measured on (Efron 1979)."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from platodef_cli.records import Interval

DRAWS = 500
_SEED = 20_000  # one for all: equal numbers of images are resampled alike, so that differences are paired


def collapse_draws(standardised: Tensor) -> Tensor:
    """Return resampled collapses, float64 ``[DRAWS]``.

    Each draw takes ``n`` images with replacement and averages the cosine over the pairs of *different*
    images among them: an image and its own copy are no pair, else every draw would be too high by about
    ``1 / n``. The statistics that standardise the features come from many more images and stay fixed.

    Args:
        standardised: Features ``[n, D]`` of the changed images, ``n >= 2``.
    """
    unit = F.normalize(standardised.double(), dim=-1)
    weights = resampling_weights(len(unit))
    sums = (weights @ unit).square().sum(dim=1)  # [R]
    copies = weights.square().sum(dim=1)
    pairs = len(unit) ** 2 - copies
    # all images the same one: there is no pair, and nothing varies either
    return torch.where(pairs > 0, (sums - copies) / pairs.clamp_min(1.0), torch.zeros_like(sums))


def variance_draws(standardised: Tensor) -> Tensor:
    """Return resampled total variances of features ``[n, D]``, float64 ``[DRAWS]``, on the same draws.

    The mean of a draw is its own. Copies make the variance smaller by ``1 / n``, which is given back.
    """
    features = standardised.double()
    count = len(features)
    weights = resampling_weights(count) / count
    squares = weights @ features.square().sum(dim=1)
    return (squares - (weights @ features).square().sum(dim=1)).clamp_min(0) * count / max(count - 1, 1)


def mean_draws(values: Tensor) -> Tensor:
    """Return resampled means of one number per image, ``[n]`` -> float64 ``[DRAWS]``, on the same draws."""
    return resampling_weights(len(values)) @ values.double() / len(values)


@lru_cache(maxsize=4)
def resampling_weights(count: int) -> Tensor:
    """Return how often each draw takes each of ``count`` images, float64 ``[DRAWS, count]``."""
    generator = torch.Generator().manual_seed(_SEED)
    picked = torch.randint(0, count, (DRAWS, count), generator=generator)
    ones = torch.ones(DRAWS, count, dtype=torch.float64)
    return torch.zeros(DRAWS, count, dtype=torch.float64).scatter_add_(1, picked, ones)


def interval_of(draws: Tensor, value: float, level: float = 0.95) -> Interval:
    """Return the percentile interval of resampled values ``[R]``; it always holds the value itself."""
    tail = (1 - level) / 2
    low, high = torch.quantile(draws.double(), torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(low=min(low, value), high=max(high, value), level=level)
