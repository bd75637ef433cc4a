"""Isolation forest (Liu et al. 2008), by scikit-learn; needs source features and a clean bank."""

import torch
from torch import Tensor

from platodef_cli.defences.interface import DEFAULT_SETUP, Setup, require_bank
from platodef_cli.features.access import Access
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.heads import Heads

TREES = 100
MIN_ROWS = 16


class IsolationForestDetector:
    """How few random cuts isolate a source from the reference rows; 100 trees of 256 rows.

    Args:
        heads: Fitted heads, for the standardisation.
        clean: The reference bank, in default mode.
        setup: ``published`` grows the forest on the scored batch; the seed draws the cuts.

    Raises:
        UsageError: Default mode without a bank of at least 16 rows.
    """

    name = "iforest"
    needs = frozenset({Access.features})
    bank = MIN_ROWS
    description = "Easily cut off from clean sources: blind where a backdoor lands on clean features."
    use_when = "You have no reference encoder and so many clean samples that distances to all cost too much."
    published = "the forest grows on the scored batch, so many alike poisons look normal"
    expected_auroc = None

    def __init__(self, heads: Heads, clean: FeatureTuples | None = None, setup: Setup = DEFAULT_SETUP):
        from sklearn.ensemble import IsolationForest

        self._heads, self._published = heads, setup.mode == "published"
        self._forest = IsolationForest(n_estimators=TREES, random_state=setup.seed)
        if not self._published:
            bank = require_bank(self.name, clean, self.bank)
            self._forest.fit(heads.standardise_source(bank).double().numpy())

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Return float64 ``[N]``; higher is more suspicious."""
        rows = self._heads.standardise_source(tuples).double().numpy()
        if not len(rows):
            return torch.zeros(0, dtype=torch.float64)
        if self._published:
            self._forest.fit(rows)
        return -torch.from_numpy(self._forest.score_samples(rows)).double()
