"""JUnit XML: the public schema, and failure, error and skipped where each belongs."""

import re
from functools import cache
from pathlib import Path

import pytest
from lxml import etree

import platodef_cli
from platodef_cli.audit.partial_report import ENDINGS
from platodef_cli.records import AuditReport, Finding, Reason
from platodef_cli.report.html import render as render_html
from platodef_cli.report.interface import RenderOptions
from platodef_cli.report.junit import render
from platodef_cli.report.markdown import render as render_markdown
from platodef_cli.report.terminal import render as render_terminal
from platodef_cli.report.view import UNEXAMINED
from tests.unit.report.endings import CODES, early_end, with_verdict

VERDICT = Path(platodef_cli.__file__).parent / "audit" / "verdict"
SCHEMAS = Path(__file__).parents[2] / "schemas"


@cache
def schema() -> etree.XMLSchema:
    return etree.XMLSchema(etree.parse(SCHEMAS / "junit-10.xsd"))


def suite_of(report: AuditReport) -> etree._Element:
    """Render, validate and return the only suite."""
    root = etree.fromstring(render(report, RenderOptions()).encode())
    schema().assertValid(root)
    (suite,) = root
    for name in ("tests", "failures", "errors"):
        assert root.get(name) == suite.get(name)
    return suite


def statuses(suite: etree._Element) -> dict[str, str]:
    """Test case -> failure, error, skipped or passed."""
    found = {}
    for case in suite.iter("testcase"):
        marks = [child.tag for child in case if child.tag != "system-out"]
        assert len(marks) <= 1
        found[f"{case.get('classname').split('.')[1]}:{case.get('name')}"] = marks[0] if marks else "passed"
    return found


def test_the_schema_can_fail(golden_report: AuditReport) -> None:
    text = render(golden_report, RenderOptions()).replace('tests="', 'trials="')
    assert not schema().validate(etree.fromstring(text.encode()))


@pytest.mark.parametrize("verdict", CODES)
def test_every_verdict_is_the_first_case(golden_report: AuditReport, verdict: str) -> None:
    suite = suite_of(with_verdict(golden_report, verdict))
    cases = statuses(suite)
    expected = {"pass": "passed", "fail": "failure"}.get(verdict, "error")
    assert next(iter(cases.items())) == ("audit:verdict", expected)
    assert cases["check:deciding"] == expected
    properties = {entry.get("name"): entry.get("value") for entry in suite.iter("property")}
    assert properties["verdict"] == verdict
    assert properties["exit_code"] == str(CODES[verdict])


@pytest.mark.parametrize("verdict", CODES)
def test_counts_are_those_of_the_cases(golden_report: AuditReport, verdict: str) -> None:
    suite = suite_of(with_verdict(golden_report, verdict))
    marks = list(statuses(suite).values())
    for name, mark in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(suite.get(name)) == marks.count(mark)
    assert int(suite.get("tests")) == len(marks)
    assert ("failure" in marks) is (verdict == "fail")
    assert ("error" in marks) is (verdict in ("error", "inconclusive", "refused"))


@pytest.mark.parametrize("code", ENDINGS)
@pytest.mark.parametrize("known", [True, False])
def test_an_audit_that_ended_early(code: int, known: bool) -> None:
    suite = suite_of(early_end(code, known=known))
    assert int(suite.get("errors")) == 2
    assert suite.get("name") == "platodef audit of org/name@main"
    assert any(case.startswith("not-examined:") for case in statuses(suite))


def test_an_undecided_check_beside_a_deciding_one_is_skipped_not_passed(golden_report: AuditReport) -> None:
    unsure = golden_report.reasons[0].model_copy(update={"id": "unsure", "outcome": "inconclusive"})
    report = golden_report.model_copy(update={"reasons": (*golden_report.reasons, unsure)})
    cases = statuses(suite_of(report))
    assert cases["check:unsure"] == "skipped"
    assert cases["check:battery-patch"] == "failure"
    assert cases["check:alignment"] == "passed"


def test_a_failing_check_of_an_audit_without_an_answer_is_an_error(golden_report: AuditReport) -> None:
    report = golden_report.model_copy(update={"verdict": "inconclusive", "exit_code": 4})
    assert "failure" not in statuses(suite_of(report)).values()


def test_not_examined_and_waived_are_skipped(golden_report: AuditReport) -> None:
    waived = Finding(id="pickle", severity="low", message="holds pickles", waived=True)
    cases = statuses(suite_of(golden_report.model_copy(update={"findings": (waived,)})))
    assert cases["finding:pickle"] == "skipped"
    assert cases[f"not-examined:{golden_report.not_examined[0]}"] == "skipped"


def test_a_test_without_power_is_no_passed_check(golden_report: AuditReport) -> None:
    """Not in JUnit, not on a page, not in a terminal: it carries no tick anywhere."""
    reasons = tuple(
        Reason(id=name, outcome="pass", message=f"not examined, {name}") for name in sorted(UNEXAMINED)
    )
    passing = with_verdict(golden_report, "pass").model_copy(update={"reasons": reasons})
    cases = statuses(suite_of(passing))
    assert {cases[f"check:{name}"] for name in UNEXAMINED} == {"skipped"}
    for drawn in (render_html, render_terminal, render_markdown):
        text = drawn(passing, RenderOptions(width=200))
        rows = [line for line in text.splitlines() if "not examined, " in line and "search-" in line]
        assert rows
        assert not [row for row in rows if "✓" in row]
    # the verdict's own reasons use these names: a new one has to be added here
    source = "".join(path.read_text() for path in VERDICT.glob("*.py"))
    named = set(re.findall(r'id="([\w-]+)",\s+outcome="inconclusive" if [\w ]+ else "pass"', source))
    assert named == UNEXAMINED


def test_equal_names_are_numbered(golden_report: AuditReport) -> None:
    failed = golden_report.reasons[1]
    cases = statuses(suite_of(golden_report.model_copy(update={"reasons": (failed, failed)})))
    assert {"check:search-patch", "check:search-patch (2)"} <= set(cases)


def test_markup_and_illegal_characters(golden_report: AuditReport) -> None:
    message = "]]> <b>&amp; \x00\x0b\x1b[31m \ufffe \ud800 \u202e \U0001f600 \"'"
    reason = golden_report.reasons[1].model_copy(update={"message": message})
    suite = suite_of(golden_report.model_copy(update={"reasons": (reason,)}))
    (failure,) = [case for case in suite.iter("testcase") if case.get("name") == "search-patch"]
    shown = "]]> <b>&amp; " + r"\x00\x0b\x1b[31m \ufffe \ud800 \u202e" + " \U0001f600 \"'"
    assert failure[0].text.startswith(shown)
    assert failure[0].get("message") == failure[0].text


def test_time_and_timestamp(golden_report: AuditReport) -> None:
    timing = golden_report.timing.model_copy(
        update={"started": "2026-01-31T12:00:00+02:00", "seconds": {"total": 83.5}}
    )
    suite = suite_of(golden_report.model_copy(update={"timing": timing}))
    assert (suite.get("time"), suite.get("timestamp")) == ("83.500", "2026-01-31T10:00:00")
