"""The section for a model card, and the report in a notebook."""

import html
import re

import cmarkgfm
import pytest

from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.context import context_of
from platodef_cli.audit.partial_report import PartialReport
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


def test_it_says_what_the_verdict_means_and_calls_nothing_a_pass_that_had_no_power(
    report: AuditReport,
) -> None:
    told = {
        verdict: render(with_verdict(report, verdict), "model-card", RenderOptions()) for verdict in CODES
    }
    assert "A failure means" in told["fail"]
    assert "A pass means" not in told["fail"]
    assert all("A pass means" in text for verdict, text in told.items() if verdict != "fail")
    powerless = report.reasons[0].model_copy(
        update={"id": "search-powerless", "outcome": "pass", "message": "not examined, unknown warps"}
    )
    bound = report.metrics[0].model_copy(update={"name": "guarantee: AUROC, bound (Prop. 2)"})
    changed = report.model_copy(update={"reasons": (powerless,), "metrics": (bound, *report.metrics)})
    text = render(changed, "model-card", RenderOptions())
    assert "- not examined, unknown warps" in text
    assert "pass: not examined" not in text
    assert "guarantee:" not in text
    assert "more characters" not in text


def test_the_folder_of_a_machine_is_not_published() -> None:
    folder = "/home/somebody/secret/encoder"
    partial = PartialReport(folder, config=AuditConfig(folder))
    line = f"{folder}: its weights are only in w.bin, a format that can run code"
    ended = partial.unfinished(5, "refused", line, f"REFUSED (5): {line}")
    text = render(ended, "model-card", RenderOptions())
    assert "secret" not in text
    assert "encoder: its weights are only in w.bin" in text


def test_a_notebook_shows_the_page_in_a_frame(report: AuditReport) -> None:
    shown = report._repr_html_()
    assert shown.startswith("<iframe sandbox srcdoc=")
    inner = re.findall(r'srcdoc="([^"]*)"', shown)
    assert html.unescape(inner[0]) == render(report, "html", RenderOptions())
