"""Detection metrics: AUROC with DeLong's interval, ROC curves, histograms.

Scores follow the contract of the detectors: higher is more suspicious.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, ndtri
from torch import Tensor

from platodef_cli.errors import InconclusiveError, UsageError
from platodef_cli.metrics.binomial import exact_interval
from platodef_cli.records import Direction, Histogram, Interval, Metric, RocCurve

Scores: TypeAlias = "Tensor | NDArray[Any] | Sequence[float]"
Array: TypeAlias = NDArray[np.float64]


def auroc(negative_scores: Scores, positive_scores: Scores) -> float:
    """Return the area under the ROC curve, exactly, in O(n log n).

    It is the probability that a random positive scores higher than a random negative; a tie counts
    one half (Mann and Whitney 1947).

    Args:
        negative_scores: ``[n]``, infinities allowed.
        positive_scores: ``[m]``.

    Raises:
        InconclusiveError: One of the groups is empty.
        UsageError: A score is NaN.
    """
    negative, positive = as_scores(negative_scores, "negative"), as_scores(positive_scores, "positive")
    if not len(negative) or not len(positive):
        raise InconclusiveError(
            f"AUROC needs scores of both groups, got {len(negative)} negative and {len(positive)} positive"
        )
    return float(placements(negative, positive)[1].mean())


def auroc_metric(
    negative_scores: Scores,
    positive_scores: Scores,
    level: float = 0.95,
    *,
    name: str = "auroc",
    positive: str = "triggered",
    direction: Direction = "none",
) -> Metric:
    """Return the AUROC with DeLong's confidence interval (DeLong, DeLong and Clarke-Pearson 1988).

    The interval is symmetric on the logit scale, so it stays in [0, 1]. Where the estimated variance
    is 0 (an AUROC of 0 or 1, or all scores tied), DeLong's interval is empty; then the interval is the
    exact binomial one of the smaller group's size.

    Args:
        negative_scores: ``[n]``.
        positive_scores: ``[m]``.
        level: Confidence level.
        name: Name of the metric.
        positive: Name of the positive class.
        direction: What a high value means; it depends on what is compared.

    Returns:
        The metric; its value is None where one of the groups is empty.

    Raises:
        UsageError: A score is NaN.
    """
    low, high = as_scores(negative_scores, "negative"), as_scores(positive_scores, "positive")
    value, interval = None, None
    if len(low) and len(high):
        value, interval = _delong(low, high, level)
    return Metric(
        name=name,
        value=value,
        interval=interval,
        direction=direction,
        positive=positive,
        n_positive=len(high),
        n_negative=len(low),
        unit="fraction",
    )


def roc_curve(
    negative_scores: Scores,
    positive_scores: Scores,
    *,
    detector: str,
    group: str,
    positive: str = "triggered",
    most: int = 100,
) -> RocCurve:
    """Return the empirical ROC curve from (0, 0) to (1, 1), thinned evenly along its length.

    Args:
        negative_scores: ``[n]``, infinities allowed.
        positive_scores: ``[m]``.
        detector: Whose scores they are.
        group: Name of the positive group.
        positive: Name of the positive class of the AUROC.
        most: Points that are kept at most, at least 2.

    Raises:
        InconclusiveError: One of the groups is empty.
        UsageError: A score is NaN, or ``most`` is below 2.
    """
    if most < 2:
        raise UsageError(f"an ROC curve needs at least 2 points, got {most}")
    negative, high = as_scores(negative_scores, "negative"), as_scores(positive_scores, "positive")
    if not len(negative) or not len(high):
        raise InconclusiveError(
            f"an ROC curve needs scores of both groups, got {len(negative)} negative and {len(high)} positive"
        )
    # every distinct score is a threshold that flags itself and what lies above
    thresholds = np.unique(np.concatenate([negative, high]))[::-1]
    counts = [
        np.append(0, len(part) - np.searchsorted(np.sort(part), thresholds)) for part in (negative, high)
    ]
    steps = [np.diff(part) for part in counts]
    # a point on a straight piece adds nothing
    turns = steps[0][1:] * steps[1][:-1] != steps[0][:-1] * steps[1][1:]
    kept = np.flatnonzero(np.concatenate([[True], turns, [True]]))
    fpr, tpr = counts[0] / len(negative), counts[1] / len(high)
    if len(kept) > most:
        places = np.searchsorted(fpr[kept] + tpr[kept], np.linspace(0, 2, most)[1:-1])
        kept = kept[np.unique(np.concatenate([[0], places, [len(kept) - 1]]))]
    return RocCurve(
        detector=detector,
        group=group,
        fpr=tuple(round(float(value), 6) for value in fpr[kept]),
        tpr=tuple(round(float(value), 6) for value in tpr[kept]),
        auroc=auroc_metric(negative, high, name=f"{detector}: {group}", positive=positive),
    )


def histogram(
    groups: Mapping[str, Scores],
    bins: int = 24,
    *,
    name: str = "score",
    threshold: float | None = None,
    stretch: str | None = None,
) -> Histogram:
    """Return the counts of every group over common edges, evenly spaced unless stretched.

    The edges span the 1 to 99 % quantiles of every group (and the threshold), so that a few
    extreme scores do not squeeze the rest into one bin; scores beyond are counted in the end bins.

    Args:
        groups: Name -> scores ``[n]``; infinities are counted in the end bins.
        bins: Number of bins.
        name: Name of the score.
        threshold: Alarm threshold to carry along.
        stretch: Name of a group (the clean one). The edges are then evenly spaced in
            ``asinh((score - median) / MAD)`` of that group, so that attacks with scores hundreds of times
            larger do not squeeze it into one bin, and the threshold is one of them.

    Raises:
        UsageError: A score is NaN, or ``bins`` is below 1.
    """
    if bins < 1:
        raise UsageError(f"a histogram needs at least one bin, got {bins}")
    scores = {group: as_scores(values, group) for group, values in groups.items()}
    spans = [np.quantile(finite, [0.01, 0.99]) for finite in map(_finite, scores.values()) if len(finite)]
    limits = np.concatenate(spans or [np.zeros(1)])
    if threshold is not None and np.isfinite(threshold):
        limits = np.append(limits, threshold)
    low, high = float(limits.min()), float(limits.max())
    # A constant score still needs bins that differ in floating point.
    margin = max(abs(low), abs(high), 1e-6) * 1e-3 if high - low <= 1e-9 * max(abs(low), abs(high)) else 0.0
    low, high = low - margin, high + margin
    if stretch is None:
        edges = np.linspace(low, high, bins + 1)
    else:
        edges = _stretched(_finite(scores[stretch]), low, high, bins, threshold)
    counts = {
        group: tuple(int(count) for count in np.histogram(values.clip(edges[0], edges[-1]), edges)[0])
        for group, values in scores.items()
    }
    return Histogram(name=name, edges=tuple(float(e) for e in edges), counts=counts, threshold=threshold)


def _stretched(clean: Array, low: float, high: float, bins: int, threshold: float | None) -> Array:
    middle = float(np.median(clean)) if len(clean) else 0.0
    spread = max(float(np.median(np.abs(clean - middle))), 1e-9 * (high - low)) if len(clean) else 1.0
    places = np.linspace(np.arcsinh((low - middle) / spread), np.arcsinh((high - middle) / spread), bins + 1)
    edges: Array = middle + spread * np.sinh(places)
    edges[0], edges[-1] = low, high  # not a rounding error beside them
    if threshold is not None and low < threshold < high and bins > 1:
        edges[1 + int(np.argmin(np.abs(edges[1:-1] - threshold)))] = threshold
    return edges


def as_scores(values: Scores, group: str) -> Array:
    """Return scores as float64 ``[n]``.

    Raises:
        UsageError: One is NaN; the message names the group.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    array = np.asarray(values, dtype=np.float64).reshape(-1)
    if np.isnan(array).any():
        raise UsageError(f"{int(np.isnan(array).sum())} of {len(array)} {group} scores are NaN")
    return array


