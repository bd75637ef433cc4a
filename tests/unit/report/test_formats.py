"""What holds for every registered format: each carries the verdict itself."""

import pytest

from platodef_cli.audit.partial_report import ENDINGS
from platodef_cli.records import AuditReport
from platodef_cli.report import REPORTS
from platodef_cli.report.interface import RenderOptions
from tests.unit.report.endings import CODES, early_end, with_verdict

FORMATS = REPORTS.names()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("verdict", CODES)
def test_the_verdict_is_in_the_document(golden_report: AuditReport, name: str, verdict: str) -> None:
    text = REPORTS.load(name)(with_verdict(golden_report, verdict), RenderOptions())
    assert verdict in text.lower()
    assert str(CODES[verdict]) in text
    assert text.endswith("\n")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("code", ENDINGS)
@pytest.mark.parametrize("known", [True, False])
def test_an_audit_that_ended_before_anything_was_loaded(name: str, code: int, known: bool) -> None:
    text = REPORTS.load(name)(early_end(code, known=known), RenderOptions(width=100))
    assert ENDINGS[code] in text.lower()
    assert "the hub does not answer" in text
    assert "the behaviour of the encoder is unknown" in " ".join(text.split())


@pytest.mark.parametrize("name", FORMATS)
def test_equal_reports_give_equal_bytes(golden_report: AuditReport, name: str) -> None:
    render = REPORTS.load(name)
    assert render(golden_report, RenderOptions()) == render(golden_report, RenderOptions())
