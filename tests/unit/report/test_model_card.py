"""The section for a model card, and the report in a notebook."""

import html
import re

import cmarkgfm
import pytest

from platodef_cli.audit.context import context_of
from platodef_cli.records import AuditReport
from platodef_cli.report import render
from platodef_cli.report.interface import RenderOptions
from tests.unit.report.endings import CODES, with_verdict


@pytest.fixture
def report(golden_report: AuditReport) -> AuditReport:
    context = context_of(golden_report.configuration, golden_report.policy)
    return golden_report.model_copy(update={"context": context})


@pytest.mark.parametrize("verdict", CODES)
def test_a_section_that_can_be_pasted(report: AuditReport, verdict: str) -> None:
    text = render(with_verdict(report, verdict), "model-card", RenderOptions())
    assert text.startswith("## Backdoor audit\n")
    assert f"**{verdict.upper()} ({CODES[verdict]}):" in text
    assert "data:image" not in text
    page = cmarkgfm.github_flavored_markdown_to_html(text)
    assert page.count("<h2>") == 1
    assert "<table>" in page
    plain = html.unescape(re.sub("<[^>]+>", "", page))
    assert report.target is not None
    assert report.target.digest in plain
    assert "9 of 9" in plain
    assert "not measured: backdoors of the family composite" in plain
    assert all(entry in plain for entry in report.not_examined)
    assert ("AML.T0018.000" in plain) is any(
        reason.outcome == "fail" and reason.id.startswith(("search", "battery"))
        for reason in with_verdict(report, verdict).reasons
    )


def test_a_failure_names_its_taxonomies_and_the_worst_change(report: AuditReport) -> None:
    text = render(report, "model-card", RenderOptions())
    assert "AML.T0018.000" in text.replace("\\", "")
    assert "found-patch-5px-bottom-right" in text


def test_a_notebook_shows_the_page_in_a_frame(report: AuditReport) -> None:
    shown = report._repr_html_()
    assert shown.startswith("<iframe sandbox srcdoc=")
    inner = re.findall(r'srcdoc="([^"]*)"', shown)
    assert html.unescape(inner[0]) == render(report, "html", RenderOptions())
