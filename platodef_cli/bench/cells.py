"""Finished cells of the tables on disk, so that an interrupted run goes on where it stopped."""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from platodef_cli.disk import write_atomically
from platodef_cli.records import Record

VERSION = 2  # part of every key: raise it when the same inputs give other numbers

R = TypeVar("R", bound=BaseModel)


class Stored(Record):
    """What is kept of one cell."""

    key: dict[str, object]
    seconds: float
    result: dict[str, object]


class CellStore:
    """Keeps results of cells in a folder.

    Args:
        folder: Made when the first cell is stored.
        fresh: Ignore what is there.

    Attributes:
        folder: The folder.
        seconds: Computing time of all cells that were asked for, those of earlier runs included.
    """

    def __init__(self, folder: Path, *, fresh: bool = False):
        self.folder, self._fresh = folder, fresh
        self.seconds = 0.0

    def path(self, name: str, key: dict[str, object]) -> Path:
        """Return where the result of a cell lies, or would."""
        key = {"version": VERSION, **key}
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        return self.folder / f"{name}-{digest}.json"

    def get(self, name: str, key: dict[str, object], kind: type[R], compute: Callable[[], R]) -> R:
        """Return the stored result of a cell, or compute and store it.

        Args:
            name: Begins the file name.
            key: JSON values that decide the result.
            kind: Record of the result.
            compute: Gives the result.
        """
        path = self.path(name, key)
        key = {"version": VERSION, **key}
        kept = None if self._fresh else _read(path, kind)
        if kept is not None:
            self.seconds += kept[1]
            return kept[0]
        started = time.perf_counter()
        result = compute()
        seconds = time.perf_counter() - started
        self.seconds += seconds
        self.folder.mkdir(parents=True, exist_ok=True)
        stored = Stored(key=key, seconds=round(seconds, 3), result=result.model_dump(mode="json"))
        write_atomically(path, (json.dumps(stored.model_dump(mode="json")) + "\n").encode())
        return result


def _read(path: Path, kind: type[R]) -> tuple[R, float] | None:
    """Return a stored result; None where it is missing or damaged."""
    try:
        stored = Stored.model_validate_json(path.read_bytes())
        return kind.model_validate(stored.result), stored.seconds
    except (OSError, ValidationError):
        return None
