"""What an interval says about a limit, and that the predicted number of images really settles it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from platodef_cli.audit.verdict.intervals import (
    Answer,
    Comparison,
    Estimate,
    SampleSize,
    Scale,
    all_of,
    compare,
)
from platodef_cli.metrics.binomial import rate_metric
from platodef_cli.metrics.detection import auroc_metric
from platodef_cli.records import Interval, Metric
from platodef_cli.search.resampling import collapse_draws, interval_of

DRAWS = 200


@pytest.mark.parametrize(
    ("low", "high", "answer"),
    [(0.81, 0.9, "yes"), (0.7, 0.79, "no"), (0.7, 0.9, "unsure"), (0.8, 0.9, "unsure"), (0.7, 0.8, "unsure")],
)
def test_a_limit_inside_the_interval_is_undecided(low: float, high: float, answer: Answer) -> None:
    assert Estimate((low + high) / 2, Interval(low=low, high=high)).reaches(0.8) == answer


def test_exact_and_missing_values() -> None:
    assert Estimate(0.8).reaches(0.8) == "yes"
    assert Estimate(0.79).reaches(0.8) == "no"
    assert Estimate(None).reaches(0.8) == "unsure"
    assert Estimate(None).growth(0.8) is None
    assert Estimate(0.8).growth(0.8) is None


@pytest.mark.parametrize(
    ("answers", "answer"),
    [(("yes", "yes"), "yes"), (("yes", "unsure"), "unsure"), (("unsure", "no"), "no"), (("no", "yes"), "no")],
)
def test_one_clear_no_settles_all(answers: tuple[Answer, ...], answer: Answer) -> None:
    assert all_of(answers) == answer


def share_settled(settled: list[bool]) -> float:
    return sum(settled) / len(settled)


@pytest.mark.parametrize(("rate", "limit", "n"), [(0.30, 0.35, 100), (0.05, 0.08, 150), (0.9, 0.93, 200)])
def test_rates_are_settled_by_the_predicted_number(rate: float, limit: float, n: int) -> None:
    """Simulation: exact binomial intervals at the predicted n exclude the limit nine times in ten."""
    first = Estimate.of(rate_metric(round(rate * n), n), "rate")
    growth = first.growth(limit)
    assert growth is not None
    assert first.reaches(limit) == "unsure"
    generator = np.random.default_rng(0)

    def settles(images: int) -> float:
        hits = generator.binomial(images, first.value, size=DRAWS)
        return share_settled(
            [Estimate.of(rate_metric(int(k), images)).reaches(limit) != "unsure" for k in hits]
        )

    assert 0.84 <= settles(math.ceil(growth * n)) <= 0.97
    assert settles(math.ceil(growth * n / 4)) < 0.5


def binormal(generator: np.random.Generator, n: int, distance: float) -> Metric:
    return auroc_metric(generator.normal(size=n), generator.normal(distance, size=n))


def test_auroc_is_settled_by_the_predicted_number() -> None:
    """Two normals at distance d have AUROC Phi(d / sqrt 2); DeLong's interval at the predicted n excludes."""
    generator = np.random.default_rng(1)
    limit, distance = 0.80, 1.0  # Phi(0.707) = 0.760
    truth = 0.5 * (1 + math.erf(distance / 2))
    # the standard error of n = 60, without the luck of one draw
    intervals = [binormal(generator, 60, distance).interval for _ in range(DRAWS)]
    low, high = (float(np.median([getattr(i, end) for i in intervals])) for end in ("low", "high"))
    growth = Estimate(truth, Interval(low=low, high=high), 60, "logit").growth(limit)
    assert growth is not None

    def settles(n: int) -> float:
        return share_settled(
            [Estimate.of(binormal(generator, n, distance)).reaches(limit) == "no" for _ in range(DRAWS)]
        )

    assert 0.82 <= settles(math.ceil(growth * 60)) <= 0.97
    assert settles(math.ceil(growth * 60 / 4)) < 0.55


def directions(generator: torch.Generator, n: int, pull: float) -> torch.Tensor:
    """Directions around a common one in 24 dimensions."""
    features = torch.randn(n, 24, generator=generator)
    features[:, 0] += pull
    return features


