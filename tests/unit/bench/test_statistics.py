import pytest

from platodef_cli.bench.results import ResultColumn, ResultRow, Value
from platodef_cli.bench.statistics import average, joined, repeated, wilson


def test_students_interval_over_three_seeds() -> None:
    # mean 0.5, standard deviation 0.1, t(0.975, 2) = 4.302653: half width 4.302653 * 0.1 / sqrt(3)
    found = repeated([Value(value=0.4), Value(value=0.5), Value(value=0.6)])
    assert found.value == pytest.approx(0.5)
    assert found.low == pytest.approx(0.5 - 0.248414, abs=1e-5)
    assert found.high == pytest.approx(0.5 + 0.248414, abs=1e-5)
    assert found.n == 3


def test_interval_of_shares_stays_in_the_unit_interval() -> None:
    found = repeated([Value(value=0.0), Value(value=0.1)])
    assert found.low == 0.0
    beyond = repeated([Value(value=1.0), Value(value=10.0)], share=False)
    assert beyond.low is not None
    assert beyond.low < 0  # nats or counts are not cut


def test_repetitions_that_agree_keep_the_interval_of_the_images() -> None:
    found = repeated([Value(value=1.0, low=0.9, high=1.0), Value(value=1.0, low=0.8, high=1.0)])
    assert (found.value, found.high, found.n) == (1.0, 1.0, 2)
    assert found.low == pytest.approx(0.85)
    # Student's is wider here: t(0.975, 1) = 12.706, so it is cut on both sides
    apart = repeated([Value(value=0.4, low=0.39, high=0.41), Value(value=0.6, low=0.59, high=0.61)])
    assert (apart.low, apart.high) == (0.0, 1.0)


def test_seeds_are_averaged_within_an_encoder_before_encoders_are_compared() -> None:
    columns = (
        ResultColumn(key="a:ASR", group="a", label="ASR"),
        ResultColumn(key="a:CR", group="a", label="CR", unit="plain"),
        ResultColumn(key="b:ASR", group="b", label="ASR"),
    )
    seeds = [[0.1, 0.2, 0.3], [0.6]]
    found = joined(
        [[{"a:ASR": Value(value=v), "a:CR": Value(value=v - 1)} for v in one] for one in seeds], columns
    )
    assert set(found) == {"a:ASR", "a:CR"}
    assert found["a:ASR"].value == pytest.approx(0.4)  # of 0.2 and 0.6, not of four numbers
    assert found["a:ASR"].n == 2
    assert found["a:ASR"].low == 0.0
    assert found["a:CR"].low is not None
    assert found["a:CR"].low < -1  # a cosine may be negative, and its interval is not cut


def test_one_seed_keeps_its_own_interval_and_missing_ones_are_left_out() -> None:
    alone = Value(value=0.3, low=0.1, high=0.6)
    assert repeated([Value(value=None, note="no text tower"), alone]) == alone
    assert repeated([Value(value=None, note="no text tower")]) == Value(value=None, n=0, note="no text tower")


def test_average_weighs_rows_equally_and_counts_what_it_averaged() -> None:
    rows = [
        ResultRow(
            label="a", values={"x": Value(value=0.2, n=9), "y": Value(value=None, note="not applicable")}
        ),
        ResultRow(label="b", values={"x": Value(value=0.6, n=1), "y": Value(value=0.5)}),
        ResultRow(label="c", values={"z": Value(value=None, note="missing")}),
    ]
    found = average(rows, "average")
    assert found.kind == "average"
    assert found.values["x"] == Value(value=0.4, n=2, note="2 of 3")
    assert "y" not in average(rows, "average", without="y").values
    assert found.values["y"] == Value(value=0.5, n=1, note="1 of 3")
    assert found.values["z"] == Value(value=None, n=0, note="missing")


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    # Newcombe 1998, Table I: 81/263, 15/148, 0/20 and 1/29 by method 3 (score, no continuity correction)
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_as_published(hits: int, count: int, low: float, high: float) -> None:
    found = wilson(hits, count)
    assert found.value == pytest.approx(hits / count)
    assert found.low == pytest.approx(low, abs=5e-5)
    assert found.high == pytest.approx(high, abs=5e-5)


def test_no_encoders_no_rate() -> None:
    assert wilson(0, 0).value is None
