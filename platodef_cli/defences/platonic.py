"""Scores of the paper's heads: does the source agree with what trusted references see in the same image?

Every score here asks for features of the suspect and of the references, and for heads fitted on clean
tuples (:mod:`platodef_cli.heads`). Members of :data:`~platodef_cli.heads.evaluate.COMPONENTS` become
detectors of their own; :class:`PlatonicDetector` adds up two or three of them and is the default.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from platodef_cli.defences.interface import DEFAULT_SETUP, ExpectedAuroc, Setup
from platodef_cli.errors import UsageError
from platodef_cli.features.access import Access
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.evaluate import COMPONENTS, scores_of
from platodef_cli.heads.heads import Heads


def members_of(heads: Heads) -> tuple[str, ...]:
    """Return the components that the default detector adds up: the energy too, where networks were fitted."""
    return ("gaussian", "robust") if heads.energy is None else ("energy", "gaussian", "robust")


class ComponentDetector:
    """One component of the heads as a detector; the classes below are its rows.

    Nothing is random, and both modes are the same.

    Args:
        heads: Fitted heads.
        clean: Not used.
        setup: Not used.

    Raises:
        NotApplicable: The component is a network, and the heads have none.
    """

    name: ClassVar[str]
    needs = frozenset({Access.features, Access.references})
    bank = 0
    description: ClassVar[str]
    use_when: ClassVar[str]
    published = ""
    networks: ClassVar[bool] = False
    expected_auroc: ClassVar[ExpectedAuroc | None] = None

    def __init__(self, heads: Heads, clean: FeatureTuples | None = None, setup: Setup = DEFAULT_SETUP):
        if self.networks:
            _ = heads.networks
        self._heads = heads

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Return float64 ``[N]``; higher is more suspicious."""
        return COMPONENTS[self.name](self._heads, tuples)


class EnergyDetector(ComponentDetector):
    """The negative logit of the contrastive head (Eq. 12)."""

    name = "energy"
    networks = True
    description = "Negative logit of the contrastive head: sees any feature that the references contradict."
    use_when = "You want the paper's platonic energy (Eq. 12) by itself, to compare with the paper."
    expected_auroc = ExpectedAuroc("white square", 0.90)


class GaussianDetector(ComponentDetector):
    """The density ratio of jointly Gaussian features."""

    name = "gaussian"
    description = "Closed-form density ratio (CCA): sees any feature that the references contradict."
    use_when = "You have references and want a score without a trained network, exact and fast."
    expected_auroc = ExpectedAuroc("white square", 0.90)


class RidgeDetector(ComponentDetector):
    """The residual of a ridge regression on the references."""

    name = "ridge"
    description = "Ridge residual: sees any feature that the references contradict linearly."
    use_when = "You want the cheapest score that uses references, as a baseline."
    expected_auroc = ExpectedAuroc("white square", 0.80)


class RobustDetector(ComponentDetector):
    """The least density ratio over the sets that leave one reference out.

    Where one reference lies, the score without it is honest, and there a clean source looks clean; an
    attacked one disagrees with every set of honest references, so its minimum stays high.
    """

    name = "robust"
    description = "Closed form without the least agreeing reference: survives one corrupted reference."
    use_when = "You have three references or more and do not trust every one of them."


class DenoiserDetector(ComponentDetector):
    """The residual of the denoiser's conditional mean."""

    name = "denoiser"
    networks = True
    description = (
        "Residual of the denoiser's conditional mean: sees any feature that the references contradict."
    )
    use_when = "You want to know how much the denoiser behind the purifiers sees; for comparison only."


class PlatonicDetector:
    """Mean of the members' scores in robust clean standard deviations.

    A rank or p-value saturates past the largest clean score and would tie all strong attacks, so the
    scale is the median and the median absolute deviation of the held-out clean scores.

    Args:
        heads: Fitted heads with their held-out clean scores.
        clean: Held-out clean tuples to calibrate on instead.
        setup: Not used: nothing is random, and both modes are the same.

    Raises:
        UsageError: The heads carry no clean scores and no tuples were given.
    """

    name = "platonic"
    needs = frozenset({Access.features, Access.references})
    bank = 0
    description = "Closed form and robust score together, with the energy where it was trained: the default."
    use_when = "The default: you have at least one reference encoder and no reason for another detector."
    published = ""
    expected_auroc = ExpectedAuroc("white square", 0.90)

    def __init__(self, heads: Heads, clean: FeatureTuples | None = None, setup: Setup = DEFAULT_SETUP):
        self._heads = heads
        self._scales = {}
        members = members_of(heads)
        known = heads.clean_scores if clean is None else scores_of(heads, clean, members)
        for member in members:
            scores = known.get(member)
            if scores is None or not len(scores):
                raise UsageError(f"these heads carry no clean {member} scores; give clean tuples")
            middle = scores.median()
            self._scales[member] = (middle, (scores - middle).abs().median().clamp_min(1e-12))

    @property
    def members(self) -> tuple[str, ...]:
        """The components whose scores are added up."""
        return tuple(self._scales)

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Return float64 ``[N]``; higher is more suspicious."""
        return self.combine(scores_of(self._heads, tuples, self.members))

    def combine(self, scores: Mapping[str, Tensor]) -> Tensor:
        """Return float64 ``[N]`` from the members' scores ``[N]`` of the same tuples."""
        parts = [(scores[member] - middle) / spread for member, (middle, spread) in self._scales.items()]
        return torch.stack(parts).mean(dim=0)
