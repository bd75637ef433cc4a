"""Numbers as people read them."""

import pytest

from platodef_cli.records import Interval, Metric
from platodef_cli.report.numbers import (
    compact,
    interval,
    number,
    percent,
    short_interval,
    size,
    with_interval,
)


def _metric(
    value: float | None, low: float | None = None, high: float = 0.0, unit: str | None = None
) -> Metric:
    bounds = None if low is None else Interval(low=low, high=high)
    return Metric(name="m", value=value, interval=bounds, unit=unit)


@pytest.mark.parametrize(
    ("value", "text"), [(0.974, "0.97"), (-0.004, "0.00"), (None, "–"), (1.0, "1.00"), (-1.256, "-1.26")]
)
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(-0.0, "0"), (1234567.0, "1.235e+06"), (0.05, "0.05"), (7.0, "7"), (None, "–")]
)
def test_compact(value: float | None, text: str) -> None:
    assert compact(value) == text


def test_percent() -> None:
    assert percent(0.0514) == "5.1%"
    assert percent(None) == "–"


def test_intervals() -> None:
    assert interval(_metric(0.97, 0.95, 0.98)) == "0.97 [0.95, 0.98]"
    assert interval(_metric(0.97)) == "0.97"
    assert short_interval(_metric(0.97, 0.95, 0.98)) == "0.97 .95-.98"
    assert short_interval(_metric(1.0, 0.99, 1.0)) == "1.00 .99-1.00"
    assert short_interval(_metric(None)) == "–"
    assert short_interval(None) == "–"


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        (_metric(0.051, 0.043, 0.063, "fraction"), "5.1% [4.3%, 6.3%]"),
        (_metric(0.051, unit="fraction"), "5.1%"),
        (_metric(8.03, 7.94, 8.11, "nats"), "8.03 [7.94, 8.11] nats"),
        (_metric(0.9982, 0.9971, 0.9989), "0.998 [0.997, 0.999]"),
        (_metric(1234.5), "1234"),
        (_metric(None, unit="nats"), "– nats"),
    ],
)
def test_measured(metric: Metric, text: str) -> None:
    assert with_interval(metric) == text


@pytest.mark.parametrize(
    ("count", "text"), [(999, "999"), (12_345, "12.3 k"), (1_234_816, "1.2 M"), (2_400_000_000, "2.4 G")]
)
def test_size(count: int, text: str) -> None:
    assert size(count) == text
