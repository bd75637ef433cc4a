"""The terminal report: exact goldens at 80 columns, and what must hold at any width."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from platodef_cli.audit.context import context_of
from platodef_cli.audit.partial_report import ENDINGS
from platodef_cli.records import AuditReport, Reason
from platodef_cli.report import view
from platodef_cli.report.escaping import ascii_only
from platodef_cli.report.interface import RenderOptions
from platodef_cli.report.markdown import render as markdown
from platodef_cli.report.terminal import render
from tests.unit.report.endings import CODES, early_end, with_verdict

GOLDEN = Path(__file__).parents[2] / "golden"
Check = Callable[[str, str], None]


def test_golden_at_80_columns(golden_report: AuditReport, check_golden: Check) -> None:
    check_golden("terminal_80.txt", render(golden_report, RenderOptions(width=80)))


def test_golden_in_ascii(golden_report: AuditReport, check_golden: Check) -> None:
    check_golden("terminal_80_ascii.txt", render(golden_report, RenderOptions(width=80, unicode=False)))


def test_golden_with_every_detail(golden_report: AuditReport, check_golden: Check) -> None:
    check_golden("terminal_100_details.txt", render(golden_report, RenderOptions(width=100, details=True)))


@pytest.mark.parametrize("width", [60, 80, 100, 120])
@pytest.mark.parametrize("details", [False, True])
def test_no_line_is_wider_than_asked(golden_report: AuditReport, width: int, details: bool) -> None:
    text = render(golden_report, RenderOptions(width=width, details=details))
    assert max(len(line) for line in text.splitlines()) <= width
    assert text.endswith("\n")


def test_ascii_is_the_same_report(golden_report: AuditReport) -> None:
    text = render(golden_report, RenderOptions(width=80))
    assert render(golden_report, RenderOptions(width=80, unicode=False)) == ascii_only(text)
    assert ascii_only(text).isascii()
    assert r"\u" not in ascii_only(text), "a character of ours has no ASCII form"


def test_colour_adds_nothing_but_colour(golden_report: AuditReport) -> None:
    colored = render(golden_report, RenderOptions(width=80, color=True))
    assert "\x1b[" in colored
    bare = re.sub(r"\x1b\[[0-9;]*m", "", colored)
    assert [line.rstrip() for line in bare.splitlines()] == render(
        golden_report, RenderOptions(width=80)
    ).splitlines()


def test_reasons_stand_on_top_failures_first(golden_report: AuditReport) -> None:
    banner = render(golden_report, RenderOptions(width=80, details=True)).split("What was audited")[0]
    marks = re.findall(r"^. ([✗✓?!]) ", banner, flags=re.MULTILINE)
    assert marks == ["✗", "✗", "✓", "✓", "✓"]
    assert "FAIL (1)" in banner


@pytest.mark.parametrize("verdict", ["pass", "fail", "inconclusive", "refused", "error"])
def test_every_verdict_has_its_own_words(golden_report: AuditReport, verdict: str) -> None:
    report = golden_report.model_copy(update={"verdict": verdict, "exit_code": 9})
    first = render(report, RenderOptions(width=80)).splitlines()[1]
    assert f"{verdict.upper()} (9)" in first


def test_triggers_controls_and_mismatch_are_apart(golden_report: AuditReport) -> None:
    text = render(golden_report, RenderOptions(width=80, details=True))
    titles = [
        "Triggers: clean against",
        "Benign controls:",
        "Heads: matched against mismatched",
        "Thresholds",
    ]
    places = [text.index(title) for title in titles]
    assert places == sorted(places)
    parts = [text[start:end] for start, end in zip(places, [*places[1:], None], strict=True)]
    assert "ctrl-100" in parts[0]
    assert "jpeg-30" not in parts[0]
    assert "jpeg-30" in parts[1]
    assert "ctrl-100" not in parts[1]
    assert "0.998 [0.997, 0.999]" in parts[2]


def test_details_list_what_the_summary_folds(golden_report: AuditReport) -> None:
    short = markdown(golden_report, RenderOptions(width=120))
    long = render(golden_report, RenderOptions(width=120, details=True))
    assert "patch-noise-0.16-random" not in short
    assert "patch-noise-0.16-random" in long


def test_an_unsuspicious_family_shows_its_worst_member(golden_report: AuditReport) -> None:
    patches = [probe for probe in golden_report.probes if probe.family == "patch" and not probe.suspicious]
    report = golden_report.model_copy(update={"probes": tuple(patches)})
    text = markdown(report, RenderOptions(width=120))
    assert "patch-white-0.16-bottom-right (worst of 2)" in text
    assert "patch-noise-0.16-random" not in text


def test_without_labels_there_are_no_columns_about_them(golden_report: AuditReport) -> None:
    bare = {
        "concentration": None,
        "concentration_class": None,
        "poisoned_accuracy": None,
        "purified_accuracy": None,
    }
    report = golden_report.model_copy(
        update={
            "probes": tuple(probe.model_copy(update=bare) for probe in golden_report.probes),
            "accuracy": (),
            "images": golden_report.images.model_copy(update={"classes": None}),
        }
    )
    text = render(report, RenderOptions(width=80, details=True))
    assert "one class" not in text
    assert "linear-probe" not in text
    assert "no labels" in text


def test_an_almost_empty_report_still_says_the_verdict(golden_report: AuditReport) -> None:
    empty: dict[str, object] = dict.fromkeys(
        ("reasons", "findings", "not_examined", "warnings", "references", "metrics"), ()
    )
    empty |= dict.fromkeys(("thresholds", "probes", "searches", "alignment", "accuracy", "histograms"), ())
    report = golden_report.model_copy(update={**empty, "found": None, "head": None, "policy": {}})
    text = render(report, RenderOptions(width=80, details=True))
    assert "FAIL (1)" in text
    assert "Not examined" in text
    assert "Triggers" not in text


def test_what_decided_comes_first_and_exceptions_are_told(golden_report: AuditReport) -> None:
    kinds = {"pass": "pass", "open": "inconclusive", "bad": "fail", "old": "fail", "known": "fail"}
    reasons = tuple(
        Reason(id=name, outcome=outcome, message=name, waived=name == "old", known=name == "known")  # type: ignore[arg-type]
        for name, outcome in kinds.items()
    )
    failing = golden_report.model_copy(update={"reasons": reasons})
    assert [line.id for line in view.reasons(failing)] == ["bad", "open", "old", "known", "pass"]
    assert view.headline(failing) == "the encoder is suspicious"
    passing = failing.model_copy(update={"verdict": "pass", "exit_code": 0})
    text = render(passing, RenderOptions(width=120, details=True))
    assert "passed with exceptions: 1 waived and 1 no worse than in the baseline" in text
    assert "waived: old" in text
    assert "no worse than in the baseline: known" in text


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("gate/*.json")), ids=lambda path: path.stem)
@pytest.mark.parametrize("width", [80, 100, 120])
def test_an_audit_fits_one_screen(path: Path, width: int) -> None:
    report = AuditReport.model_validate_json(path.read_text())
    context = context_of(report.configuration, report.policy)
    for shown in (report, report.model_copy(update={"context": context})):
        lines = render(shown, RenderOptions(width=width)).splitlines()
        assert len(lines) <= 30
        assert any(f"{shown.verdict.upper()} ({shown.exit_code})" in line for line in lines)
        assert any("What next" in line for line in lines)


@pytest.mark.parametrize("verdict", CODES)
@pytest.mark.parametrize("many", [0, 1, 50])
def test_every_verdict_fits_one_screen_whatever_there_is_to_say(
    golden_report: AuditReport, verdict: str, many: int
) -> None:
    report = with_verdict(golden_report, verdict)
    long = tuple(
        reason.model_copy(update={"message": f"{number} " + "long word " * 99, "id": "x" * 99})
        for number, reason in enumerate(report.reasons * many)
    )
    report = report.model_copy(
        update={"reasons": (*long, *report.reasons), "not_examined": ("y" * 999,) * many or ("z",)}
    )
    for shown in (report, report.model_copy(update={"probes": (), "histograms": ()})):
        assert len(render(shown, RenderOptions(width=80)).splitlines()) <= 30


@pytest.mark.parametrize("code", ENDINGS)
def test_an_early_end_is_short_and_says_what_to_do(code: int) -> None:
    text = render(early_end(code), RenderOptions(width=80))
    assert len(text.splitlines()) <= 30
    assert "the hub does not answer" in text
    assert "not examined: everything after the step" in text


def test_the_screen_draws_the_worst_change_and_no_other(golden_report: AuditReport) -> None:
    text = render(golden_report, RenderOptions(width=80))
    assert "patch-white-0.31-bottom-right (n = 1997" in text
    assert "mismatched" not in text
    assert "passed: alignment, search-universal, controls" in text
    broken = golden_report.histograms[0].model_copy(update={"edges": (1.0, 0.0)})
    odd = render(golden_report.model_copy(update={"histograms": (broken,)}), RenderOptions(width=80))
    assert "found-patch-5px-bottom-right: collapse 0.97, references at most 0.06" in odd
