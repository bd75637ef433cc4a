"""Decomp (He et al. 2025): infected attention heads of a Vision Transformer, counted and repaired.

A feature of unit length is a sum of terms, one per attention head and MLP. A head of the last block is
infected on an image if its dot product with the head's clean mean, the prototype, falls under a limit.

Needs images, and a suspect that is a Vision Transformer whose heads add up.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from platodef_cli.defences.interface import (
    DEFAULT_SETUP,
    ExpectedAuroc,
    PurifierInputs,
    PurifyOptions,
    Setup,
    require_images,
)
from platodef_cli.errors import UsageError
from platodef_cli.features.access import INTERNALS_BATCH, Access, ModelAccess, pixels_of
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.heads import Heads

MIN_IMAGES = 32
QUANTILE = 0.02  # of clean dot products, under which a head is infected
PUBLISHED_LIMIT = 0.002


@dataclass(frozen=True)
class HeadExamination:
    """Heads of the last block on N images.

    Attributes:
        margins: ``[N, H]``, limit minus dot product in clean standard deviations; positive is infected.
        features: ``[N, D]``, as the encoder gives them.
        repaired: ``[N, D]``, infected heads replaced by their prototypes.
    """

    margins: Tensor
    features: Tensor
    repaired: Tensor

    @property
    def infected(self) -> Tensor:
        """Number of infected heads ``[N]``."""
        return (self.margins > 0).sum(dim=1)


@dataclass(frozen=True)
class HeadPrototypes:
    """Clean behaviour of the last block's heads.

    Attributes:
        model: The suspect.
        prototypes: ``[H, D]``, clean means of the heads' terms of unit-length features.
        limits: ``[H]``, dot products under which a head is infected.
        spread: ``[H]``, clean standard deviations of the dot products.
    """

    model: ModelAccess
    prototypes: Tensor
    limits: Tensor
    spread: Tensor

    @classmethod
    def fit(cls, model: ModelAccess, images: Tensor, *, limit: float | None = None) -> "HeadPrototypes":
        """Measure clean images uint8 ``[N, 3, H, W]``.

        Args:
            model: The suspect.
            images: Clean images.
            limit: One limit for all heads (the original's 0.002); None takes each head's 2 % clean quantile.

        Raises:
            NotApplicable: The suspect is no ViT whose heads add up.
            UsageError: There are fewer than 32 images.
        """
        if len(images) < MIN_IMAGES:
            raise UsageError(f"prototypes of attention heads need at least {MIN_IMAGES} clean images")
        heads = torch.cat([unit_heads(model, part)[0] for part in torch.split(images, INTERNALS_BATCH)])
        prototypes = heads.mean(dim=0)  # [H, D]
        products = torch.einsum("nhd,hd->nh", heads, prototypes)
        limits = products.quantile(QUANTILE, dim=0)
        if limit is not None:
            limits = torch.full_like(limits, limit)
        return cls(model, prototypes, limits, products.std(dim=0).clamp_min(1e-12))

    def examine(self, images: Tensor) -> HeadExamination:
        """Look at images uint8 ``[N, 3, H, W]``."""
        parts = [self._examine(part) for part in torch.split(images, INTERNALS_BATCH)] if len(images) else []
        if not parts:
            empty = torch.zeros(0, self.prototypes.shape[1])
            return HeadExamination(torch.zeros(0, len(self.limits)), empty, empty)
        return HeadExamination(
            *(torch.cat([getattr(p, name) for p in parts]) for name in ("margins", "features", "repaired"))
        )

    def _examine(self, images: Tensor) -> HeadExamination:
        heads, features = unit_heads(self.model, images)
        products = torch.einsum("nhd,hd->nh", heads, self.prototypes)
        margins = (self.limits - products) / self.spread
        change = torch.where((margins > 0)[:, :, None], self.prototypes - heads, 0.0).sum(dim=1)
        return HeadExamination(margins, features, features + change * features.norm(dim=1, keepdim=True))


def unit_heads(model: ModelAccess, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the last block's heads ``[B, H, D]`` of unit-length features, and the features ``[B, D]``."""
    decomposed = model.head_terms(images)
    features = decomposed.terms.sum(dim=1)
    length = features.norm(dim=1).clamp_min(1e-12)
    return decomposed.terms[:, decomposed.last_heads] / length[:, None, None], features


class DecompDetector:
    """Number of infected heads; ties are broken by the mean margin to the limits.

    A head is infected if the dot product of its term with its clean mean falls under its limit: the head's
    own 2 % clean quantile, because products scale with the number of heads and the width.

    Args:
        heads: Not used.
        clean: Clean samples with images.
        setup: The suspect; ``published`` takes the limit 0.002 for every head, and leaves ties.

    Raises:
        NotApplicable: The suspect is no ViT whose heads add up, or there are no images.
        UsageError: There are fewer than 32 clean images.
    """

    name = "decomp"
    needs = frozenset({Access.images, Access.internals})
    bank = MIN_IMAGES
    description = (
        "Infected heads in a ViT's last block: blind where earlier blocks or MLPs carry the backdoor."
    )
    use_when = "Your encoder is a pre-norm Vision Transformer and you have no reference encoder."
    published = "one limit of 0.002 for every head instead of its clean quantile, and ties stay"
    expected_auroc = ExpectedAuroc("white square in a ViT", 0.70)

    def __init__(self, heads: Heads, clean: FeatureTuples | None = None, setup: Setup = DEFAULT_SETUP):
        bank, model = require_images(type(self), clean, setup.model)
        self._published = setup.mode == "published"
        limit = PUBLISHED_LIMIT if self._published else None
        self._prototypes = HeadPrototypes.fit(model, pixels_of(bank), limit=limit)

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Return float64 ``[N]``; higher is more suspicious."""
        examination = self._prototypes.examine(pixels_of(tuples))
        count = examination.infected.double()
        # a sigmoid stays between 0 and 1, so it never outweighs a head
        return count if self._published else count + torch.sigmoid(examination.margins.double().mean(dim=1))


class DecompPurifier:
    """The feature, summed again with the clean prototype in the place of every infected head.

    Args:
        heads: Not used.
        options: None of them applies.
        inputs: The suspect and clean images.

    Raises:
        NotApplicable: The suspect is no ViT whose heads add up.
        UsageError: There are fewer than 32 clean images.
    """

    name = "decomp"
    needs = frozenset({Access.features, Access.images, Access.internals})
    description = (
        "Repairs infected heads of a ViT's last block: cannot undo what earlier blocks or MLPs carry."
    )
    use_when = "You have no reference encoder, but clean images, and the suspect is a Vision Transformer."
    evaluations = 1

    def __init__(self, heads: Heads, options: PurifyOptions, inputs: PurifierInputs):
        self._prototypes = HeadPrototypes.fit(inputs.model, pixels_of(inputs.clean))

    def purify(self, tuples: FeatureTuples, *, generator: torch.Generator) -> Tensor:
        """Return repaired source features ``[N, D_s]`` float32; nothing is random."""
        return self._prototypes.examine(pixels_of(tuples)).repaired
