"""The script that uses the Python API."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from platodef_cli import AuditReport, RefusedError, read_report
from tests.unit.cli.calls import ROOT

SCRIPT = ROOT / "examples" / "audit_many.py"


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Load the script afresh and run it with a command line."""
    spec = importlib.util.spec_from_file_location("audit_many", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setattr("sys.argv", ["audit_many.py", *words])
    spec.loader.exec_module(script)
    code: int = script.main()
    return code


def test_a_table_reports_and_the_worst_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    golden_report: AuditReport,
) -> None:
    passed = golden_report.model_copy(update={"verdict": "pass", "exit_code": 0, "summary": "PASS (0): fine"})

    def audit(model: str, **options: Any) -> AuditReport:
        assert options["images"] == "images"
        if model == "pickled":
            raise RefusedError("model.bin is a pickle\x1b[2J")
        return {"good": passed, "bad": golden_report}[model]

    monkeypatch.setattr("platodef_cli.audit", audit)
    words = ["--images", "images", "--output", str(tmp_path / "out")]
    assert run(monkeypatch, "good", "bad", *words) == 1
    assert run(monkeypatch, "good", "pickled", "bad", *words) == 5
    table = capsys.readouterr().out
    assert "'good'" in table
    assert "PASS (0): fine" in table
    assert "RefusedError     5" in table
    assert "\x1b" not in table
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written >= {"00.json", "00.html", "00.md", "02.json"}
    assert read_report(tmp_path / "out" / "02.json") == golden_report


@pytest.mark.slow
def test_on_real_encoders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PLATODEF_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("platodef_cli.environment.prepare", lambda: None)
    words = ["--battery", "quick", "--output", str(tmp_path / "out")]
    assert run(monkeypatch, "builtin:clean", "builtin:backdoored", *words) == 1
    verdicts = [json.loads((tmp_path / "out" / f"0{n}.json").read_text())["verdict"] for n in (0, 1)]
    assert verdicts == ["pass", "fail"]
