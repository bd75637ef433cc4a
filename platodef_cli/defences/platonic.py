"""The default detector: the head's components, each put on its clean scale, added up."""

from collections.abc import Mapping

import torch
from torch import Tensor

from platodef_cli.defences.interface import DEFAULT_SETUP, Access, ExpectedAuroc, Setup
from platodef_cli.errors import UsageError
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.evaluate import (
    COMPONENTS,
    denoiser_scores,
    energy_scores,
    gaussian_scores,
    ridge_scores,
    robust_scores,
)
from platodef_cli.heads.heads import Heads

MEMBERS = ("energy", "gaussian", "robust")


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
    description = "Energy, closed form and robust score together: the default."
    published = ""
    expected_auroc = ExpectedAuroc("white square", 0.90)

    def __init__(self, heads: Heads, clean: FeatureTuples | None = None, setup: Setup = DEFAULT_SETUP):
        self._heads = heads
        self._scales = {}
        for member in MEMBERS:
            scores = COMPONENTS[member](heads, clean) if clean is not None else heads.clean_scores.get(member)
            if scores is None or not len(scores):
                raise UsageError(f"these heads carry no clean {member} scores; give clean tuples")
            middle = scores.median()
            self._scales[member] = (middle, (scores - middle).abs().median().clamp_min(1e-12))

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Return float64 ``[N]``; higher is more suspicious."""
        return self.combine({member: COMPONENTS[member](self._heads, tuples) for member in MEMBERS})

    def combine(self, scores: Mapping[str, Tensor]) -> Tensor:
        """Return float64 ``[N]`` from the members' scores ``[N]`` of the same tuples."""
        parts = [(scores[member] - middle) / spread for member, (middle, spread) in self._scales.items()]
        return torch.stack(parts).mean(dim=0)


class DenoiserDetector:
    """Mahalanobis length of the source around the denoiser's one-shot mean D(.; sigma_max).

    Args:
        heads: Fitted heads.
        clean: Not used.
        setup: Not used: nothing is random, and both modes are the same.
    """

    name = "denoiser"
    needs = frozenset({Access.features, Access.references})
    bank = 0
    description = (
        "Residual of the denoiser's conditional mean: sees any feature that the references contradict."
    )
    published = ""
    expected_auroc = None

    def __init__(self, heads: Heads, clean: FeatureTuples | None = None, setup: Setup = DEFAULT_SETUP):
        self._heads = heads

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Return float64 ``[N]``; higher is more suspicious."""
        return denoiser_scores(self._heads, tuples)


class EnergyDetector:
    """The platonic energy: the negative logit of the NCE head (paper, Eq. 12).

    Args:
        heads: Fitted heads.
        clean: Not used.
        setup: Not used: nothing is random, and both modes are the same.
    """

    name = "energy"
    needs = frozenset({Access.features, Access.references})
    bank = 0
    description = "Negative logit of the contrastive head: sees any feature that the references contradict."
    published = ""
    expected_auroc = ExpectedAuroc("white square", 0.90)

    def __init__(self, heads: Heads, clean: FeatureTuples | None = None, setup: Setup = DEFAULT_SETUP):
        self._heads = heads

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Return float64 ``[N]``; higher is more suspicious."""
        return energy_scores(self._heads, tuples)


class GaussianDetector:
    """Negative joint-Gaussian log density ratio (CCA): the energy head's closed-form start.

    Args:
        heads: Fitted heads.
        clean: Not used.
        setup: Not used: nothing is random, and both modes are the same.
    """

    name = "gaussian"
    needs = frozenset({Access.features, Access.references})
    bank = 0
    description = "Closed-form density ratio (CCA): sees any feature that the references contradict."
    published = ""
    expected_auroc = ExpectedAuroc("white square", 0.90)

    def __init__(self, heads: Heads, clean: FeatureTuples | None = None, setup: Setup = DEFAULT_SETUP):
        self._heads = heads

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Return float64 ``[N]``; higher is more suspicious."""
        return gaussian_scores(self._heads, tuples)


class RidgeDetector:
    """Mahalanobis length of the ridge residual: how far the source lies from what the references predict.

    Args:
        heads: Fitted heads.
        clean: Not used.
        setup: Not used: nothing is random, and both modes are the same.
    """

    name = "ridge"
    needs = frozenset({Access.features, Access.references})
    bank = 0
    description = "Ridge residual: sees any feature that the references contradict linearly."
    published = ""
    expected_auroc = ExpectedAuroc("white square", 0.80)

    def __init__(self, heads: Heads, clean: FeatureTuples | None = None, setup: Setup = DEFAULT_SETUP):
        self._heads = heads

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Return float64 ``[N]``; higher is more suspicious."""
        return ridge_scores(self._heads, tuples)


class RobustDetector:
    """Minimum over the references of the closed-form score without that reference.

    If one reference lies, the score without it is the honest one, and a clean source looks clean there.
    An attacked source disagrees with every pair of honest references, so its minimum stays high.

    With a single reference it is the ``gaussian`` detector.

    Args:
        heads: Fitted heads.
        clean: Not used.
        setup: Not used: nothing is random, and both modes are the same.
    """

    name = "robust"
    needs = frozenset({Access.features, Access.references})
    bank = 0
    description = "Closed form without the least agreeing reference: survives one corrupted reference."
    published = ""
    expected_auroc = None

    def __init__(self, heads: Heads, clean: FeatureTuples | None = None, setup: Setup = DEFAULT_SETUP):
        self._heads = heads

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Return float64 ``[N]``; higher is more suspicious."""
        return robust_scores(self._heads, tuples)
