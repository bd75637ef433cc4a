"""Mahalanobis length of the source alone (Lee et al. 2018); needs source features and fitted heads."""

import torch
from torch import Tensor

from platodef_cli.defences.interface import DEFAULT_SETUP, Setup
from platodef_cli.errors import UsageError
from platodef_cli.features.access import Access
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.heads import Heads


class MahalanobisDetector:
    """Squared Mahalanobis length of the source around the clean mean (Lee et al. 2018, one class).

    Args:
        heads: Fitted heads; their covariance has a floor under small eigenvalues.
        clean: Clean tuples, in published mode only.
        setup: ``published`` takes the plain sample covariance of ``clean``, pseudo-inverted.

    Raises:
        UsageError: Published mode without at least two clean tuples.
    """

    name = "mahalanobis"
    needs = frozenset({Access.features})
    bank = 0
    description = "Length of the source alone: blind where a backdoor lands on clean features of its target."
    use_when = "You have no clean bank at hand, only fitted heads; as a baseline without references."
    published = "plain sample covariance, pseudo-inverted, instead of a floored one"
    expected_auroc = None

    def __init__(self, heads: Heads, clean: FeatureTuples | None = None, setup: Setup = DEFAULT_SETUP):
        self._heads = heads
        self._moments: tuple[Tensor, Tensor] | None = None
        if setup.mode == "published":
            if clean is None or len(clean) < 2:
                raise UsageError("the mahalanobis detector as published needs a bank of clean tuples")
            rows = heads.standardise_source(clean).double()
            self._moments = rows.mean(dim=0), torch.linalg.pinv(torch.cov(rows.T), hermitian=True)

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Return float64 ``[N]``; higher is more suspicious."""
        source = self._heads.standardise_source(tuples)
        if self._moments is None:
            nothing_known = (False,) * len(self._heads.reference_names)
            return self._heads.ridge.posterior(nothing_known).mahalanobis(source).double()  # p(s)
        mean, precision = self._moments
        centred = source.double() - mean
        return (centred @ precision * centred).sum(dim=1)