def collapse_of(features: torch.Tensor) -> tuple[float, Interval]:
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    n = len(unit)
    value = float((unit.sum(dim=0).square().sum() - n) / (n * (n - 1)))
    return value, interval_of(collapse_draws(features), value)


def test_collapse_interval_covers_the_truth_and_the_prediction_holds() -> None:
    """The truth is the squared length of the mean direction, from many samples."""
    generator = torch.Generator().manual_seed(0)
    many = torch.nn.functional.normalize(directions(generator, 100_000, 4.0).double(), dim=1)
    truth = float(many.mean(dim=0).square().sum())
    found = [collapse_of(directions(generator, 60, 4.0)) for _ in range(DRAWS)]
    covered = share_settled([interval.low <= truth <= interval.high for _, interval in found])
    assert 0.88 <= covered <= 0.99
    # no bias: pairs of an image with its own copy are left out
    middle = float(np.mean([(interval.low + interval.high) / 2 for _, interval in found]))
    assert middle == pytest.approx(truth, abs=0.004)
    low, high = (float(np.median([getattr(i, end) for _, i in found])) for end in ("low", "high"))
    limit = truth + 0.8 * (high - truth)
    growth = Estimate(truth, Interval(low=low, high=high), 60).growth(limit)
    assert growth is not None
    larger = [collapse_of(directions(generator, math.ceil(60 * growth), 4.0))[1] for _ in range(80)]
    assert 0.82 <= share_settled([interval.high < limit for interval in larger]) <= 0.98


def test_perfect_values_grow_by_the_exact_interval() -> None:
    """k = n: the lower end is (alpha / 2) ** (1 / n)."""
    measured = Estimate.of(rate_metric(20, 20), "rate")
    growth = measured.growth(0.95)
    assert growth is not None
    n = math.ceil(growth * 20)
    assert Estimate.of(rate_metric(n, n)).reaches(0.95) == "yes"
    assert Estimate.of(rate_metric(n - 2, n - 2)).reaches(0.95) == "unsure"


@given(
    st.lists(st.floats(0, 1), min_size=3, max_size=3).map(sorted),
    st.sampled_from(["linear", "logit", "rate"]),
    st.floats(-1, 2),
)
def test_growth_is_a_number_from_one_on_or_none(ends: list[float], scale: Scale, limit: float) -> None:
    low, value, high = ends
    growth = Estimate(value, Interval(low=low, high=high), 50, scale).growth(limit)
    assert growth is None or (math.isfinite(growth) and growth >= 1)


def test_numbers_of_images_are_told_in_all_and_rounded_up() -> None:
    measured = Estimate(0.5, Interval(low=0.4, high=0.6), 400, probed=True)
    needed, told = SampleSize(3000, 400).more([(measured, 0.55)])
    factor = ((1.959964 + 1.281552) / 1.959964 * 0.1 / 0.05) ** 2  # half width against distance
    assert needed == math.ceil(3000 * factor / 1000) * 1000
    assert (
        told
        == f"; about {needed} images and --probe-images {math.ceil(400 * factor / 100) * 100} would settle it"
    )
    assert SampleSize(3000, 400).more([(measured, 0.5)]) == (
        None,
        "; no practical number of images would settle it",
    )
    assert SampleSize(3000, 400).more([(measured, 0.5001)])[0] is None


def test_several_limits_are_compared_at_once() -> None:
    sample = SampleSize(3000, 400)
    high, low = Estimate(0.9), Estimate(0.1)
    between = Estimate(0.5, Interval(low=0.4, high=0.6, level=0.95), 400, probed=True)
    assert compare([("a", high, 0.5), ("b", high, 0.8)], sample) == Comparison("yes")
    assert compare([("a", between, 0.55), ("b", low, 0.5)], sample) == Comparison("no")
    unsure = compare([("a", high, 0.5), ("b", between, 0.55)], sample)
    needed, advice = sample.more([(between, 0.55)])
    assert unsure == Comparison("unsure", f"b 0.50 [0.40, 0.60] straddles 0.55{advice}", needed)
    assert needed is not None
