"""Waivers: what they cover, until when, for whom, and that they hide nothing."""

from datetime import date, timedelta

import pytest

from platodef_cli.audit.policy.limits import Policy
from platodef_cli.audit.verdict import Gate, judge_again
from platodef_cli.audit.verdict.waivers import Waiver
from platodef_cli.records import AuditReport
from tests.unit.audit.test_judge import recorded

TODAY = date(2026, 6, 1)
BAD = recorded("backdoored")
assert BAD.target is not None
DIGEST = BAD.target.digest


def waiver(identity: str = "battery-patch", **changes: object) -> Waiver:
    fields = {"model": DIGEST, "reason": "known", "owner": "me", "expires": TODAY, **changes}
    return Waiver(id=identity, **fields)  # type: ignore[arg-type]


def judged(*waivers: Waiver, report: AuditReport = BAD, policy: Policy | None = None) -> AuditReport:
    return judge_again(report, Gate(policy or Policy(), waivers, TODAY))


def test_a_waived_reason_stays_and_does_not_decide() -> None:
    report = judged(waiver())
    assert (report.verdict, report.exit_code) == ("pass", 0)
    assert "3 waived (battery-patch)" in report.summary
    failing = [reason for reason in report.reasons if reason.id == "battery-patch"]
    assert len(failing) == 3
    assert all(reason.waived for reason in failing)
    # findings that follow from these reasons go with them, others do not
    assert {f.id for f in report.findings if not f.waived} == {"no-commit"}
    assert [(record.id, record.status) for record in report.waiver_records] == [("battery-patch", "applied")]
    assert "applied until 2026-06-01; known (me)" in report.waivers[0]


def test_one_trigger_can_be_waived_alone() -> None:
    report = judged(waiver("battery-patch:patch-white-0.3125-top-right"))
    assert report.exit_code == 1
    assert [r.subject for r in report.reasons if r.waived] == ["patch-white-0.3125-top-right"]


def test_the_last_day_counts_and_an_expired_waiver_fails() -> None:
    assert judged(waiver(expires=TODAY)).exit_code == 0
    report = judged(waiver(expires=TODAY - timedelta(days=1)))
    assert report.exit_code == 1
    assert "the waiver of me expired on 2026-05-31" in report.summary
    assert report.waiver_records[0].status == "expired"
    assert not any(reason.waived for reason in report.reasons)


@pytest.mark.parametrize(("model", "code"), [("0" * 64, 1), (DIGEST.upper(), 0), ("f" * 40, 1)])
def test_it_is_for_one_model_only(model: str, code: int) -> None:
    report = judged(waiver(model=model))
    assert report.exit_code == code
    assert report.waiver_records[0].status == ("applied" if code == 0 else "other model")


def test_it_may_name_the_commit() -> None:
    assert BAD.target is not None
    report = BAD.model_copy(update={"target": BAD.target.model_copy(update={"commit": "f" * 40})})
    assert judged(waiver(model="f" * 40), report=report).exit_code == 0


def test_an_unused_waiver_is_told() -> None:
    report = judged(waiver(), waiver("search-wave"), waiver("no-commit"))
    assert [record.status for record in report.waiver_records] == ["applied", "unused", "applied"]


def test_inconclusive_reasons_can_be_waived_one_by_one() -> None:
    policy = Policy(min_test=5000, matched_auroc=0.9999)
    clean = recorded("clean")
    assert clean.target is not None
    few = waiver("too-few-images", model=clean.target.digest)
    matched = waiver("matched", model=clean.target.digest)
    assert judged(report=clean, policy=policy).exit_code == 4
    assert judged(few, report=clean, policy=policy).exit_code == 4
    assert judged(few, matched, report=clean, policy=policy).exit_code == 0


@pytest.mark.parametrize(("verdict", "code"), [("refused", 5), ("error", 3)])
def test_refused_and_error_cannot_be_waived(verdict: str, code: int) -> None:
    report = BAD.model_copy(update={"verdict": verdict, "exit_code": code, "summary": "s"})
    assert judged(waiver(), waiver("refused"), report=report) is report


def test_waived_findings_do_not_count_for_rules() -> None:
    policy = Policy(fail_if=("findings.high > 0",))
    assert judged(waiver(), policy=policy).exit_code == 0
    assert judged(waiver("battery-patch:patch-white-0.3125-top-right"), policy=policy).exit_code == 1


def test_without_waivers_nothing_stays_waived() -> None:
    assert judged(report=judged(waiver())) == BAD
