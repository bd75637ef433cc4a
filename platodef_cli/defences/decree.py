"""DECREE (Feng et al. 2023): the smallest patch that makes all features alike.

Needs gradients of the encoder, and clean images; no trigger, label or reference.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from platodef_cli.defences.interface import DEFAULT_SETUP, EncoderStatistic, Setup
from platodef_cli.defences.inversion import invert
from platodef_cli.features.access import Access, ModelAccess

STEPS = 120
BATCH = 32
ALIKE = 0.99  # mean pairwise cosine that counts as success
MAX_CLEAN = 256  # images that the clean mean is taken over


def pairwise(features: Tensor) -> Tensor:
    """Return the mean cosine over all pairs of different rows ``[B, D]``."""
    unit = F.normalize(features, dim=1)
    count = len(unit)
    return (unit.sum(dim=0).square().sum() - count) / (count * (count - 1))


class DecreeDetector:
    """Negative share of the image that the smallest mask covers (1 where no mask succeeds).

    Success is a mean pairwise cosine above 0.99. The default centres features by the clean mean first,
    because the raw cosine of clean features can be near 1 already; that number is reported.

    Args:
        setup: The seed; ``published`` compares raw features.
    """

    name = "decree"
    needs = frozenset({Access.gradients})
    description = (
        "Smallest mask that makes features alike: finds patches, weak on triggers of the whole image."
    )
    use_when = "You ask about a whole encoder and have clean encoders to compare its number with."
    published = "cosines of raw features, which are alike already in encoders with a large mean"
    statistic = "negative area of the smallest mask (fraction of the image)"

    def __init__(self, setup: Setup = DEFAULT_SETUP):
        self._setup = setup

    def examine(self, model: ModelAccess, images: Tensor) -> EncoderStatistic:
        """Return the statistic; see :class:`platodef_cli.defences.interface.EncoderDetector`."""
        setup = self._setup
        clean = model.features(images[:MAX_CLEAN])
        own = float(pairwise(clean))
        centre = torch.zeros(clean.shape[1]) if setup.mode == "published" else clean.mean(dim=0)

        def goal(features: Tensor) -> tuple[Tensor, bool]:
            alike = pairwise(features - centre)
            return -alike, bool(alike.detach() > ALIKE)

        with setup.progress.step(f"inverting a trigger of {model.name} (DECREE)", STEPS) as task:
            generator = torch.Generator().manual_seed(setup.seed)
            trigger = invert(
                model,
                images,
                goal,
                steps=STEPS,
                batch=min(BATCH, len(images)),
                generator=generator,
                task=task,
                factor=5**0.5,
            )
        details = {"mask area": trigger.area, "succeeded": float(trigger.success), "clean self-cosine": own}
        return EncoderStatistic(-trigger.area, details)
