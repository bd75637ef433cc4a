"""A report path never holds an older run's report as if it were this one's, and the older one is not lost."""

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from platodef_cli.errors import IncompleteError
from platodef_cli.records import AuditReport
from platodef_cli.report import REPORTS
from tests.unit.cli.calls import Call, Result

Seen = list[dict[str, str]]
Run = Callable[..., tuple[Result, Seen]]
FORMS = [name for name in REPORTS.names() if name != "terminal"]


@pytest.fixture
def run(platodef: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, golden_report: AuditReport) -> Run:
    """Run an audit that looks at the results' folder while it runs, and ends as it is told to."""
    monkeypatch.delenv("PLATODEF_CACHE_DIR")

    def call(*words: object, ends: BaseException | None = None) -> tuple[Result, Seen]:
        seen: Seen = []

        def fake(*_: object, **__: Any) -> AuditReport:
            seen.append({path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()})
            if ends is not None:
                raise ends
            return golden_report

        monkeypatch.setattr(import_module("platodef_cli.audit.run"), "audit", fake)
        return platodef("audit", "m", *words), seen

    return call


@pytest.mark.parametrize("form", FORMS)
def test_it_is_set_aside_before_the_work_and_replaced_after_it(run: Run, form: str, tmp_path: Path) -> None:
    target = tmp_path / "result"
    target.write_text("older")
    target.chmod(0o640)
    done, seen = run("-o", f"{form}={target}")
    assert seen == [{"result.previous": "older"}]  # all that a run that is killed now would leave
    assert done.code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["result"]
    assert target.read_text() not in ("", "older")
    assert target.stat().st_mode & 0o777 == 0o640
    assert "previous" not in done.err


def test_links_are_followed(run: Run, tmp_path: Path) -> None:
    real, link = tmp_path / "deep" / "real", tmp_path / "link"
    real.parent.mkdir()
    real.write_text("older")
    link.symlink_to(real)
    _, seen = run("-o", f"json={link}")
    assert seen == [{}]
    assert link.is_symlink()
    assert link.read_text().startswith("{")
    assert os.listdir(real.parent) == ["real"]


def test_what_was_not_written_is_named_with_where_the_older_one_is(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full after the first of two reports."""
    from platodef_cli.cli import report

    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_text("older")
    written: list[str] = []
    real = report.write_text

    def fill(path: Path, text: str, **options: Any) -> None:
        if written:
            raise OSError(28, "No space left on device", str(path))
        written.append(path.name)
        real(path, text, **options)

    monkeypatch.setattr(report, "write_text", fill)
    done, _ = run("-o", f"json={paths[0]}", "-o", f"markdown={paths[1]}")
    assert done.code == 3
    assert "No space left on device" in done.last
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b.previous"}
    assert "b was not written; that of an earlier run is now b.previous" in done.err
    assert "a was not written" not in done.err


def test_an_error_report_takes_its_place(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "r.json"
    target.write_text("older")
    done, _ = run("-o", f"json={target}", ends=IncompleteError("the disk is full"))
    assert done.code == 3
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
    assert "the disk is full" in target.read_text()


def test_an_interrupted_run_after_an_interrupted_one_keeps_the_last_report(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "r.json"
    target.write_text("older")
    for _ in range(2):
        done, _ = run("-o", f"json={target}", ends=KeyboardInterrupt())
        assert done.code == 130
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"r.json.previous": "older"}


@pytest.mark.parametrize(
    "words", [["--policy", "{}/absent"], ["--baseline", "{}/r.json"], ["-o", "jsn={}/x"]]
)
def test_a_command_that_never_began_moves_nothing(run: Run, words: list[str], tmp_path: Path) -> None:
    target = tmp_path / "r.json"
    target.write_text("older")
    done, seen = run("-o", f"json={target}", *(word.format(tmp_path) for word in words))
    assert (done.code, seen) == (2, [])
    assert target.read_text() == "older"
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_a_baseline_may_be_replaced(run: Run, tmp_path: Path, golden_json: str) -> None:
    """It is read before."""
    target = tmp_path / "r.json"
    target.write_text(golden_json)
    done, _ = run("--baseline", target, "-o", f"json={target}")
    assert done.code in (0, 1), done.err
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_special_files_stay(run: Run, tmp_path: Path) -> None:
    done, _ = run("-o", "json=/dev/null")
    assert done.code == 1
    assert not Path("/dev/null").is_file()
