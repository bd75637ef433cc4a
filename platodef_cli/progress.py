"""Progress reporting that computing code can use without knowing about consoles."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """One running step."""

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        """Report ``amount`` more units done, and optionally a short note (a loss, a metric)."""


TaskContext = AbstractContextManager[Task]
"""Context manager that yields a task."""


class Progress(Protocol):
    """Receives the steps of a long computation."""

    def step(self, title: str, total: int | None = None) -> TaskContext:
        """Open a step; use as ``with progress.step("extracting", 5000) as task: task.advance()``."""

    def warn(self, message: str) -> None:
        """Tell the user about something that does not stop the work."""


class _SilentTask:
    def advance(self, amount: int = 1, *, note: str = "") -> None:
        """Do nothing."""


class SilentProgress:
    """The default: says nothing."""

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Task]:
        """Yield a task that ignores everything."""
        yield _SilentTask()

    def warn(self, message: str) -> None:
        """Do nothing."""


SILENT = SilentProgress()
