import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from platodef_cli.errors import InconclusiveError, UsageError
from platodef_cli.metrics.binomial import rate_metric
from platodef_cli.metrics.detection import auroc, auroc_metric, histogram, roc_curve

scores = st.lists(
    st.one_of(st.integers(-3, 3), st.floats(-1e6, 1e6), st.sampled_from([float("inf"), float("-inf")])),
    min_size=1,
    max_size=30,
)


def slow_auroc(negative, positive):
    """The definition: every pair is compared."""
    wins = [1.0 if p > q else 0.5 if p == q else 0.0 for p in positive for q in negative]
    return sum(wins) / len(wins)


def slow_delong_variance(negative, positive):
    """Variance of DeLong et al. 1988, from the matrix of all pairs."""
    psi = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    return psi.mean(1).var(ddof=1) / len(positive) + psi.mean(0).var(ddof=1) / len(negative)


@settings(max_examples=150, deadline=None)
@given(scores, scores)
def test_auroc_equals_the_definition(negative, positive):
    value = auroc(negative, positive)
    assert value == pytest.approx(slow_auroc(negative, positive), abs=1e-12)
    assert value == pytest.approx(1 - auroc(positive, negative), abs=1e-12)


def test_auroc_equals_sklearn_with_ties():
    rng = np.random.default_rng(0)
    negative, positive = rng.normal(size=3000).round(1), rng.normal(1, 2, size=2000).round(1)
    truth = np.r_[np.zeros(3000), np.ones(2000)]
    expected = roc_auc_score(truth, np.r_[negative, positive])
    assert auroc(torch.from_numpy(negative), positive) == pytest.approx(expected, abs=1e-12)


def test_auroc_refuses_empty_and_nan():
    with pytest.raises(InconclusiveError, match="0 negative and 1 positive"):
        auroc([], [1.0])
    with pytest.raises(UsageError, match="1 of 2 positive scores are NaN"):
        auroc([0.0], [1.0, float("nan")])
    assert auroc_metric([], [1.0]).value is None


def test_interval_is_delong_on_the_logit_scale():
    rng = np.random.default_rng(1)
    negative, positive = rng.normal(size=40).round(1), rng.normal(1, 1, size=25).round(1)
    metric = auroc_metric(negative, positive, 0.9, direction="higher is more suspicious")
    assert metric.direction == "higher is more suspicious"
    value = slow_auroc(negative, positive)
    half = 1.6448536269514722 * slow_delong_variance(negative, positive) ** 0.5 / (value * (1 - value))
    logit = np.log(value / (1 - value))
    assert metric.interval.low == pytest.approx(1 / (1 + np.exp(-(logit - half))), abs=1e-9)
    assert metric.interval.high == pytest.approx(1 / (1 + np.exp(-(logit + half))), abs=1e-9)
    assert (metric.n_negative, metric.n_positive, metric.positive) == (40, 25, "triggered")


@pytest.mark.parametrize(("shift", "sizes"), [(0.5, (60, 60)), (1.2, (150, 40)), (2.2, (100, 100))])
def test_interval_covers_the_truth_as_often_as_it_says(shift, sizes):
    from scipy.stats import norm

    truth = norm.cdf(shift / 2**0.5)
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(800):
        interval = auroc_metric(rng.normal(size=sizes[0]), rng.normal(shift, 1, size=sizes[1])).interval
        covered += interval.low <= truth <= interval.high
    # 800 draws of a 95 % event: 93 % is 2.6 standard errors away.
    assert 0.93 <= covered / 800 <= 0.985


@pytest.mark.parametrize(("shift", "value"), [(10.0, 1.0), (-10.0, 0.0)])
def test_interval_of_a_perfect_separation_has_a_width(shift, value):
    few = auroc_metric(np.arange(5.0), np.arange(5.0) + shift)
    many = auroc_metric(np.arange(500.0), np.arange(500.0) + 100 * shift)
    assert few.value == many.value == value
    width = [m.interval.high - m.interval.low for m in (few, many)]
    assert width[0] == pytest.approx(1 - 0.025 ** (1 / 5), abs=1e-9)  # exact binomial: 5 of 5
    assert width[1] < 0.01
    assert 0 <= few.interval.low <= few.value <= few.interval.high <= 1


def test_all_tied_is_one_half_with_a_width():
    metric = auroc_metric(np.zeros(20), np.zeros(30))
    assert metric.value == 0.5
    assert 0.2 < metric.interval.low < 0.4 < 0.6 < metric.interval.high < 0.8


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (97, 1000)])
def test_rate_interval_is_exact_binomial(k, n):
    metric = rate_metric(k, n, name="ASR", positive="hit")
    assert metric.value == k / n
    low, high = metric.interval.low, metric.interval.high
    if k:
        assert binom.sf(k - 1, n, low) == pytest.approx(0.025, abs=1e-9)
    else:
        assert low == 0
    if k < n:
        assert binom.cdf(k, n, high) == pytest.approx(0.025, abs=1e-9)
    else:
        assert high == 1


def test_rate_of_nothing_and_of_nonsense():
    assert rate_metric(0, 0).value is None
    assert rate_metric(0, 0).interval is None
    with pytest.raises(UsageError, match="counts 3 of 2"):
        rate_metric(3, 2)


