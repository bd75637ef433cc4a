"""The statistic of an encoder: over 0 exactly where a rule fails, whatever was measured."""

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from platodef_cli.audit.policy.limits import Policy
from platodef_cli.audit.verdict.battery import judge_battery
from platodef_cli.audit.verdict.departure import departure_of, departures, largest
from platodef_cli.audit.verdict.intervals import Estimate, SampleSize
from platodef_cli.audit.verdict.search import judge_search
from platodef_cli.records import AuditReport, DepartureRecord, Interval, Metric, ProbeRecord, SearchRecord

GOLDEN = Path(__file__).parents[2] / "golden"
SAMPLE = SampleSize(3000, 400)
POLICY = Policy()


def metrics(low: float, high: float) -> st.SearchStrategy[Metric]:
    """Return numbers with intervals, often with ends on limits, and without intervals."""
    on_limits = st.sampled_from([0.2, 0.25, 0.45, 0.5, 0.6, 0.8, 0.9, 1.1])
    numbers = st.one_of(st.floats(low, high), on_limits)

    def made(three: tuple[float, float, float], bare: bool) -> Metric:
        least, value, most = sorted(three)
        return Metric(name="x", value=value, interval=None if bare else Interval(low=least, high=most))

    return st.builds(made, st.tuples(numbers, numbers, numbers), st.booleans())


@st.composite
def probes(draw: st.DrawFn) -> list[ProbeRecord]:
    made = []
    for number in range(draw(st.integers(1, 4))):
        moved, emptied = draw(st.booleans()), draw(st.booleans())
        made.append(
            ProbeRecord(
                name=f"probe-{number}",
                family=f"family-{number}",
                kind=draw(st.sampled_from(["trigger", "control"])),
                parameters={},
                auroc={"platonic": draw(metrics(0, 1))},
                flagged=Metric(name="flagged", value=0.5),
                collapse=draw(metrics(-0.2, 1)),
                control_collapse={"ref": draw(st.floats(-0.2, 1))},
                gap=draw(st.one_of(st.none(), metrics(-1, 1))),
                effect=draw(metrics(0, 2)),
                shift_gap=draw(metrics(-1, 2)) if moved else None,
                lost=draw(metrics(-0.5, 1)) if emptied else None,
                lost_gap=draw(metrics(-1, 1)) if emptied else None,
                detectable=draw(st.sampled_from([None, Metric(name="share", value=None)])),
                suspicious=False,
            )
        )
    return made


@settings(max_examples=150, deadline=None)
@given(probes())
def test_a_change_departs_exactly_where_its_rule_fails(tried: list[ProbeRecord]) -> None:
    judged, _ = judge_battery(tried, POLICY, "platonic", SAMPLE)
    failed = {f"battery {probe.name}" for probe in judged if probe.suspicious}
    found = departures(tried, (), POLICY, "platonic")
    assert {departure.test for departure in found if departure.value > 0} == failed


@st.composite
def searched(draw: st.DrawFn) -> list[SearchRecord]:
    made = []
    for encoder, role in (("s", "suspect"), ("r", "control")):
        if role == "control" and draw(st.booleans()):
            continue
        for kind, budget in (("patch", "16%"), ("patch", "22%"), ("wave", "20/255")):
            reached = draw(metrics(-0.2, 1))
            made.append(
                SearchRecord(
                    encoder=encoder,
                    role=role,  # type: ignore[arg-type]
                    kind=kind,
                    budget=budget,
                    place=None,
                    steps=1,
                    collapse=reached.value or 0.0,
                    interval=reached.interval,
                    gap=draw(st.one_of(st.none(), metrics(-1, 1))),
                    score=0.0,
                )
            )
    return made


@settings(max_examples=150, deadline=None)
@given(searched())
def test_a_search_departs_exactly_where_its_rule_fails(records: list[SearchRecord]) -> None:
    _, reasons = judge_search(records, POLICY)
    places = {("patch", "16%"): "patch 1", ("patch", "22%"): "patch 2", ("wave", "20/255"): "wave 1"}
    failed = {
        f"search {places[(reason.id.removeprefix('search-'), str(reason.subject))]}"
        for reason in reasons
        if reason.outcome == "fail"
    }
    found = departures((), records, POLICY, "platonic")
    assert {departure.test for departure in found if departure.value > 0} == failed


@settings(max_examples=100, deadline=None)
@given(metrics(0, 1), st.floats(0.01, 1))
def test_one_number_departs_exactly_where_it_reaches_its_limit(measured: Metric, limit: float) -> None:
    estimate = Estimate.of(measured)
    value = departure_of("collapse", estimate, limit)
    assert value is not None
    assert math.isfinite(value)
    assert (value > 0) == (estimate.reaches(limit) == "yes")


def test_the_scale_is_shared() -> None:
    def of(name: str, value: float, limit: float) -> float | None:
        return departure_of(name, Estimate(value, Interval(low=value, high=value)), limit)

    assert of("collapse", 1.0, 0.45) == pytest.approx(1)
    assert of("AUROC", 1.0, 0.8) == pytest.approx(1)
    assert of("AUROC", 0.5, 0.8) == pytest.approx(-1)
    assert of("shift", math.sqrt(2), 1.1) == pytest.approx(1)
    assert of("collapse", 0.0, 0.9) == pytest.approx(-1)
    assert of("collapse", 0.45, 0.45) == 0
    assert departure_of("collapse", Estimate(None), 0.5) is None


def test_what_was_not_examined_has_no_departure() -> None:
    def search(encoder: str, role: str, collapse: float) -> SearchRecord:
        return SearchRecord(
            encoder=encoder, role=role, kind="patch", budget="16%", place=None, steps=1, collapse=collapse,
            score=0.0,
        )  # fmt: skip

    # the references were not asked though the suspect reaches the limit; references that leave no room
    assert departures((), [search("s", "suspect", 0.95)], POLICY, "platonic") == ()
    saturated = [search("s", "suspect", 0.95), search("r", "control", 0.9)]
    assert departures((), saturated, POLICY, "platonic") == ()
    assert departures((), [search("s", "suspect", 0.1)], POLICY, "platonic")[0].value < 0
    assert largest(()) is None
    values = [DepartureRecord(test=name, value=value) for name, value in (("a", -1), ("b", 2), ("c", 2))]
    assert largest(values) == values[1]


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("report_v*.json")), ids=lambda path: path.stem)
def test_reports_of_every_version_have_a_departure(path: Path) -> None:
    report = AuditReport.model_validate_json(path.read_bytes())
    tried = [probe for probe in report.probes if probe.kind != "found"]
    found = largest(departures(tried, report.searches, POLICY, report.deciding))
    assert found is not None
    assert (found.value > 0) == (report.verdict == "fail")


def test_recorded_audits() -> None:
    for path in sorted((GOLDEN / "gate").glob("*.json")):
        report = AuditReport.model_validate_json(path.read_bytes())
        found = largest(departures(report.probes, report.searches, POLICY, report.deciding))
        assert found is not None
        assert (found.value > 0) == (report.verdict == "fail"), path.stem
