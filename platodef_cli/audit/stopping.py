"""Ends computations in other threads between two of their steps."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from platodef_cli.errors import IncompleteError
from platodef_cli.progress import Progress, Task


class Stoppable:
    """A progress whose tasks raise once it has been stopped; implements :class:`Progress`."""

    def __init__(self, progress: Progress):
        self._progress = progress
        self._stopped = threading.Event()
        self.warn = progress.warn

    def stop(self) -> None:
        """Make every task raise :class:`IncompleteError` the next time it advances."""
        self._stopped.set()

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Task]:
        """Open a step of the wrapped progress."""
        with self._progress.step(title, total) as task:
            yield _StoppableTask(task, self._stopped)


class _StoppableTask:
    def __init__(self, task: Task, stopped: threading.Event):
        self._task = task
        self._stopped = stopped

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        """Report progress, or raise where nobody waits for the result any more."""
        if self._stopped.is_set():
            raise IncompleteError("the computation was stopped")
        self._task.advance(amount, note=note)
