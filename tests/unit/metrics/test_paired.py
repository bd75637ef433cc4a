"""Paired AUROCs: their intervals cover what they say, and are as short as the pairing allows."""

import numpy as np
import pytest
from scipy.stats import norm

from platodef_cli.metrics.detection import auroc, auroc_metric
from platodef_cli.metrics.paired import PairedScores, paired_auroc_metric

SIMULATIONS = 1000


def simulated(rng, n, m, correlation, shifts):
    """Scores of n clean images and of the first m of them under changes: bivariate normal."""
    common = rng.normal(size=n)
    own = correlation**0.5 * common + (1 - correlation) ** 0.5 * rng.normal(size=n)
    rows = rng.permutation(n)
    picked = np.arange(m)
    scores = []
    for shift in shifts:
        noise = (1 - correlation) ** 0.5 * rng.normal(size=m)
        changed = correlation**0.5 * common[:m] + noise + shift
        scores.append(PairedScores.of(own, rows, changed, rows[picked]))
    return scores


@pytest.mark.parametrize(
    ("n", "m", "correlation", "shift"),
    [(200, 200, 0.0, 1.0), (200, 200, 0.8, 1.0), (300, 150, 0.8, 0.5), (150, 150, 0.5, 1.8)],
)
def test_the_interval_of_a_paired_auroc_covers_95_percent(n, m, correlation, shift):
    rng = np.random.default_rng(0)
    truth = norm.cdf(shift / 2**0.5)
    hits, lengths, unpaired = 0, 0.0, 0.0
    for _ in range(SIMULATIONS):
        (scores,) = simulated(rng, n, m, correlation, [shift])
        interval = paired_auroc_metric(scores).interval
        hits += interval.low <= truth <= interval.high
        lengths += interval.high - interval.low
        plain = auroc_metric(scores.clean, scores.changed).interval
        unpaired += plain.high - plain.low
    # three standard errors of the simulation around 95 %
    assert abs(hits / SIMULATIONS - 0.95) < 0.02
    if correlation == 0:
        assert lengths == pytest.approx(unpaired, rel=0.02)
    elif correlation == 0.8:
        assert lengths < 0.8 * unpaired


def test_the_value_is_the_auroc_and_the_order_of_images_does_not_matter():
    rng = np.random.default_rng(2)
    (scores,) = simulated(rng, 80, 50, 0.5, [1.0])
    metric = paired_auroc_metric(scores)
    assert metric.value == auroc(scores.clean, scores.changed)
    order = rng.permutation(80)
    again = PairedScores.of(
        scores.clean[order], scores.clean_rows[order], scores.changed, scores.changed_rows
    )
    assert paired_auroc_metric(again).interval.low == pytest.approx(metric.interval.low)


def test_perfect_and_empty_groups_have_what_unpaired_ones_have():
    scores = PairedScores.of([0.0, 1.0, 2.0], [5, 6, 7], [10.0, 11.0, 12.0], [5, 6, 7])
    assert paired_auroc_metric(scores) == auroc_metric(scores.clean, scores.changed)
    assert paired_auroc_metric(PairedScores.of([], [], [1.0], [3])).value is None
