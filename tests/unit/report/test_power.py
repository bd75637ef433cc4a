"""What reports say of the power of the searches, in every format."""

import pytest

from platodef_cli.audit.policy.limits import Policy
from platodef_cli.audit.verdict import Gate, judge_again
from platodef_cli.records import (
    AuditReport,
    ControlRecord,
    Interval,
    ReachedRecord,
    SearchPowerRecord,
)
from platodef_cli.report import render
from platodef_cli.report.interface import RenderOptions
from platodef_cli.report.power import in_one_line, power_lines, searched_kinds
from tests.unit.audit.test_error_rate import recorded


def control(collapse: float, success: float = 1.0, kept: float = 0.97) -> ControlRecord:
    """Return a control that one search collapses that far, with each of two budgets."""
    around = Interval(low=collapse - 0.01, high=min(1.0, collapse + 0.01))
    beyond = Interval(low=collapse - 0.11, high=collapse - 0.09)
    reached = tuple(
        ReachedRecord(
            budget=budget, collapse=collapse, interval=around, gap=collapse - 0.1, gap_interval=beyond
        )
        for budget in ("first", "second")
    )
    return ControlRecord(reference="one", seed=1, success=success, kept=kept, reached=reached)


def measured(kind: str, strength: float, *controls: ControlRecord) -> SearchPowerRecord:
    one = kind in ("wave", "warp", "corners")
    short = tuple(c.model_copy(update={"reached": c.reached[:1]}) if one else c for c in controls)
    return SearchPowerRecord(
        kind=kind,
        strength=strength,
        change=f"{strength:g}/255",
        origin="measured in this audit",
        controls=short,
    )


@pytest.fixture
def report() -> AuditReport:
    """A clean encoder, searched in ways that find planted backdoors, miss them, or could not be tried."""
    power = (
        measured("patch", 7, *[control(0.98)] * 9, control(0.2)),
        measured("patch", 5, *[control(0.98)] * 2, *[control(0.2)] * 8),
        measured("universal", 8, *[control(0.98)] * 9, control(0.755)),  # one lies on its limit
        measured("wave", 30, *[control(0.2)] * 10),
        measured("warp", 4, *[control(0.99, success=0.3)] * 5, *[control(0.99, kept=0.1)] * 5),
    )
    clean = recorded("clean").model_copy(update={"search_power": power})
    return judge_again(clean, Gate(Policy()))


def test_every_search_has_one_line(report: AuditReport) -> None:
    lines = power_lines(report.search_power, searched_kinds(report))
    told = {line.partition(":")[0]: line for line in lines}
    assert list(told) == ["patch", "universal", "wave", "warp", "corners"]
    assert "finds 9 of 10 at 7/255 [0.55, 1.00]; 2 of 10 at 5/255 [0.03, 0.56]" in told["patch"]
    assert "10 of 10 at 8/255 [0.69, 1.00]" in told["universal"]
    assert "not examined, planted backdoors are missed (found 0 of 10 at 30/255 [0.00, 0.31])" in told["wave"]
    assert told["warp"] == "warp: power not measured: too few planted backdoors work (0 of 10 at 4/255)"
    assert told["corners"] == "corners: power not measured"


@pytest.mark.parametrize("style", ["terminal", "markdown", "html"])
def test_documents_say_it_and_name_what_was_not_examined(report: AuditReport, style: str) -> None:
    text = " ".join(render(report, style, RenderOptions(details=True, width=2000)).split())
    assert "patch: finds 9 of 10 at 7/255" in text
    assert "no power: unknown wave triggers" in text
    assert "measured in this audit" in text


def test_one_screen_says_it_in_one_line(report: AuditReport) -> None:
    line = in_one_line(report)
    assert line == "would find planted patch 7/255, universal 8/255; not wave"
    missed = report.model_copy(
        update={"search_power": tuple(r for r in report.search_power if r.kind == "wave")}
    )
    assert in_one_line(missed) == "would find no planted backdoor: not wave"
    assert line in " ".join(render(report, "terminal", RenderOptions(width=400)).split())
    assert in_one_line(recorded("clean").model_copy(update={"search_power": ()})) == ""


def test_the_report_is_read_back_as_it_was(report: AuditReport) -> None:
    again = AuditReport.model_validate_json(render(report, "json", RenderOptions()))
    assert again.search_power == report.search_power
    assert judge_again(again, Gate(Policy())).not_examined == report.not_examined
    # another policy, another power: what is not accused by it is missed
    strict = judge_again(again, Gate(Policy(patch_collapse=(0.995, 0.996))))
    assert [line for line in strict.not_examined if line.startswith("no power: unknown patch triggers")]
