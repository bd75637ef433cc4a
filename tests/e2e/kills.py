"""Audits in processes that are killed at a moment, with everything that they start and leave behind."""

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PR_SET_CHILD_SUBREAPER = 36
_ORPHANS_S = 60.0
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ended:
    """A run that ended.

    Attributes:
        code: Its exit code, negative for a signal.
        stderr: What it said.
        seconds: Processor time of it and all that it started.
        orphans: Processes that outlived it for long; they were killed then.
    """

    code: int
    stderr: str
    seconds: float
    orphans: int


def environment_of(home: Path, temporary: Path) -> dict[str, str]:
    """Return the environment of a user without network whose folders are these."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "HF_"))}
    return others | {
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "HF_HUB_OFFLINE": "1",
        "NO_COLOR": "1",
        "PYTHONPATH": str(ROOT),
    }


@contextmanager
def reaping() -> Iterator[None]:
    """Become the parent of what killed runs leave running, so that none of it can hide."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@dataclass(frozen=True)
class Place:
    """Where audits run: everything that they could write to lies inside.

    Attributes:
        folder: Holds the cache, the folder for temporary files, and the results.
        words: Of the audit, after ``platodef audit``.
        home: Of its user, where libraries keep what they make once (matplotlib its list of fonts).
        shared: A cache elsewhere, or None.
    """

    folder: Path
    words: tuple[str, ...]
    home: Path
    shared: Path | None = None

    @property
    def report(self) -> Path:
        """The JSON report."""
        return self.folder / "results" / "report.json"

    @property
    def cache(self) -> Path:
        """The cache."""
        return self.shared or self.folder / "cache"

    def make(self) -> None:
        """Make the folders that a user has before anything runs."""
        for path in (self.home, self.folder / "tmp", self.folder / "results"):
            path.mkdir(parents=True, exist_ok=True)

    def command(self, *, plan: bool = False) -> list[str]:
        """Return the words that start the audit."""
        outputs = ["--plan"] if plan else ["-o", f"json={self.report}"]
        start = [sys.executable, "-m", "platodef_cli.cli.app", "audit"]
        return [*start, *self.words, *outputs, "--cache-dir", str(self.cache)]

    def run(self, kill_after: float | None = None, *, plan: bool = False) -> Ended:
        """Run the audit, or only plan it, and wait for all that it started.

        Args:
            kill_after: Kill its process after so many seconds, unless it has ended by then.
            plan: Write no report.
        """
        self.make()
        with (self.folder / "stderr").open("w+") as errors:
            process = subprocess.Popen(
                self.command(plan=plan),
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                env=environment_of(self.home, self.folder / "tmp"),
                cwd=self.folder,
                start_new_session=True,
            )
            code, seconds = _end_of(process, kill_after)
            left, orphans = _left_running()
            errors.seek(0)
            return Ended(code, errors.read(), seconds + left, orphans)

    def left_over(self) -> list[Path]:
        """Return what nobody asked for: temporary files, wherever they lie."""
        hidden = [*self.cache.rglob(".tmp*"), *(self.folder / "results").glob(".*")]
        return [*(self.folder / "tmp").iterdir(), *hidden]

    def content(self) -> dict[str, Any]:
        """Return the report without its timing."""
        report: dict[str, Any] = json.loads(self.report.read_text())
        report.pop("timing")
        return report


def _end_of(process: "subprocess.Popen[bytes]", kill_after: float | None) -> tuple[int, float]:
    """Wait for a process, or kill it; return its exit code and its processor time."""
    pidfd = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(None if kill_after is None else 1000 * kill_after):
            os.kill(process.pid, signal.SIGKILL)
        _, status, usage = os.wait4(process.pid, 0)
    finally:
        os.close(pidfd)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_utime + usage.ru_stime


def _left_running() -> tuple[float, int]:
    """Wait for the orphans that became children of this process; return their time, and how many stayed."""
    seconds, stayed = 0.0, 0
    while children := _children():
        for pid in children:
            pidfd = os.pidfd_open(pid)
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if not poll.poll(1000 * _ORPHANS_S):
                stayed += 1
                os.kill(pid, signal.SIGKILL)
            os.close(pidfd)
            _, _, usage = os.wait4(pid, 0)
            seconds += usage.ru_utime + usage.ru_stime
    return seconds, stayed


def _children() -> list[int]:
    tasks = Path("/proc/self/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
