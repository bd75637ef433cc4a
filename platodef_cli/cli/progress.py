"""Progress bars on stderr, for :class:`platodef_cli.progress.Progress`."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from platodef_cli.progress import Task
from platodef_cli.report.escaping import plain

EVERY_S = 20.0
"""Seconds between two lines about a running step, where there is no live display."""
_LINES = 10  # whose pace is taken for that of the rest


class _Whole(ProgressColumn):
    """The time left over all steps, where somebody knows it."""

    def __init__(self, left: Callable[[], str]):
        super().__init__()
        self._left = left

    def render(self, task: "object") -> Text:
        """Return it, the same in every line."""
        return Text(self._left(), style="dim")


class _BarTask:
    def __init__(self, bars: Progress, task: TaskID):
        self._bars = bars
        self._task = task

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        """Move the bar."""
        if note:
            self._bars.update(self._task, advance=amount, note=plain(note, 40))
        else:
            self._bars.update(self._task, advance=amount)


class _CountingTask:
    """Knows how far a step is, for lines that say so where there is no live display."""

    def __init__(self, shown: str, total: int | None, clock: Callable[[], float]):
        self._shown, self._total, self._clock = shown, total, clock
        self._started = clock()
        self._done, self._note = 0, ""
        self._seen: deque[tuple[float, int]] = deque([(self._started, 0)], maxlen=_LINES)

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        """Count."""
        self._done += amount
        self._note = plain(note, 40) if note else self._note

    def line(self) -> str:
        """Return what is done, and the time that the rest will take at the pace of the last lines.

        What a cache gave at the beginning says nothing about the rest.
        """
        now, done = self._clock(), self._done
        then, before = self._seen[0]
        self._seen.append((now, done))
        text = f"{self._shown}: {_duration(now - self._started)} so far"
        if self._total and done:
            text = f"{self._shown}: {min(1.0, done / self._total):.0%}"
            if done > before:
                left = max(0, self._total - done) * (now - then) / (done - before)
                text += f", about {_duration(left)} left"
        return text + (f" ({self._note})" if self._note else "")


class _Silent:
    def advance(self, amount: int = 1, *, note: str = "") -> None:
        """Do nothing."""


class ConsoleProgress:
    """Shows running steps as bars and finished ones as a line with their time.

    Args:
        console: Where to draw (stderr).
        animate: Draw live bars; otherwise finished steps are shown, and now and then how far others are.
        steps: Whether steps are shown at all; warnings always are, each of them once.
        warn: Called with the text of each new warning.
        every: Seconds between two lines about a running step.
        clock: Tells seconds.

    Attributes:
        left: Returns the seconds that all steps together still take, where that is known.
    """

    def __init__(
        self,
        console: Console,
        *,
        animate: bool,
        steps: bool,
        warn: Callable[[str], None],
        every: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._console = console
        self._steps = steps
        self._warn = warn
        self._warned: set[str] = set()
        self._open = 0
        self._every, self._clock = every, clock
        self.left: Callable[[], float] | None = None
        self._running: list[_CountingTask] = []
        self._idle = threading.Event()
        self._teller: threading.Thread | None = None
        # Steps may be opened and closed by several threads at once.
        self._lock = threading.Lock()
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            _Whole(self._whole),
            console=console,
            transient=True,
            # epochs and encoders can take minutes each: an estimate needs two of them
            speed_estimate_period=1800,
            disable=not (animate and steps),
        )

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Task]:
        """Show one step; steps may be nested."""
        if not self._steps:
            yield _Silent()
            return
        shown, started = plain(title, 60), self._clock()
        if self._bars.disable:
            with self._told_of(_CountingTask(shown, total, self._clock)) as counting:
                yield counting
                self._finished(shown, started)
            return
        with self._lock:
            self._open += 1
            if self._open == 1:
                self._bars.start()
        task = self._bars.add_task(shown, total=total, note="")
        try:
            yield _BarTask(self._bars, task)
            self._finished(shown, started)
        finally:
            self._bars.remove_task(task)
            with self._lock:
                self._open -= 1
                if self._open == 0:
                    self._bars.stop()

    @contextmanager
    def _told_of(self, task: _CountingTask) -> Iterator[_CountingTask]:
        """Let a thread tell how far a step is while it runs."""
        with self._lock:
            self._running.append(task)
            if self._teller is None:
                self._idle = threading.Event()
                self._teller = threading.Thread(target=self._tell, args=(self._idle,), daemon=True)
                self._teller.start()
        try:
            yield task
        finally:
            with self._lock:
                self._running.remove(task)
                teller = self._teller if not self._running else None
                if teller is not None:
                    self._idle.set()
                    self._teller = None
            if teller is not None:
                teller.join()

    def _tell(self, idle: threading.Event) -> None:
        while not idle.wait(self._every):
            with self._lock:
                lines = [task.line() for task in self._running]
            whole = self._whole()
            for line in lines:
                said = f"  {line}; {whole}" if whole else f"  {line}"
                self._console.print(Text(said, style="dim"), soft_wrap=True)

    def _whole(self) -> str:
        """Return the time left over all steps in words, empty where nobody knows it."""
        return "" if self.left is None else f"whole audit: about {_duration(self.left())} left"

    def _finished(self, shown: str, started: float) -> None:
        line = f"  {shown}  {_duration(self._clock() - started)}"
        self._console.print(Text(line, style="dim"), soft_wrap=True)

    def warn(self, message: str) -> None:
        """Show a warning the first time it is given, even when steps are silent."""
        with self._lock:
            new = message not in self._warned
            self._warned.add(message)
        if new:
            self._warn(message)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"
