"""`platodef demo`: what it writes and says; the audits themselves are those of the recorded reports."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from platodef_cli.audit.config import AuditConfig
from platodef_cli.records import AuditReport
from tests.unit.cli.calls import ROOT, Call

RECORDED = ROOT / "tests" / "golden" / "gate"


@pytest.fixture
def audits(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Which recorded report stands for the audit of which encoder."""
    recorded = {"builtin:clean": "clean", "builtin:backdoored": "backdoored"}

    def audit(config: AuditConfig, **options: Any) -> AuditReport:
        path = RECORDED / f"{recorded[str(config.model)]}.json"
        return AuditReport.model_validate_json(path.read_text())

    import platodef_cli.audit.run  # noqa: F401

    monkeypatch.setattr(sys.modules["platodef_cli.audit.run"], "audit", audit)
    return recorded


def test_both_audits_side_by_side_with_their_pages(
    platodef: Call, audits: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "demo"
    done = platodef("demo", "-o", folder)
    assert done.code == 0
    assert "verdict PASS (0) FAIL (1)" in [" ".join(line.split()) for line in done.out.splitlines()]
    assert "patch-white-0.3125-bottom-right" in done.out
    for name, verdict in (("clean", "pass"), ("backdoored", "fail")):
        assert json.loads((folder / f"{name}.json").read_text())["verdict"] == verdict
        assert "<html" in (folder / f"{name}.html").read_text()
        assert str(folder / f"{name}.html") in done.err


def test_a_demo_that_goes_wrong_says_so(platodef: Call, audits: dict[str, str], tmp_path: Path) -> None:
    audits["builtin:backdoored"] = "clean"
    done = platodef("demo", "-o", tmp_path / "demo")
    assert done.code == 3
    assert "backdoored: pass" in done.last


def test_the_pages_are_opened_where_that_is_asked(
    platodef: Call, audits: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda uri: opened.append(uri) or len(opened) == 1)
    done = platodef("demo", "-o", tmp_path / "demo", "--open")
    assert [uri.rpartition("/")[2] for uri in opened] == ["clean.html", "backdoored.html"]
    assert "no browser could be opened" in done.err


def test_where_the_pages_cannot_go(platodef: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert platodef("demo", "-o", tmp_path / "file").code == 2
    assert "does not exist" in platodef("demo", "-o", tmp_path / "a" / "b").last
