"""Many audits: resumed, repeated where something changed, and never stopped by one of them."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from platodef_cli.errors import IncompleteError, UsageError
from platodef_cli.jobs.audits import Place, Task, plan
from platodef_cli.jobs.manifest import Manifest, Suspect, read_manifest
from platodef_cli.jobs.many import LOCKS, check, run_all, words_for
from platodef_cli.jobs.process import Ended, Processes
from platodef_cli.records import AuditReport
from platodef_cli.records.run import UNREACHED
from platodef_cli.report.interface import RenderOptions
from platodef_cli.report.summary import SUMMARIES, render
from platodef_cli.report.summary.rows import read_rows
from tests.unit.cli.calls import ROOT, command

CODES = {"good": 0, "bad": 1, "unsure": 4, "unsafe": 5, "broken": 3}


class FakeRunner:
    """Writes the golden report instead of auditing; ends as ``CODES`` says of the suspect's name."""

    def __init__(self, report: AuditReport, parallel: int = 1):
        self.report, self.parallel = report, parallel
        self.ran: list[str] = []
        self.most = self.now = 0
        self.during: Callable[[Task], None] = lambda task: None
        self._lock = threading.Lock()

    def run(self, task: Task, place: Place) -> Ended:
        name = task.suspect.name
        with self._lock:
            self.ran.append(name)
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            self.during(task)
        finally:
            with self._lock:
                self.now -= 1
        code = CODES.get(name, 0)
        place.log(name).write_text("log")
        verdict = {0: "pass", 1: "fail", 4: "inconclusive", 5: "refused", 3: "error"}[code]
        report = self.report.model_copy(update={"verdict": verdict, "exit_code": code})
        for file in place.outputs(name).values():
            (place.folder / file).write_text(report.model_dump_json())
        return Ended(code, f"({code}) {name}", 1.0)

    def stop(self) -> None:
        pass


class Scene:
    """A manifest of model folders, and runs of it."""

    def __init__(self, folder: Path, report: AuditReport):
        self.folder, self.report = folder, report
        self.out = folder / "out"
        (folder / "images").mkdir()
        (folder / "images" / "one.png").write_bytes(b"1")
        for name in CODES:
            (folder / name).mkdir()
            (folder / name / "model.safetensors").write_bytes(name.encode())
        self.options = ""

    def run(
        self, *formats: str, parallel: int = 1, during: Callable[[Task], None] | None = None
    ) -> dict[str, int]:
        entries = "".join(f"[[suspects]]\nname = {n!r}\nmodel = {str(self.folder / n)!r}\n" for n in CODES)
        text = f"{entries}[audit]\nimages = {str(self.folder / 'images')!r}\n{self.options}"
        (self.folder / "m.toml").write_text(text)
        self.runner = FakeRunner(self.report, parallel)
        if during is not None:
            self.runner.during = during
        self.told: list[tuple[str, bool]] = []
        manifest = read_manifest(self.folder / "m.toml")
        return run_all(
            manifest,
            manifest.suspects,
            Place(self.out, formats),
            self.runner,
            extra={},
            tell=lambda suspect, ended, before: self.told.append((suspect.name, before)),
            warn=lambda text: None,
        )

    @property
    def ran(self) -> set[str]:
        return set(self.runner.ran)


@pytest.fixture
def scene(tmp_path: Path, golden_report: AuditReport, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.chdir(tmp_path)  # no policy of this repository
    return Scene(tmp_path, golden_report)


def test_finished_audits_are_not_repeated_and_failed_ones_are(scene: Scene) -> None:
    assert scene.run() == CODES
    assert scene.ran == set(CODES)
    assert scene.run() == CODES
    assert scene.ran == {"broken"}
    assert dict(scene.told)["good"] is True
    assert [row.verdict for row in read_rows(scene.out)] == [
        "fail",
        "refused",
        "error",
        "inconclusive",
        "pass",
    ]


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda s: (s.folder / "good" / "model.safetensors").write_bytes(b"oodg"), {"good"}),
        (lambda s: (s.folder / "images" / "two.png").write_bytes(b"2"), set(CODES)),
        (lambda s: setattr(s, "options", "set = ['auroc=0.9']\n"), set(CODES)),
        (lambda s: setattr(s, "options", "seed = 1\n"), set(CODES)),
        (lambda s: os.utime(s.folder / "good" / "model.safetensors", (1, 1)), set()),
        (lambda s: (s.out / "bad.json").unlink(), {"bad"}),
        (lambda s: (s.out / "bad.json").write_text("{}"), {"bad"}),
        (lambda s: (s.out / "bad.run.json").write_text("{"), {"bad"}),
        (lambda s: (s.folder / "platodef.toml").write_text("auroc = 0.7\n"), set(CODES)),
    ],
    ids=[
        "suspect",
        "images",
        "policy",
        "seed",
        "times-only",
        "no-report",
        "other-report",
        "torn-record",
        "file",
    ],
)
def test_what_changed_is_audited_again(
    scene: Scene, change: Callable[[Scene], object], again: set[str]
) -> None:
    scene.run()
    change(scene)
    scene.run()
    assert scene.ran == again | {"broken"}


