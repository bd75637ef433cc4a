"""Local outlier factor (Breunig et al. 2000), by scikit-learn; needs source features and a clean bank."""

import torch
from torch import Tensor

from platodef_cli.defences.interface import DEFAULT_SETUP, Setup, require_bank
from platodef_cli.errors import UsageError
from platodef_cli.features.access import Access
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.heads import Heads

NEIGHBOURS = 20


class LofDetector:
    """Local outlier factor of the source among clean ones, in standardised features.

    Args:
        heads: Fitted heads, for the standardisation.
        clean: The reference bank, in default mode.
        setup: ``published`` looks for outliers within the scored batch.

    Raises:
        UsageError: Default mode without a bank of more than k rows.
    """

    name = "lof"
    needs = frozenset({Access.features})
    bank = NEIGHBOURS + 1
    description = "Sparser than its neighbours: blind where a backdoor lands among clean features."
    use_when = "You have no reference encoder, and clean features are dense here and sparse there."
    published = "outliers within the scored batch, so many alike poisons look normal"
    expected_auroc = None

    def __init__(self, heads: Heads, clean: FeatureTuples | None = None, setup: Setup = DEFAULT_SETUP):
        from sklearn.neighbors import LocalOutlierFactor

        self._heads, self._published = heads, setup.mode == "published"
        self._factor = LocalOutlierFactor(n_neighbors=NEIGHBOURS, novelty=not self._published)
        if not self._published:
            bank = require_bank(self.name, clean, self.bank)
            self._factor.fit(heads.standardise_source(bank).double().numpy())

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Return float64 ``[N]``; higher is more suspicious.

        Raises:
            UsageError: Published mode with too small a batch.
        """
        rows = self._heads.standardise_source(tuples).double().numpy()
        if not len(rows):
            return torch.zeros(0, dtype=torch.float64)
        if not self._published:
            return -torch.from_numpy(self._factor.score_samples(rows)).double()
        if len(rows) <= NEIGHBOURS:
            raise UsageError(f"{len(rows)} rows have no {NEIGHBOURS} neighbours each; give more")
        self._factor.fit_predict(rows)
        return -torch.from_numpy(self._factor.negative_outlier_factor_).double()
