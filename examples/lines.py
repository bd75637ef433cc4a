"""Progress as plain lines, which also reads well in a log."""

from collections.abc import Iterator
from contextlib import contextmanager

from platodef_cli.progress import Task


class _Step:
    def __init__(self, title: str, total: int):
        self.title, self.total, self.done = title, total, 0

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        """Print at every tenth of the way."""
        before, self.done = self.done, self.done + amount
        if self.done * 10 // self.total > before * 10 // self.total:
            print(f"{self.title}: {self.done}/{self.total} {note}".rstrip(), flush=True)


class Lines:
    """A :class:`platodef_cli.progress.Progress` that prints.

    Attributes:
        name: Begins every line.
    """

    def __init__(self, name: str):
        self.name = name

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Task]:
        """Open a step."""
        yield _Step(f"{self.name}: {title}", total or 1)

    def warn(self, message: str) -> None:
        """Print a warning."""
        print(f"{self.name}: {message}", flush=True)
