"""`platodef report` and `platodef schema` on the golden report."""

import json
from pathlib import Path

import pytest

from platodef_cli.attestation.statement import read_statement, write_statement
from platodef_cli.records import AuditReport
from tests.unit.cli.calls import ROOT, Call
from tests.unit.report.endings import early_end

GOLDEN = ROOT / "tests" / "golden"
REPORT = GOLDEN / "report_v2.json"


def test_terminal_is_the_default_and_goes_to_stderr(platodef: Call) -> None:
    done = platodef("report", REPORT)
    assert done.code == 0
    assert done.out == ""
    golden = (GOLDEN / "terminal_80.txt").read_text()
    assert done.err.startswith(golden)
    assert done.last.startswith("OK (0): the verdict of this report: FAIL (1): trigger 'patch-white")


def test_json_to_stdout_is_byte_identical(platodef: Call) -> None:
    done = platodef("report", REPORT, "-o", "json")
    assert done.code == 0
    assert done.out == REPORT.read_text()


def test_several_formats_at_once(platodef: Call, tmp_path: Path) -> None:
    done = platodef(
        "report",
        REPORT,
        "-o",
        f"json={tmp_path}/r.json",
        "-o",
        f"terminal={tmp_path}/r.txt",
        "-o",
        "markdown",
    )
    assert done.code == 0
    assert (tmp_path / "r.json").read_bytes() == REPORT.read_bytes()
    assert (tmp_path / "r.txt").read_text() == (GOLDEN / "terminal_80.txt").read_text()
    assert done.out == (GOLDEN / "report_v2.md").read_text()


def test_verbose_shows_details(platodef: Call) -> None:
    assert "patch-noise-0.16-random" not in platodef("report", REPORT).err.replace("\n", "")
    assert "patch-noise-0.16-" in platodef("report", REPORT, "-v").err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file: "),
        (b"{", "the file: "),
        (b"[]", "the file: "),
        (b"{}", "tool_version: Field required"),
        (b"\xff\xfe", "the file: "),
    ],
)
def test_a_file_that_is_no_report(platodef: Call, tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    done = platodef("report", path, "-o", f"markdown={tmp_path}/out.md")
    assert done.code == 2
    assert f"{path} is not a platodef report: {message}" in done.last
    assert not (tmp_path / "out.md").exists()


def test_a_report_of_the_future_is_refused_by_name(platodef: Call, tmp_path: Path) -> None:
    value = json.loads(REPORT.read_text())
    value["surprise"] = 1
    path = tmp_path / "future.json"
    path.write_text(json.dumps(value))
    done = platodef("report", path)
    assert done.code == 2
    assert "surprise: Extra inputs are not permitted" in done.last


def test_a_missing_report_or_a_folder(platodef: Call, tmp_path: Path) -> None:
    assert "No such file" in platodef("report", tmp_path / "absent.json").last
    done = platodef("report", tmp_path)
    assert done.code == 2
    assert "Is a directory" in done.last


def test_schema_is_the_model(platodef: Call) -> None:
    done = platodef("schema")
    assert done.code == 0
    assert json.loads(done.out) == AuditReport.model_json_schema()
    assert done.out.endswith("}\n")


def test_attest_writes_a_statement_of_the_same_bytes_every_time(platodef: Call, tmp_path: Path) -> None:
    report = AuditReport.model_validate_json(REPORT.read_bytes())
    for name in ("a.json", "b.json"):
        done = platodef("report", REPORT, "-o", f"json={tmp_path}/r.json", "--attest", tmp_path / name)
        assert done.code == 0, done.err
    data = (tmp_path / "a.json").read_bytes()
    assert data == (tmp_path / "b.json").read_bytes() == write_statement(report)
    assert read_statement(data).report == report


def test_attest_checks_its_place_and_its_report(platodef: Call, tmp_path: Path) -> None:
    assert platodef("report", REPORT, "--attest", tmp_path / "absent" / "a.json").code == 2
    unloaded = tmp_path / "unloaded.json"
    unloaded.write_text(early_end(5).model_dump_json())
    done = platodef("report", unloaded, "--attest", tmp_path / "a.json", "-o", f"json={tmp_path}/r.json")
    assert done.code == 2
    assert "names no files of the model" in done.last
    assert [path.name for path in tmp_path.iterdir()] == ["unloaded.json"]
    done = platodef("report", unloaded, "--attest", unloaded)
    assert "would overwrite its own input" in done.last
