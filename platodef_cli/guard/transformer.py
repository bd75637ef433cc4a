"""The guard as a step of a scikit-learn pipeline."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted

from platodef_cli.defences import DEFAULT_DETECTOR, DEFAULT_PURIFIER
from platodef_cli.defences.interface import PurifyOptions
from platodef_cli.errors import UsageError
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.guard.guard import Guard, Guarded
from platodef_cli.heads.heads import Heads


class GuardTransformer(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Takes the features of all encoders side by side, returns the suspect's, cleaned.

    A row of X is ``[source, reference 1, reference 2, ...]``, the references in the order of the heads;
    :meth:`join` makes it of features. Nothing is learned from X: ``fit`` loads the heads. What follows in the
    pipeline sees ``[N, D_s]``. Every call of ``transform`` counts for the monitor ``guard_.drift``;
    ``fit_transform``, which gets training data, does not.

    Args:
        head: As in :meth:`Guard.load`, as all of the following.
        detector: Its name.
        purifier: Its name.
        options: Of the purifier.
        rate: Share of clean rows that may be flagged.
        calibrate: Clean features that nothing was fitted on.
        error: Of the monitor.
        seed: Of what draws.
        device: Of the heads.

    Attributes:
        guard_: The guard, after ``fit``.
        n_features_in_: Columns of X.
    """

    def __init__(
        self,
        head: str | Path | Heads,
        *,
        detector: str = DEFAULT_DETECTOR,
        purifier: str = DEFAULT_PURIFIER,
        options: PurifyOptions | None = None,
        rate: float = 0.05,
        calibrate: FeatureTuples | str | Path | None = None,
        error: float = 0.01,
        seed: int = 0,
        device: str = "cpu",
    ):
        self.head, self.detector, self.purifier, self.options = head, detector, purifier, options
        self.rate, self.calibrate, self.error = rate, calibrate, error
        self.seed, self.device = seed, device

    def fit(self, X: ArrayLike, y: Any = None) -> "GuardTransformer":
        """Load the heads and check the number of columns; labels are ignored.

        Raises:
            UsageError: X has another number of columns than the encoders of the heads have together.
        """
        self.guard_ = Guard.load(**self.get_params(deep=False))
        heads = self.guard_.heads
        self._dims = [heads.source_dim, *heads.reference_dims]
        self.n_features_in_ = sum(self._dims)
        self._tuples(X)
        return self

    def fit_transform(self, X: ArrayLike, y: Any = None, **params: Any) -> NDArray[np.float32]:
        """Return cleaned ``[N, D_s]`` of training data, which the monitor does not count."""
        self.fit(X, y)
        return self.guard_.clean(self._tuples(X)).features.numpy()

    def transform(self, X: ArrayLike) -> NDArray[np.float32]:
        """Return cleaned ``[N, D_s]``.

        Raises:
            UsageError: X does not fit the heads, or features of a reference are not finite.
        """
        return self.guard(X).features.numpy()

    def guard(self, X: ArrayLike) -> Guarded:
        """Return cleaned features, p-values and flags of X, and count the flags."""
        check_is_fitted(self, "guard_")
        result: Guarded = self.guard_(self._tuples(X))
        return result

    def score_samples(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return conformal p-values ``[N]``: lower is more suspicious, as everywhere in scikit-learn."""
        check_is_fitted(self, "guard_")
        return self.guard_.clean(self._tuples(X)).p_values.numpy()

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Return ``source0``, ``source1``, ..."""
        check_is_fitted(self, "guard_")
        return np.array([f"source{place}" for place in range(self._dims[0])], dtype=object)

    def join(self, tuples: FeatureTuples) -> NDArray[np.float32]:
        """Return feature tuples as rows of X.

        Raises:
            UsageError: A reference of the heads is missing.
        """
        heads = (
            self.guard_.heads if hasattr(self, "guard_") else Guard.load(**self.get_params(deep=False)).heads
        )
        missing = [name for name in heads.reference_names if name not in tuples.references]
        if missing:
            raise UsageError(f"the features lack reference {missing[0]!r} of these heads")
        parts = [tuples.source, *(tuples.references[name] for name in heads.reference_names)]
        return torch.cat([part.float() for part in parts], dim=1).numpy()

    def _tuples(self, X: ArrayLike) -> FeatureTuples:
        # what is not finite is the guard's to judge
        values = check_array(X, dtype=np.float32, ensure_all_finite=False, ensure_min_samples=0)
        if values.shape[1] != self.n_features_in_:
            parts = " + ".join(map(str, self._dims))
            raise UsageError(f"X has {values.shape[1]} columns; the encoders of these heads have {parts}")
        rows = torch.split(torch.from_numpy(np.ascontiguousarray(values)), self._dims, dim=1)
        return FeatureTuples(rows[0], dict(zip(self.guard_.heads.reference_names, rows[1:], strict=True)))
