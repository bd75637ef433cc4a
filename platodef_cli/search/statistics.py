"""How far a change moves the features of an encoder, and how much they still depend on the image."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class CleanStatistics:
    """Statistics of an encoder's clean features.

    Attributes:
        mean: ``[D]``.
        std: ``[D]``, positive.
        variance: Mean squared distance of the standardised features from their mean.
    """

    mean: Tensor
    std: Tensor
    variance: float

    @classmethod
    def of(cls, features: Tensor) -> "CleanStatistics":
        """Compute them from clean features ``[N, D]``."""
        mean, std = features.mean(dim=0), features.std(dim=0)
        # a dimension that never varies carries nothing; its rounding noise must not become the loudest
        std = torch.where(std <= 1e-6 * std.max().clamp_min(1e-30), torch.ones_like(std), std)
        spread = ((features - mean) / std).var(dim=0, correction=0).sum()
        return cls(mean, std, float(spread.clamp_min(1e-12)))

    def standardise(self, features: Tensor) -> Tensor:
        """Return ``(features - mean) / std``, any leading shape."""
        return (features - self.mean.to(features.device)) / self.std.to(features.device)


@dataclass(frozen=True)
class Effect:
    """What a change did to the features of held-out images.

    Attributes:
        collapse: Mean pairwise cosine of the standardised features: about 0 for clean images, 1 where
            every image gives the same direction.
        retained: Variance that is left, as a share of the clean variance: about 1 for clean images,
            0 where the feature no longer depends on the image.
        shift: Mean distance from the image's own clean feature, in units of the clean root variance.
    """

    collapse: float
    retained: float
    shift: float


def collapse(standardised: Tensor) -> Tensor:
    """Return the mean cosine over all pairs of different rows of ``[..., B, D]``, shape ``[...]``."""
    unit = F.normalize(standardised, dim=-1)
    count = unit.shape[-2]
    return (unit.sum(dim=-2).square().sum(dim=-1) - count) / (count * (count - 1))


def turned(standardised: Tensor, clean: Tensor) -> Tensor:
    """Return how far features ``[..., B, D]`` turn away from clean ones ``[..., B, D]``, shape ``[...]``.

    It is one minus the mean cosine of both features of an image, each standardised.
    """
    return 1 - F.cosine_similarity(standardised, clean, dim=-1).mean(dim=-1)


def effect(statistics: CleanStatistics, clean: Tensor, changed: Tensor) -> Effect:
    """Compare features ``[N, D]`` of the same images with and without the change."""
    after = statistics.standardise(changed)
    retained = after.var(dim=0, correction=0).sum() / statistics.variance
    shift = shifts_of(statistics, clean, changed).mean()
    return Effect(float(collapse(after)), float(retained), float(shift))


def shifts_of(statistics: CleanStatistics, clean: Tensor, changed: Tensor) -> Tensor:
    """Return how far every image's features ``[N, D]`` move, ``[N]``, in units of the clean root variance.

    Features of different clean images lie about the square root of 2 apart.
    """
    moved = statistics.standardise(changed) - statistics.standardise(clean)
    shifts: Tensor = moved.norm(dim=1) / statistics.variance**0.5
    return shifts
