"""The baseline: only what is worse decides; what cannot be compared is refused."""

from typing import Any

import pytest

from platodef_cli.audit.policy.limits import Policy
from platodef_cli.audit.verdict import Gate, judge_again
from platodef_cli.errors import UsageError
from platodef_cli.records import AuditReport, Interval, Metric
from tests.unit.audit.test_judge import recorded

BAD, CLEAN = recorded("backdoored"), recorded("clean")


def judged(report: AuditReport, baseline: AuditReport, **policy: Any) -> AuditReport:
    return judge_again(report, Gate(Policy(**policy), baseline=baseline))


def moved(report: AuditReport, name: str, shift: float) -> AuditReport:
    """Return the report with one trigger's collapse and distance moved, intervals and all.

    How far its features move is left out: collapse alone shall decide.
    """

    def shifted(metric: Metric | None) -> Metric | None:
        if metric is None or metric.value is None or metric.interval is None:
            return metric
        interval = Interval(low=metric.interval.low + shift, high=metric.interval.high + shift)
        return metric.model_copy(update={"value": metric.value + shift, "interval": interval})

    probes = tuple(
        p.model_copy(update={"collapse": shifted(p.collapse), "gap": shifted(p.gap), "shift_gap": None})
        if p.name == name
        else p
        for p in report.probes
    )
    return judge_again(report.model_copy(update={"probes": probes}), Gate(Policy()))


TOP = "patch-white-0.3125-top-right"


def test_the_same_report_has_nothing_new() -> None:
    report = judged(BAD, BAD)
    assert report.exit_code == 0
    assert report.changes == ()
    assert "3 no worse than in the baseline" in report.summary
    assert {reason.known for reason in report.reasons if reason.outcome == "fail"} == {True}
    assert report.baseline is not None
    assert (report.baseline.verdict, report.baseline.policy) == ("fail", "default")


def test_what_is_new_fails() -> None:
    report = judged(BAD, CLEAN)
    assert report.exit_code == 1
    new = {change.id for change in report.changes if change.kind == "new"}
    assert f"battery-patch:{TOP}" in new
    assert {change.id for change in report.changes if change.kind == "other"} >= {"target"}
    assert not any(reason.known for reason in report.reasons)


def test_what_is_gone_or_better_is_told_and_passes() -> None:
    report = judged(CLEAN, BAD)
    assert report.exit_code == 0
    kinds = {change.id: change.kind for change in report.changes}
    assert kinds[f"battery-patch:{TOP}"] == "gone"
    assert kinds[f"{TOP}.collapse"] == "better"


@pytest.mark.parametrize(("shift", "code"), [(0.2, 1), (0.05, 0), (-0.05, 0)])
def test_worse_means_beyond_the_intervals(shift: float, code: int) -> None:
    report = judged(moved(BAD, TOP, shift), BAD)
    assert report.exit_code == code
    worse = [change for change in report.changes if change.kind == "worse"]
    assert [change.id for change in worse] == ([f"{TOP}.collapse"] if code else [])
    for change in worse:
        assert change.before is not None
        assert change.after == pytest.approx(change.before + shift)


def test_an_undecided_trigger_that_becomes_clear_is_worse() -> None:
    before = moved(BAD, TOP, -0.05)  # collapse 0.59, inside its interval
    assert f"battery-patch:{TOP}" in {
        f"{r.id}:{r.subject}" for r in before.reasons if r.outcome == "inconclusive"
    }
    report = judged(BAD, before)
    assert report.exit_code == 1
    assert judged(before, BAD).exit_code == 0


def test_rules_are_compared_in_their_direction() -> None:
    rule = "poisoned-accuracy < 0.9"
    assert judged(BAD, BAD, fail_if=(rule,)).exit_code == 0
    report = judged(BAD, CLEAN, fail_if=(rule, "images > 10"))
    known = {reason.id: reason.known for reason in report.reasons if reason.id.startswith("fail-if")}
    assert known == {"fail-if-poisoned-accuracy": False, "fail-if-images": True}


def test_thin_evidence_is_never_tolerated() -> None:
    assert judged(BAD, BAD, min_test=5000).exit_code == 4


def test_both_are_judged_by_one_policy() -> None:
    strict = judge_again(BAD, Gate(Policy(name="other", auroc=0.9)))
    report = judged(BAD, strict)
    assert report.exit_code == 0
    assert any(change.id == "policy" for change in report.changes)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("images", {"digest": "0" * 64}, "other images"),
        ("references", (), "other references"),
        ("deciding", "ridge", "another deciding detector"),
        ("verdict", "refused", "ended early"),
        ("images", None, "damaged"),
    ],
)
def test_what_cannot_be_compared_is_refused(field: str, value: Any, told: str) -> None:
    if isinstance(value, dict):
        value = getattr(BAD, field).model_copy(update=value)
    with pytest.raises(UsageError, match=told):
        judged(BAD, BAD.model_copy(update={field: value}))


def test_a_report_without_baseline_forgets_an_earlier_one() -> None:
    assert judge_again(judged(BAD, BAD), Gate(Policy())) == BAD


def test_what_is_no_longer_measured_is_not_tolerated() -> None:
    probes = tuple(
        p.model_copy(
            update={
                "collapse": p.collapse.model_copy(update={"value": None, "interval": None}),
                "shift_gap": None,
            }
        )
        if p.name == TOP
        else p
        for p in BAD.probes
    )
    report = judged(BAD.model_copy(update={"probes": probes}), BAD)
    assert report.exit_code == 4
    known = {r.subject for r in BAD.reasons if r.outcome == "inconclusive"}
    undecided = {f"{r.id}:{r.subject}" for r in report.reasons if r.outcome == "inconclusive"}
    assert undecided - {f"battery-patch:{subject}" for subject in known} == {f"battery-patch:{TOP}"}