def test_another_format_is_another_result(scene: Scene) -> None:
    scene.run()
    scene.run("html")
    assert scene.ran == set(CODES)
    assert (scene.out / "good.html").is_file()


def test_an_interrupted_run_goes_on_and_leaves_no_old_report(scene: Scene) -> None:
    scene.run()
    scene.options = "seed = 2\n"

    def interrupt(task: Task) -> None:
        if task.suspect.name == "bad":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scene.run(during=interrupt)
    assert not (scene.out / "bad.json").exists()  # that of other options would be taken for the new one
    assert (scene.out / "unsure.json").exists()
    # what the interrupted run did not get to is no answer of it, in no format
    rows = {Path(row.file).name.partition(".")[0]: row for row in read_rows(scene.out)}
    assert {name: row.verdict for name, row in rows.items()} == {
        "good": "pass",
        "unsure": "earlier run",
        "unsafe": "earlier run",
        "broken": "earlier run",
    }
    assert {row.exit_code for row in rows.values()} == {0, 3}
    assert "did not get to it" in rows["unsafe"].summary
    for form in SUMMARIES.names():
        text = render(list(rows.values()), form, RenderOptions(width=200))
        assert "did not get to it" in text, form
    assert scene.run() == CODES
    assert scene.ran == set(CODES) - {"good"}
    assert not list((scene.out / UNREACHED).iterdir())
    assert "earlier run" not in {row.verdict for row in read_rows(scene.out)}


