"""SSL-Cleanse (Zheng et al. 2024): one inverted trigger per cluster; a much smaller one is an anomaly.

Needs gradients of the encoder, and clean images; no trigger, label or reference.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from platodef_cli.defences.interface import DEFAULT_SETUP, EncoderStatistic, Setup
from platodef_cli.defences.inversion import MIN_IMAGES, invert
from platodef_cli.errors import UsageError
from platodef_cli.features.access import Access, ModelAccess

CLUSTERS = 5
STEPS = 50
BATCH = 24
REACHED = 0.9  # share of images that must end up nearest to the cluster
MAX_IMAGES = 512  # images that are clustered
MAD_TO_STD = 1.4826  # median absolute deviation -> standard deviation of a Gaussian


def published_cost(mask: Tensor, pattern: Tensor) -> Tensor:
    """Return ``|mask pattern|``, the mean over ``[3, H, W]``."""
    return (mask * pattern).mean()


def reach_cluster(mean: Tensor, centres: Tensor, number: int) -> Callable[[Tensor], tuple[Tensor, bool]]:
    """Return the goal of an inversion: features that end up in one cluster.

    Args:
        mean: Clean mean ``[D]``.
        centres: Centres ``[K, D]`` of centred clean features of unit length.
        number: The wanted cluster.

    Returns:
        Features ``[B, D]`` -> loss, and whether nine in ten are nearest to the wanted centre.
    """

    def goal(features: Tensor) -> tuple[Tensor, bool]:
        distances = torch.cdist(F.normalize(features - mean, dim=1), centres)
        wanted = torch.full((len(features),), number)
        loss = F.cross_entropy(-4.0 * distances.square(), wanted)
        near = (distances.detach().argmin(dim=1) == number).double().mean()
        return loss, bool(near >= REACHED)

    return goal


def anomaly_index(areas: Tensor) -> float:
    """Return by how many robust standard deviations the least area ``[K]`` lies under the median."""
    middle = areas.median()
    spread = (areas - middle).abs().median() * MAD_TO_STD
    return float((middle - areas.min()) / spread.clamp_min(1e-3))


class SslCleanseDetector:
    """Anomaly index ``(median - least) / (1.4826 MAD)`` of the mask areas over k-means clusters.

    A cluster whose inversion fails counts as a full mask. The published regulariser ``|mask pattern|`` is
    free for a black pattern, so the default pays for the mask alone.

    Args:
        setup: The seed; ``published`` takes the published regulariser.
    """

    name = "ssl-cleanse"
    needs = frozenset({Access.gradients})
    description = "One much smaller mask among clusters: finds patches, weak on triggers of the whole image."
    use_when = (
        "You ask about a whole encoder whose backdoor may aim at one class, and have clean ones to compare."
    )
    published = "the cost is |mask pattern| instead of |mask|, so a black trigger costs nothing"
    statistic = "anomaly index of the smallest mask (standard deviations)"

    def __init__(self, setup: Setup = DEFAULT_SETUP):
        self._setup = setup

    def examine(self, model: ModelAccess, images: Tensor) -> EncoderStatistic:
        """Return the statistic; see :class:`platodef_cli.defences.interface.EncoderDetector`."""
        setup = self._setup
        if len(images) < MIN_IMAGES:
            raise UsageError(f"inverting triggers needs at least {MIN_IMAGES} images, not {len(images)}")
        features = model.features(images[:MAX_IMAGES])
        mean = features.mean(dim=0)
        centres = self._centres(F.normalize(features - mean, dim=1))
        generator = torch.Generator().manual_seed(setup.seed)
        areas = []
        with setup.progress.step(
            f"inverting a trigger per cluster of {model.name} (SSL-Cleanse)", STEPS * len(centres)
        ) as task:
            for number in range(len(centres)):
                trigger = invert(
                    model,
                    images,
                    reach_cluster(mean, centres, number),
                    steps=STEPS,
                    batch=min(BATCH, len(images)),
                    generator=generator,
                    task=task,
                    cost=published_cost if setup.mode == "published" else None,
                )
                areas.append(trigger.area)
        values = torch.tensor(areas, dtype=torch.float64)
        details = {f"mask area, cluster {number}": area for number, area in enumerate(areas)}
        return EncoderStatistic(anomaly_index(values), details)

    def _centres(self, unit: Tensor) -> Tensor:
        """Return the cluster centres ``[K, D]`` of clean features of unit length."""
        from sklearn.cluster import KMeans

        means = KMeans(CLUSTERS, n_init=4, random_state=self._setup.seed).fit(unit.double().numpy())
        return torch.from_numpy(means.cluster_centers_).float()
