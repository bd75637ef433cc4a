"""The Markdown report: an exact golden, and the same content as the terminal."""

from collections.abc import Callable

from platodef_cli.records import AuditReport
from platodef_cli.report.interface import RenderOptions
from platodef_cli.report.markdown import render
from platodef_cli.report.view import sections


def test_golden(golden_report: AuditReport, check_golden: Callable[[str, str], None]) -> None:
    check_golden("report_v2.md", render(golden_report, RenderOptions()))


def test_every_section_of_the_terminal_is_there(golden_report: AuditReport) -> None:
    text = render(golden_report, RenderOptions())
    headings = [line[3:].replace("\\", "") for line in text.splitlines() if line.startswith("## ")]
    assert headings == [section.title for section in sections(golden_report, width=78, details=False)]


def test_the_verdict_is_the_title(golden_report: AuditReport) -> None:
    assert render(golden_report, RenderOptions()).startswith("# ✗ platodef: FAIL (1) – suspect-a\n")