def test_an_older_report_of_a_suspect_that_could_not_be_looked_at_is_no_answer(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.run()

    def unreachable(manifest: Manifest, suspect: Suspect, *rest: Any) -> Task:
        if suspect.name == "good":
            raise IncompleteError("the Hub does not answer")
        return plan(manifest, suspect, *rest)

    monkeypatch.setattr("platodef_cli.jobs.many.plan", unreachable)
    assert scene.run() == {**CODES, "good": 3}
    (row,) = read_rows(scene.out, {"good"})
    assert (row.verdict, row.exit_code) == ("earlier run", 3)


def test_a_run_that_finds_a_suspect_at_work_elsewhere_leaves_no_mark_behind(scene: Scene) -> None:
    scene.run()
    scene.options = "seed = 3\n"
    other = Scene.__new__(Scene)
    other.__dict__.update(scene.__dict__)
    seen: list[int] = []

    def another(task: Task) -> None:
        if task.suspect.name == "good":
            other.options = "seed = 3\n"
            seen.append(other.run()["good"])

    codes = scene.run(during=another)
    assert seen == [3]  # another run is at work on it
    assert codes == CODES
    assert "earlier run" not in {row.verdict for row in read_rows(scene.out)}


def test_a_crash_of_one_does_not_stop_the_others(scene: Scene) -> None:
    def fail(task: Task) -> None:
        if task.suspect.name == "good":
            raise IncompleteError("no disk")
        if task.suspect.name == "bad":
            raise OSError(28, "No space left on device")

    codes = scene.run(during=fail)
    assert codes == {**CODES, "good": 3, "bad": 3}
    scene.run()
    assert scene.ran == {"good", "bad", "broken"}


def test_the_first_runs_alone_then_all_at_once(scene: Scene) -> None:
    alone = []

    def look(task: Task) -> None:
        alone.append((task.suspect.name, scene.runner.now))
        if task.suspect.name in ("bad", "unsure"):
            meeting.wait(20)

    meeting = threading.Barrier(2)
    assert scene.run(parallel=2, during=look) == CODES
    assert alone[0] == ("good", 1)
    assert scene.runner.most == 2


def test_two_runs_do_not_audit_the_same_suspect(scene: Scene) -> None:
    from filelock import FileLock

    (scene.out / LOCKS).mkdir(parents=True)
    with FileLock(scene.out / LOCKS / "good.lock"):
        assert scene.run()["good"] == 3
    assert "good" not in scene.ran
    assert scene.run()["good"] == 0


def test_a_wrong_policy_is_said_before_anything_runs(scene: Scene) -> None:
    scene.options = "set = ['nonsense=1']\n"
    scene.run()
    with pytest.raises(UsageError, match="nonsense"):
        check(read_manifest(scene.folder / "m.toml"))


def test_the_model_cannot_be_taken_for_an_option(scene: Scene) -> None:
    scene.run()
    manifest = read_manifest(scene.folder / "m.toml")
    task = Task(manifest.suspects[0], ("audit",), "--help", None, "", ())
    words = words_for(task, Place(scene.out, ("html",)))
    assert words[-2:] == ["--", "--help"]
    assert f"json={scene.out / 'good.json'}" in words


def test_what_ended_a_process_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "x.log"
    for code, words in (
        (-9, "SIGKILL ended its process, perhaps for want of memory"),
        (77, "ended with code 77"),
    ):
        monkeypatch.setattr(sys, "executable", str(script(tmp_path, code)))
        ended = Processes().run(["audit"], log)
        assert ended.code == 3
        assert words in ended.summary
    monkeypatch.setattr(sys, "executable", str(script(tmp_path, 130)))
    assert Processes().run(["audit"], log).interrupted
    stopped = Processes()
    stopped.stop()
    assert stopped.run(["audit"], log).interrupted


def script(folder: Path, code: int) -> Path:
    path = folder / f"end{code}"
    end = f"kill -{-code} $$" if code < 0 else f"exit {code}"
    path.write_text(f"#!/bin/sh\necho 'a line' >&2\n{end}\n")
    path.chmod(0o755)
    return path


def test_an_audit_ends_with_the_run_that_started_it() -> None:
    """A process whose parent is gone by the time it starts does nothing."""
    words = [sys.executable, "-m", "platodef_cli.jobs.leash", "1", "--version"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, timeout=100, check=False, env=env)
    assert done.returncode == 130
    assert done.stdout == b""


def test_real_processes(tmp_path: Path) -> None:
    """A pickled model, a folder that is not there, and a second run."""
    clean = ROOT / "examples" / "encoders" / "clean"
    (tmp_path / "-o pickled").mkdir()
    (tmp_path / "-o pickled" / "config.json").write_bytes((clean / "config.json").read_bytes())
    (tmp_path / "-o pickled" / "model.safetensors").write_bytes(b"\x80\x04pickle")
    manifest = tmp_path / "m.toml"
    manifest.write_text(
        "suspects = ['-o pickled', './absent']\n[audit]\nimages = 'builtin:shapes?seed=1&count=600'\n"
        "references = ['builtin:reference-vit', 'builtin:reference-cnx']\n"
    )
    code = (
        f"import os, sys; os.chdir({str(tmp_path)!r}); from platodef_cli.cli.app import main;"
        "sys.exit(main(['audit-many', 'm.toml', '-o', 'out', '--report', 'sarif']))"
    )
    from tests.unit.cli.calls import python

    done = python(code)
    assert done.code == 5, done.err
    assert "./absent" in done.err
    assert "is a pickle" in done.err
    assert done.last.startswith("REFUSED (5): 2 suspects: 1 refused, 1 usage error")
    (sarif,) = (tmp_path / "out").glob("*.sarif")
    assert json.loads(sarif.read_text())["version"] == "2.1.0"
    (report,) = [path for path in (tmp_path / "out").glob("*.json") if not path.name.endswith(".run.json")]
    assert json.loads(report.read_text())["verdict"] == "refused"
    again = python(code)
    assert again.code == 5
    assert "(finished before)" in again.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shard", "0/3"], "the shard '0/3' is none"),
        (["--shard", "4/3"], "the shard '4/3' is none"),
        (["--shard", "x"], "the shard 'x' is none"),
        (["--address", "x:1"], "--address is for --executor ray"),
        (["--report", "pdf"], "unknown report format 'pdf'"),
    ],
)
def test_slips_of_the_command_line(tmp_path: Path, words: list[str], message: str) -> None:
    from platodef_cli.cli.app import main

    (tmp_path / "m.toml").write_text("suspects = ['org/a']")
    assert main(["audit-many", str(tmp_path / "m.toml"), "-o", str(tmp_path / "out"), *words]) == 2
    assert not (tmp_path / "out").exists()


def test_dry_run(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text("suspects = ['org/a', 'org/b', 'org/c']")
    done = command(
        "audit-many", str(tmp_path / "m.toml"), "-o", str(tmp_path / "o"), "--dry-run", "--shard", "2/2"
    )
    assert done.code == 0
    assert done.out.splitlines()[1].split() == ["org--b", "org/b"]
    assert not (tmp_path / "o").exists()
