"""Intervals of AUROCs whose two groups come from the same images, before and after a change.

DeLong's variance takes the groups for independent. Scores of an image and of the same image changed are not:
an image that scores high stays high, which makes the AUROC more certain than two independent samples would.
Here the variance is that of the sum of what every image contributes (DeLong, DeLong and Clarke-Pearson
1988, with the covariance between the groups kept; Obuchowski 1997, for clustered data of clusters of at
most two).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from platodef_cli.metrics.detection import Array, Scores, as_scores, auroc_interval, placements
from platodef_cli.records import Direction, Metric


@dataclass(frozen=True)
class PairedScores:
    """Scores of clean and of changed images, with the images that they belong to.

    Attributes:
        clean: ``[n]``.
        clean_rows: The images, ``[n]``, each once.
        changed: ``[m]``.
        changed_rows: The images, ``[m]``, each once.
    """

    clean: Array
    clean_rows: NDArray[np.int64]
    changed: Array
    changed_rows: NDArray[np.int64]

    @classmethod
    def of(cls, clean: Scores, clean_rows: Scores, changed: Scores, changed_rows: Scores) -> "PairedScores":
        """Take tensors, arrays or lists.

        Raises:
            UsageError: A score is NaN.
        """
        rows = (
            as_scores(clean_rows, "row").astype(np.int64),
            as_scores(changed_rows, "row").astype(np.int64),
        )
        return cls(as_scores(clean, "clean"), rows[0], as_scores(changed, "changed"), rows[1])

    def auroc(self) -> tuple[float, float]:
        """Return the AUROC of clean against changed and its variance; no group is empty."""
        below, above = placements(self.clean, self.changed)
        value = float(above.mean())
        if min(len(below), len(above)) < 2:
            return value, 0.25
        images = np.union1d(self.clean_rows, self.changed_rows)
        error = np.zeros(len(images))  # what every image contributes; the squares add up to the variance
        for part, rows in ((below, self.clean_rows), (above, self.changed_rows)):
            few = len(part) / (len(part) - 1)
            error[np.searchsorted(images, rows)] += (part - value) / len(part) * few**0.5
        return value, float(np.square(error).sum())


def paired_auroc_metric(
    scores: PairedScores,
    level: float = 0.95,
    *,
    name: str = "auroc",
    positive: str = "triggered",
    direction: Direction = "none",
) -> Metric:
    """Return the AUROC of clean against changed images with an interval that knows that they are paired.

    The interval is symmetric on the logit scale. Where nothing varies (an AUROC of 0 or 1) it is the exact
    binomial one of the smaller group's size.

    Args:
        scores: Of the same images, or of some of them.
        level: Confidence level.
        name: Name of the metric.
        positive: Name of the positive class.
        direction: What a high value means.

    Returns:
        The metric; its value is None where one of the groups is empty.
    """
    n, m = len(scores.clean), len(scores.changed)
    value, interval = None, None
    if n and m:
        value, variance = scores.auroc()
        interval = auroc_interval(value, variance, min(n, m), level)
    return Metric(
        name=name,
        value=value,
        interval=interval,
        direction=direction,
        positive=positive,
        n_positive=m,
        n_negative=n,
        unit="fraction",
    )
