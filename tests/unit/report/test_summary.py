"""One table of many reports: ordered, careful with what others wrote, in every format."""

import csv
import io
import json
import os
from pathlib import Path

import pytest

from platodef_cli.cli.app import main
from platodef_cli.errors import UsageError
from platodef_cli.records import AuditReport
from platodef_cli.records.run import RunRecord
from platodef_cli.report.interface import RenderOptions
from platodef_cli.report.summary import SUMMARIES, render
from platodef_cli.report.summary import rows as rows_module
from platodef_cli.report.summary.rows import read_rows, worst_code
from tests.unit.report.test_sarif import validator

HOSTILE = "=cmd()\x1b[2J<script>alert(1)</script>‮](x)"


def write(
    folder: Path, name: str, report: AuditReport, verdict: str, code: int, model: str, value: float
) -> None:
    reasons = tuple(
        reason.model_copy(
            update={"value": value, "outcome": "fail" if value > (reason.limit or 0) else "pass"}
        )
        for reason in report.reasons
        if reason.id == "battery-patch"
    )
    changed = report.model_copy(
        update={
            "verdict": verdict,
            "exit_code": code,
            "reasons": reasons,
            "configuration": {**report.configuration, "model": model},
            "summary": f"{verdict.upper()} ({code}): {model}",
        }
    )
    (folder / name).write_text(changed.model_dump_json())


@pytest.fixture
def folder(tmp_path: Path, golden_report: AuditReport) -> Path:
    write(tmp_path, "a.json", golden_report, "pass", 0, "org/far", 0.1)
    write(tmp_path, "b.json", golden_report, "fail", 1, "org/weak", 0.81)
    write(tmp_path, "c.json", golden_report, "pass", 0, "org/near", 0.79)
    write(tmp_path, "d.json", golden_report, "fail", 1, HOSTILE, 0.99)
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep", "e.json", golden_report, "inconclusive", 4, "org/unsure", 0.5)
    write(tmp_path, "f.json", golden_report, "refused", 5, "org/unsafe", 0.5)
    (tmp_path / "g.json").write_text('{"verdict": NaN')
    (tmp_path / ".hidden.json").write_text("{")
    (tmp_path / "notes.txt").write_text("{")
    return tmp_path


def test_the_order_is_by_suspicion(folder: Path) -> None:
    rows = read_rows(folder)
    assert [row.model for row in rows] == [
        HOSTILE, "org/weak", "org/unsafe", "g.json", "org/unsure", "org/near", "org/far",
    ]  # fmt: skip
    assert [row.margin for row in rows][:2] == [0.19, 0.01]
    assert rows[-1].margin == -0.7
    assert rows[4].file == "deep/e.json"
    assert rows[3].verdict == "unreadable"


def test_what_is_no_report_is_a_row(folder: Path, golden_json: str) -> None:
    (folder / "list.json").write_text("[" * 5000)
    (folder / "empty.json").write_text("")
    (folder / "newer.json").write_text(json.dumps({**json.loads(golden_json), "schema_version": "9.0"}))
    (folder / "other-code.json").write_text(json.dumps({**json.loads(golden_json), "exit_code": 0}))
    (folder / "link.json").symlink_to(folder / "a.json")
    os.mkfifo(folder / "pipe.json")
    (folder / "loop").symlink_to(folder)
    (folder / "x.run.json").write_text("{}")
    why = {row.file: row.summary for row in read_rows(folder) if row.verdict == "unreadable"}
    assert set(why) == {
        "g.json", "list.json", "empty.json", "newer.json", "other-code.json", "link.json", "pipe.json",
        "x.run.json",
    }  # fmt: skip
    assert "is a link" in why["link.json"]
    assert "pipe" in why["pipe.json"]
    assert "newer than" in why["newer.json"]


