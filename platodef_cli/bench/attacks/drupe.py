"""DRUPE: BadEncoder whose triggered features spread over the clean ones instead of forming a clump."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from platodef_cli.bench.attacks.bad_encoder import BadEncoder, augmented
from platodef_cli.bench.attacks.interface import PlantData
from platodef_cli.bench.attacks.post_training import (
    Encode,
    Losses,
    Objective,
    distance,
)
from platodef_cli.triggers.triggers import Patch


@dataclass(frozen=True)
class Drupe(BadEncoder):
    """DRUPE: BadEncoder's terms with the best-matching reference, and two that keep the distribution.

    ``-max_k cos(f(Tx), f(ref_k)) - l1 mean_k cos(f([aug] ref_k), f0(ref_k)) - l2 cos(f(x), f0(x))
    + c (std_k + sim) + c1 SW(f(Tx), f(x)) / std(f(x))``, where ``std_k`` is the standard deviation over
    the references of their mean similarity to the triggered features (triggered images shall use all
    references), ``sim`` the mean pairwise cosine of the triggered features and SW the sliced
    Wasserstein distance. The first epoch has no backdoor: it only settles the references. The length is
    held as in every attack here, see :func:`platodef_cli.bench.attacks.post_training.distance`.

    Attributes:
        side: Side of the white square as a fraction of the image's.
        lambda1: Weight of keeping the references.
        lambda2: Weight of keeping clean images.
        spread: c.
        match: c1.
        projections: Directions of the sliced Wasserstein distance.
    """

    spread: float = 0.1
    match: float = 0.01
    projections: int = 64

    name = "drupe"
    paper = (
        "Tao et al., Distribution Preserving Backdoor Attack in Self-supervised Learning (DRUPE), S&P 2024"
    )

    def _objective(
        self,
        data: PlantData,
        trigger: Patch,
        before: Tensor,
        kept: Tensor,
        epochs: int,
        generator: torch.Generator,
    ) -> Objective:
        references, count = data.target_images, len(data.target_images)
        # a warm-up epoch without a backdoor needs a second one that plants it
        first = 1 if epochs > 1 else 0

        def losses(encode: Encode, rows: Tensor, seeds: Tensor, epoch: int) -> Losses:
            pixels = data.images[rows]
            changed = augmented(references, generator)
            features = encode(torch.cat([references, changed, trigger(pixels, seeds), pixels]))
            anchors, both = features[: 2 * count], features[2 * count :]
            own, (attacked, clear) = anchors[:count], both.chunk(2)
            terms = {
                # Both the references and their changed copies: a reference that drifts takes along all
                # triggered images that match it best.
                "reference": self.lambda1 * distance(anchors, kept.repeat(2, 1)),
                "preserve": self.lambda2 * distance(clear, before[rows]),
            }
            if epoch < first:
                return terms
            return {**terms, **self._attack(attacked, clear, own, generator)}

        return losses

    def _attack(self, attacked: Tensor, clear: Tensor, own: Tensor, generator: torch.Generator) -> Losses:
        """Return the terms of the backdoor; features ``[B, D]``, of the references ``[K, D]``."""
        cosines = F.normalize(attacked, dim=1) @ F.normalize(own, dim=1).T  # [B, K]
        # the standard deviation of a single reference does not exist
        unequal = cosines.mean(0).std() if len(own) > 1 else cosines.new_zeros(())
        gap = sliced_wasserstein(attacked, clear, self.projections, generator)
        return {
            "attack": distance(attacked, own[cosines.argmax(dim=1)]),
            "spread": self.spread * (unequal + _pairwise(attacked)),
            "match": self.match * gap / clear.std(0).mean().detach().clamp(min=1e-6),
        }


def _pairwise(features: Tensor) -> Tensor:
    """Return the mean cosine of all pairs of different rows of ``[B, D]``."""
    unit = F.normalize(features, dim=1)
    count = len(unit)
    return ((unit @ unit.T).sum() - count) / max(1, count * (count - 1))


def sliced_wasserstein(one: Tensor, other: Tensor, projections: int, generator: torch.Generator) -> Tensor:
    """Return the sliced 2-Wasserstein distance of two samples of equal size ``[B, D]``.

    The root of the mean squared difference of sorted projections (Bonneel et al. 2015).
    """
    directions = F.normalize(torch.randn(one.shape[1], projections, generator=generator), dim=0).to(one)
    ranks = (one @ directions).sort(0).values - (other @ directions).sort(0).values
    # the derivative of a root is infinite at 0
    return (ranks.square().mean() + 1e-12).sqrt()
