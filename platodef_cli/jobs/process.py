"""One audit in a process of its own: started, watched, ended with the run that started it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from platodef_cli.errors import EXIT_INCOMPLETE, EXIT_INTERRUPTED, EXIT_REFUSED

GRACE_S = 15.0
"""How long an interrupted audit may take to end in order."""
_TAIL = 64 * 1024


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: Its exit code; 3 where a signal or a code of no meaning ended it.
        summary: Its last line on stderr, or what ended it.
        seconds: Wall time.
        interrupted: It was told to end.
    """

    code: int
    summary: str
    seconds: float
    interrupted: bool = False


class Processes:
    """The audits that run now; thread-safe.

    Args:
        threads: Computing threads of each; None leaves it to the libraries.
        variables: Set in their environments.
        folder: Where they run, if it exists; None is the current folder.
    """

    def __init__(
        self,
        threads: int | None = None,
        *,
        variables: Mapping[str, str] | None = None,
        folder: str | None = None,
    ):
        self._threads, self._variables = threads, dict(variables or {})
        self._folder = folder if folder is not None and Path(folder).is_dir() else None
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, words: Sequence[str], log: Path) -> Ended:
        """Run ``platodef`` with some words; stderr goes to ``log``.

        Raises:
            OSError: The log cannot be written or the process not started.
        """
        environment = {**os.environ, **self._variables}
        if self._threads is not None:
            environment["OMP_NUM_THREADS"] = str(self._threads)
        command = [sys.executable, "-m", "platodef_cli.jobs.leash", str(os.getpid()), *words]
        clock = time.monotonic()
        with log.open("wb") as stream:
            with self._lock:
                if self._stopped:
                    return Ended(EXIT_INTERRUPTED, "interrupted before it began", 0.0, interrupted=True)
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    env=environment,
                    cwd=self._folder,
                    # Ctrl-C of a terminal reaches this process alone, which tells the others
                    start_new_session=True,
                )
                self._running.add(child)
            try:
                code = child.wait()
            finally:
                with self._lock:
                    self._running.discard(child)
        return _ended(code, log, time.monotonic() - clock)

    def stop(self) -> None:
        """End all of them, in order where they are quick; none starts any more."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for child in running:
            _send(child, signal.SIGTERM)
        until = time.monotonic() + GRACE_S
        for child in running:
            try:
                child.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()


def _send(child: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    if child.poll() is None:
        child.send_signal(number)


def _ended(code: int, log: Path, seconds: float) -> Ended:
    last = last_line(log)
    if code == EXIT_INTERRUPTED:
        return Ended(code, last or "interrupted", seconds, interrupted=True)
    if code < 0:
        name = signal.Signals(-code).name if -code in list(signal.Signals) else str(-code)
        hint = ", perhaps for want of memory" if -code == getattr(signal, "SIGKILL", None) else ""
        return Ended(
            EXIT_INCOMPLETE, f"ERROR (3): signal {name} ended its process{hint}; see {log.name}", seconds
        )
    if code > EXIT_REFUSED:
        return Ended(
            EXIT_INCOMPLETE, f"ERROR (3): its process ended with code {code}; see {log.name}", seconds
        )
    return Ended(code, last or f"ended with code {code}", seconds)


def last_line(log: Path) -> str:
    """Return the last line of a log that is not blank, empty where there is none."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _TAIL))
        lines = stream.read().decode("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
