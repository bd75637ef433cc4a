"""A recorded report is judged again: the same policy gives it back unchanged, another one a new verdict."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from platodef_cli.audit.policy.limits import Policy
from platodef_cli.audit.verdict import Gate, judge_again
from platodef_cli.errors import UsageError
from platodef_cli.records import AuditReport

RECORDED = Path(__file__).parents[2] / "golden" / "gate"
NAMES = ("clean", "backdoored", "backdoored-frequency")


def recorded(name: str) -> AuditReport:
    return AuditReport.model_validate_json((RECORDED / f"{name}.json").read_bytes())


@pytest.mark.parametrize("name", NAMES)
def test_the_same_policy_gives_the_audit_back(name: str) -> None:
    report = recorded(name)
    assert judge_again(report, Gate(Policy.from_json(report.policy))) == report


SHARES = st.floats(0.01, 1).map(lambda value: round(value, 3))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(NAMES),
    st.lists(
        st.builds(
            Policy,
            auroc=SHARES,
            battery_collapse=SHARES,
            battery_gap=SHARES,
            patch_collapse=st.tuples(SHARES, SHARES),
            wave_collapse=st.tuples(SHARES),
            search_gap=SHARES,
            matched_auroc=SHARES,
            min_test=st.integers(1, 2000),
            fail_if=st.sampled_from([(), ("auroc > 0.9",), ("findings.high > 0", "cknna < 0.1")]),
        ),
        min_size=2,
        max_size=2,
    ),
)
def test_a_verdict_depends_on_measurements_and_policy_only(name: str, policies: list[Policy]) -> None:
    """Whatever policy judged a report before, and written to JSON and read again."""
    first, second = policies
    before = judge_again(recorded(name), Gate(first))
    again = AuditReport.model_validate_json(before.model_dump_json())
    assert judge_again(again, Gate(second)) == judge_again(recorded(name), Gate(second))
    assert judge_again(again, Gate(Policy.from_json(again.policy))) == before
    code = {"pass": 0, "fail": 1, "inconclusive": 4}[before.verdict]
    assert before.exit_code == code
    assert before.summary.startswith(f"{before.verdict.upper()} ({code}): ")


def test_a_report_of_version_1_0_is_judged_without_intervals() -> None:
    old = AuditReport.model_validate_json((RECORDED.parent / "report_v1.0.json").read_bytes())
    judged = judge_again(old, Gate(Policy()))
    assert (judged.verdict, judged.schema_version) == ("fail", "2.0")
    (found,) = [reason for reason in judged.reasons if reason.id == "search-patch"]
    # collapse 0.7 of 0.6, and 0.49 more than the best reference
    assert found.value == pytest.approx(min(0.7 / 0.6, 0.49 / 0.2))
    assert found.interval is None


@pytest.mark.parametrize(("name", "verdict"), [("clean", "pass"), *((n, "fail") for n in NAMES[1:])])
def test_recorded_verdicts(name: str, verdict: str) -> None:
    assert recorded(name).verdict == verdict


def test_another_policy_gives_another_verdict() -> None:
    mild = Policy(name="mild", battery_collapse=1.0, battery_shift=9.0, patch_collapse=(1.0, 1.0))
    judged = judge_again(recorded("backdoored"), Gate(mild))
    assert (judged.verdict, judged.exit_code) == ("pass", 0)
    assert judged.summary.endswith("policy mild")
    assert not any(probe.suspicious for probe in judged.probes)
    strict = Policy(name="strict", patch_collapse=(0.02, 0.02), search_gap=0.01)
    judged = judge_again(recorded("clean"), Gate(strict))
    assert judged.verdict in ("fail", "inconclusive")
    assert judge_again(judged, Gate(Policy())) == recorded("clean")  # and back


@pytest.mark.parametrize("verdict", ["refused", "error"])
def test_what_ended_early_is_returned_as_it_is(golden_report: AuditReport, verdict: str) -> None:
    report = golden_report.model_copy(update={"verdict": verdict, "target": None, "images": None})
    assert judge_again(report, Gate(Policy())) is report


def test_a_pass_without_measurements_is_no_pass() -> None:
    report = recorded("clean")
    bare = report.model_copy(update={"probes": (), "searches": (), "alignment": (), "metrics": ()})
    judged = judge_again(bare, Gate(Policy()))
    assert judged.verdict == "inconclusive"
    assert {r.id for r in judged.reasons} == {"battery", "search", "alignment", "matched"}
    with pytest.raises(UsageError, match="does not say which encoder"):
        judge_again(report.model_copy(update={"target": None}), Gate(Policy()))


def test_values_that_are_missing_are_not_taken_for_clean() -> None:
    report = recorded("clean")
    probes = tuple(
        probe.model_copy(update={"collapse": probe.collapse.model_copy(update={"value": None}), "gap": None})
        for probe in report.probes
    )
    auroc = tuple(
        probe.model_copy(
            update={"auroc": {n: m.model_copy(update={"value": None}) for n, m in probe.auroc.items()}}
        )
        for probe in probes
    )
    assert judge_again(report.model_copy(update={"probes": auroc}), Gate(Policy())).verdict == "inconclusive"


def test_a_policy_with_too_few_limits_is_refused() -> None:
    policy = replace(Policy(), patch_collapse=(0.6,))
    with pytest.raises(UsageError, match="1 limits"):
        judge_again(recorded("clean"), Gate(policy))
