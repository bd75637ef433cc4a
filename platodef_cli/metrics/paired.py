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
from scipy.special import expit, logit, ndtri

from platodef_cli.metrics.detection import Array, Scores, as_scores, exact_interval, placements
from platodef_cli.records import Direction, Interval, Metric


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

    def auroc(self) -> float:
        """Return the AUROC of clean against changed; 0.5 where a group is empty."""
        if not len(self.clean) or not len(self.changed):
            return 0.5
        return float(placements(self.clean, self.changed)[1].mean())

    def contributions(self, images: NDArray[np.int64]) -> Array:
        """Return what each of ``images`` (sorted, ``[k]``) contributes to the AUROC's error, ``[k]``.

        The squares of the contributions add up to the variance.
        """
        below, above = placements(self.clean, self.changed)
        value = float(above.mean())
        total = np.zeros(len(images))
        for part, rows in ((below, self.clean_rows), (above, self.changed_rows)):
            few = len(part) / max(1, len(part) - 1)
            total[np.searchsorted(images, rows)] += (part - value) / len(part) * few**0.5
        return total

    def images(self) -> NDArray[np.int64]:
        """Return all images, sorted."""
        return np.union1d(self.clean_rows, self.changed_rows)


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
        value = scores.auroc()
        variance = float(np.square(scores.contributions(scores.images())).sum()) if min(n, m) > 1 else 0.25
        if variance < 1e-15 or not 0 < value < 1:
            interval = exact_interval(value * min(n, m), min(n, m), level)
        else:
            half = float(ndtri((1 + level) / 2)) * variance**0.5 / (value * (1 - value))
            ends = [float(expit(logit(value) + sign * half)) for sign in (-1, 1)]
            interval = Interval(low=ends[0], high=ends[1], level=level)
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
