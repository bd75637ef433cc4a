"""Rules: what they say, how they are read, and every metric on recorded reports."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platodef_cli.audit.policy.limits import Policy
from platodef_cli.audit.verdict import Gate, judge_again
from platodef_cli.audit.verdict.intervals import Estimate
from platodef_cli.audit.verdict.metric_names import METRICS, largest, smallest
from platodef_cli.audit.verdict.rules import OPERATORS, Rule, parse_rule
from platodef_cli.errors import UsageError
from platodef_cli.records import AuditReport, Interval
from tests.unit.audit.test_judge import recorded

VALUE = Interval(low=0.4, high=0.6)


@pytest.mark.parametrize(
    ("operator", "limit", "answer"),
    [
        (">", 0.3, "yes"), (">", 0.5, "unsure"), (">", 0.6, "no"), (">", 0.7, "no"),
        (">=", 0.4, "yes"), (">=", 0.6, "unsure"), (">=", 0.61, "no"),
        ("<", 0.7, "yes"), ("<", 0.6, "unsure"), ("<", 0.4, "no"), ("<", 0.3, "no"),
        ("<=", 0.6, "yes"), ("<=", 0.4, "unsure"), ("<=", 0.39, "no"),
        ("==", 0.5, "unsure"), ("==", 0.7, "no"),
    ],
)  # fmt: skip
def test_a_rule_decides_by_the_interval(operator: str, limit: float, answer: str) -> None:
    assert Rule("auroc", operator, limit).holds(Estimate(0.5, VALUE)) == answer


@pytest.mark.parametrize("operator", OPERATORS)
@given(value=st.floats(-5, 5), limit=st.floats(-5, 5))
def test_exact_values_are_compared_as_python_does(operator: str, value: float, limit: float) -> None:
    expected = "yes" if eval(f"{value!r} {operator} {limit!r}") else "no"
    assert Rule("auroc", operator, limit).holds(Estimate(value)) == expected
    assert Rule("auroc", operator, limit).holds(Estimate(None)) == "unsure"


@given(
    st.sampled_from(sorted(METRICS)),
    st.sampled_from(OPERATORS),
    st.floats(-1e6, 1e6).map(lambda x: float(f"{x:g}")),
    st.sampled_from(["", " ", "  "]),
)
def test_rules_are_read_back(metric: str, operator: str, value: float, space: str) -> None:
    rule = parse_rule(f"{space}{metric}{space}{operator}{space}{value!r}{space}")
    assert rule == Rule(metric, operator, value)
    assert parse_rule(str(rule)) == rule


@given(st.text(max_size=40))
def test_any_text_is_a_rule_or_an_error(text: str) -> None:
    try:
        rule = parse_rule(text)
    except UsageError:
        return
    assert rule.metric in METRICS


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("auroc", "METRIC OP VALUE"),
        ("", "METRIC OP VALUE"),
        ("> 0.5", "METRIC OP VALUE"),
        ("auroc > ", "METRIC OP VALUE"),
        ("auroc > 0.5 or 1", "METRIC OP VALUE"),
        ("aurok > 0.5", "did you mean 'auroc'"),
        ("finding.high > 0", "did you mean 'findings.high'"),
        ("auroc = 0.5", "did you mean '=='"),
        ("auroc => 0.5", "did you mean '>='"),
        ("auroc ≥ 0.5", "did you mean '>='"),
        ("auroc != 0.5", "unknown operator"),
        ("auroc > nan", "not a number"),
        ("auroc > 1e999", "not a number"),
        ("auroc > 0x1", "not a number"),
        ("auroc > ٣", "not a number"),
    ],
)
def test_wrong_rules_are_refused_with_a_suggestion(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        parse_rule(text)


def test_percentages() -> None:
    assert parse_rule("poisoned-accuracy<50%") == Rule("poisoned-accuracy", "<", 0.5)


def test_the_largest_of_several_is_decided_as_if_each_were() -> None:
    entries = [
        Estimate(0.5, Interval(low=0.1, high=0.9)),
        Estimate(0.6, Interval(low=0.55, high=0.65)),
        Estimate(None),
    ]
    top, bottom = largest(entries), smallest(entries)
    assert (top.value, top.low, top.high) == (0.6, 0.55, 0.9)
    assert (bottom.value, bottom.low, bottom.high) == (0.5, 0.1, 0.65)
    assert largest([]).value is None


@pytest.mark.parametrize("name", sorted(METRICS))
def test_every_metric_is_read_from_a_recorded_report(name: str) -> None:
    report = recorded("backdoored")
    measured = METRICS[name].read(report)
    assert measured.value is not None
    assert measured.low <= measured.value <= measured.high


def judged(name: str, *rules: str, **changes: object) -> AuditReport:
    return judge_again(recorded(name).model_copy(update=changes), Gate(Policy(fail_if=rules)))


def test_values_are_those_of_the_records() -> None:
    report = recorded("backdoored")
    triggers = [probe for probe in report.probes if probe.kind == "trigger"]
    assert METRICS["battery-collapse"].read(report).value == max(p.collapse.value or 0 for p in triggers)
    assert METRICS["poisoned-accuracy"].read(report).value == min(p.poisoned_accuracy.value for p in triggers)  # type: ignore[union-attr, type-var]
    scores = [record.score for record in report.searches if record.role == "suspect"]
    assert METRICS["search-score"].read(report).value == max(scores)
    assert METRICS["findings.high"].read(report).value == sum(f.severity == "high" for f in report.findings)
    assert METRICS["attack-success"].read(report).value == report.accuracy[0].attack_success.value


def test_rules_fail_pass_and_stay_open() -> None:
    assert judged("clean", "auroc > 0.5").exit_code == 1
    assert judged("clean", "findings.high > 0").exit_code == 0
    matched = METRICS["matched-auroc"].read(recorded("clean"))
    middle = (matched.low + matched.high) / 2
    undecided = judged("clean", f"matched-auroc < {middle}")
    assert undecided.exit_code == 4
    (reason,) = [r for r in undecided.reasons if r.id == "fail-if-matched-auroc"]
    assert reason.interval == matched.interval
    assert "images" in undecided.summary
    # another indicator that fails decides
    assert judged("clean", f"matched-auroc < {middle}", "auroc > 0.5").exit_code == 1


def test_what_the_report_does_not_hold_is_not_clean() -> None:
    bare = tuple(p.model_copy(update={"poisoned_accuracy": None}) for p in recorded("clean").probes)
    report = judged("clean", "poisoned-accuracy < 0.1", probes=bare)
    assert report.exit_code == 4
    assert "images with labels" in report.summary