def _finite(values: Array) -> Array:
    return values[np.isfinite(values)]


def _mid_ranks(values: Array) -> Array:
    """Return ranks from 1, ties sharing the mean of theirs; scipy.stats has them, and loads for a second."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Array = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return ranks


def placements(negative: Array, positive: Array) -> tuple[Array, Array]:
    """Return the placement values ``[n]`` of the negatives and ``[m]`` of the positives.

    A positive's placement is the share of negatives below it, a negative's the share of positives
    above it, ties counting one half; from mid-ranks (Sun and Xu 2014).
    """
    n, m = len(negative), len(positive)
    pooled = _mid_ranks(np.concatenate([negative, positive]))
    above = (pooled[n:] - _mid_ranks(positive)) / n
    below = 1 - (pooled[:n] - _mid_ranks(negative)) / m
    return below, above


def _delong(negative: Array, positive: Array, level: float) -> tuple[float, Interval]:
    n, m = len(negative), len(positive)
    below, above = placements(negative, positive)
    value = float(above.mean())
    variance = sum(float(part.var(ddof=1)) / len(part) if len(part) > 1 else 0.25 for part in (below, above))
    return value, auroc_interval(value, variance, min(n, m), level)


def auroc_interval(value: float, variance: float, size: int, level: float) -> Interval:
    """Return the interval of an AUROC: symmetric on the logit scale, or exact where nothing varies.

    Args:
        value: The AUROC.
        variance: Its estimated variance.
        size: Of the smaller group.
        level: Confidence level.
    """
    if variance < 1e-15 or not 0 < value < 1:
        return exact_interval(value * size, size, level)
    half = float(ndtri((1 + level) / 2)) * variance**0.5 / (value * (1 - value))
    centre = float(logit(value))
    return Interval(low=float(expit(centre - half)), high=float(expit(centre + half)), level=level)