def test_histogram_counts_everything_over_common_edges():
    rng = np.random.default_rng(2)
    clean = np.r_[rng.normal(size=990), np.full(5, 1e9), np.full(5, -np.inf)]
    record = histogram({"clean": clean, "patch": rng.normal(5, 1, 400)}, name="energy", threshold=3.5)
    assert len(record.edges) == 25
    assert sum(record.counts["clean"]) == 1000
    assert sum(record.counts["patch"]) == 400
    assert record.edges[-1] < 100  # a few huge scores do not squeeze the rest
    assert record.edges[0] <= 3.5 <= record.edges[-1]
    inner, _ = np.histogram(clean, np.array(record.edges))
    assert record.counts["clean"][5:20] == tuple(inner[5:20])


@pytest.mark.parametrize("value", [0.0, 1.0, -1e12, 1e-30])
def test_histogram_of_a_constant(value):
    record = histogram({"clean": [value] * 7, "empty": []}, bins=4)
    assert all(low < high for low, high in zip(record.edges, record.edges[1:], strict=False))
    assert sum(record.counts["clean"]) == 7
    assert record.counts["empty"] == (0, 0, 0, 0)


def test_histogram_refuses_nan():
    with pytest.raises(UsageError, match="1 of 2 patch scores are NaN"):
        histogram({"patch": [0.0, float("nan")]})


def test_stretched_histogram_resolves_the_clean_group_and_has_the_threshold_as_an_edge():
    rng = np.random.default_rng(5)
    clean, attack = rng.normal(0, 1, 2000), rng.normal(600, 150, 300)
    groups = {"clean": clean, "patch": attack}
    record = histogram(groups, bins=36, threshold=1.7, stretch="clean")
    edges = np.array(record.edges)
    assert (np.diff(edges) > 0).all()
    assert 1.7 in record.edges
    place = record.edges.index(1.7)
    for name, scores in groups.items():
        assert sum(record.counts[name]) == len(scores)
        assert sum(record.counts[name][place:]) == int((scores >= 1.7).sum())
    assert sum(count > 0 for count in record.counts["clean"]) >= 10
    even = histogram(groups, bins=36, threshold=1.7)
    assert sum(count > 0 for count in even.counts["clean"]) <= 2
    constant = histogram({"clean": [3.0] * 9}, bins=4, threshold=3.0, stretch="clean")
    assert sum(constant.counts["clean"]) == 9


def points(curve):
    return list(zip(curve.fpr, curve.tpr, strict=True))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(-5, 5), min_size=1, max_size=40),
    st.lists(st.integers(-5, 5), min_size=1, max_size=40),
)
def test_roc_curve_equals_sklearn_where_nothing_is_thinned(negative, positive):
    curve = roc_curve(negative, positive, detector="d", group="g")
    truth = np.r_[np.zeros(len(negative)), np.ones(len(positive))]
    fpr, tpr, _ = sklearn_roc_curve(truth, np.r_[negative, positive])
    area = np.trapezoid(curve.tpr, curve.fpr)
    assert area == pytest.approx(np.trapezoid(tpr, fpr), abs=1e-4)
    assert area == pytest.approx(slow_auroc(negative, positive), abs=1e-4)
    every = {(round(float(x), 6), round(float(y), 6)) for x, y in zip(fpr, tpr, strict=True)}
    # sklearn drops collinear points of its own choice, so its points are among ours or on our lines
    assert {(0.0, 0.0), (1.0, 1.0)} <= set(points(curve)) & every
    assert curve.auroc.value == pytest.approx(slow_auroc(negative, positive))


def test_long_roc_curves_are_thinned_to_points_of_the_curve():
    rng = np.random.default_rng(0)
    negative, positive = rng.normal(size=4000), rng.normal(2, 1, size=3000)
    curve = roc_curve(torch.from_numpy(negative), positive, detector="d", group="patch", positive="triggered")
    assert len(curve.fpr) <= 100
    assert points(curve)[0] == (0, 0)
    assert points(curve)[-1] == (1, 1)
    assert all(a <= b for part in (curve.fpr, curve.tpr) for a, b in zip(part, part[1:], strict=False))
    for x, y in points(curve):
        threshold = np.sort(negative)[::-1][round(x * 4000) - 1] if x else np.inf
        low = np.mean(positive >= threshold)
        following = np.sort(negative)[::-1][round(x * 4000)] if x < 1 else -np.inf
        assert low - 1e-6 <= y <= np.mean(positive > following) + 1e-6
    assert np.trapezoid(curve.tpr, curve.fpr) == pytest.approx(auroc(negative, positive), abs=2e-3)
    assert curve.auroc.positive == "triggered"


def test_roc_curve_of_infinite_scores_and_its_errors():
    assert points(roc_curve([0, 1], [float("inf")], detector="d", group="g")) == [(0, 0), (0, 1), (1, 1)]
    with pytest.raises(InconclusiveError, match="0 negative"):
        roc_curve([], [1.0], detector="d", group="g")
    with pytest.raises(UsageError, match="at least 2"):
        roc_curve([0.0], [1.0], detector="d", group="g", most=1)