def test_runs_without_a_report_are_rows(folder: Path) -> None:
    common = {"key": "k", "started": "", "seconds": 1.0, "tool_version": "0"}
    runs = [
        RunRecord(name="u", model="org/u", exit_code=2, summary="USAGE (2): no", files={}, **common),
        RunRecord(name="l", model="org/l", exit_code=1, summary="FAIL", files={"l.json": "0"}, **common),
        RunRecord(name="a", model="org/a", exit_code=0, summary="PASS", files={"a.json": "0"}, **common),
        RunRecord(name="n", model="org/n", exit_code=0, summary="PASS", files={}, **common),
    ]
    for run in runs:
        (folder / f"{run.name}.run.json").write_text(run.model_dump_json())
    rows = {row.model: row for row in read_rows(folder)}
    assert (rows["org/u"].verdict, rows["org/u"].exit_code) == ("usage error", 2)
    assert "is gone" in rows["org/l"].summary
    assert "without a report" in rows["org/n"].summary  # never a pass that nothing shows
    assert "org/a" not in rows  # its report is there, and speaks for itself
    assert [row.model for row in read_rows(folder, {"a", "u"})] == ["org/u", "org/far"]


def test_what_was_not_audited_is_a_row(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in "bcdfg":
        (folder / f"{name}.json").unlink()
    (folder / "deep" / "e.json").unlink()
    assert main(["summary", str(folder), "--exit-code"]) == 0
    manifest = folder / "m.toml"
    manifest.write_text("suspects = [{model = 'org/far', name = 'a'}, 'org/lost']")
    assert main(["summary", str(folder), "--exit-code", "--manifest", str(manifest)]) == 3
    assert "2 suspects: 1 not audited, 1 pass" in capfd.readouterr().err


def test_folders_that_hold_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="holds no JSON report"):
        read_rows(tmp_path)
    with pytest.raises(UsageError, match="is no folder"):
        read_rows(tmp_path / "absent")
    monkeypatch.setattr(rows_module, "MOST_FILES", 1)
    for name in "ab":
        (tmp_path / f"{name}.json").write_text("{}")
    with pytest.raises(UsageError, match="more than 1 JSON files"):
        read_rows(tmp_path)


def test_the_worst_code() -> None:
    order = [130, 5, 3, 2, 4, 1, 0]
    for place, code in enumerate(order):
        assert worst_code(order[place:][::-1]) == code
    assert worst_code([]) == 0
    assert worst_code([0, 77]) == 3


def test_formats(folder: Path) -> None:
    rows = read_rows(folder)
    texts = {form: render(rows, form, RenderOptions()) for form in SUMMARIES.names()}
    for form, text in texts.items():
        assert text.endswith("\n"), form
        assert not set("\x1b‮") & set(text), form
    assert "<script>alert" not in texts["html"]
    assert "default-src 'none'" in texts["html"]
    table = list(csv.DictReader(io.StringIO(texts["csv"])))
    assert [row["place"] for row in table] == [str(n) for n in range(1, 8)]
    assert table[0]["model"].startswith("'=cmd()")
    data = json.loads(texts["json"])
    assert data["exit_code"] == 5
    assert data["verdicts"] == {"fail": 2, "inconclusive": 1, "pass": 2, "refused": 1, "unreadable": 1}
    assert [row["model"] for row in data["rows"]] == [row.model for row in rows]
    log = json.loads(texts["sarif"])
    validator().validate(log)
    assert [result["level"] for result in log["runs"][0]["results"]] == ["error"] * 3 + ["warning"] * 2
    assert "org/near" in texts["terminal"]
    assert "7 suspects: 2 fail, 1 refused, 1 unreadable, 1 inconclusive, 2 pass" in texts["terminal"]
    assert render(rows, "terminal", RenderOptions(unicode=False)).isascii()


def test_the_command(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    target = folder.parent / f"{folder.name}.html"
    assert main(["summary", str(folder), "-o", "csv", "-o", f"html={target}"]) == 0
    captured = capfd.readouterr()
    assert captured.out.startswith("place,model,verdict")
    assert captured.err.splitlines()[-1].startswith("OK (0): 7 suspects")
    assert target.read_text().startswith("<!DOCTYPE html>")
    assert main(["summary", str(folder), "--exit-code", "-q"]) == 5
    assert capfd.readouterr().err.splitlines()[-1].startswith("REFUSED (5): 7 suspects")
    assert main(["summary", str(folder / "absent")]) == 2
    assert main(["summary", str(folder), "-o", "pdf"]) == 2
