"""Labels and captions beside images: ``metadata.jsonl`` or ``metadata.csv`` of an image folder."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from platodef_cli.errors import UsageError
from platodef_cli.images.columns import Columns

_NAMES = ("metadata.jsonl", "metadata.csv")
_FILE = ("file_name", "filename", "file")
_LARGEST = 512 * 2**20


def read_metadata(
    root: Path, columns: Columns, pick: Callable[[Sequence[str], str], str | None] | None = None
) -> dict[str, Any] | None:
    """Return relative path -> label of the tables in a folder and in the folders at its top.

    Args:
        root: The folder.
        columns: The column of the labels.
        pick: Chooses among the columns of a table, given its name; by default that of the labels.

    Returns:
        None where there is no table, or it has no such column.

    Raises:
        UsageError: A table is damaged, or lacks the column that was asked for.
    """
    found: dict[str, Any] = {}
    for place in (root, *sorted(entry for entry in root.iterdir() if entry.is_dir())):
        for name in _NAMES:
            path = place / name
            if not path.is_file():
                continue
            records = _records(path)
            keys = list(dict.fromkeys(key for record in records[:100] for key in record))
            file = next((key for key in _FILE if key in keys), None)
            label = (pick or columns.label_of)(keys, str(path))
            if file is None or label is None:
                continue
            prefix = place.relative_to(root)
            found |= {
                (PurePosixPath(prefix.as_posix()) / str(record[file])).as_posix(): record.get(label)
                for record in records
                if record.get(file)
            }
    return found or None


def _records(path: Path) -> list[dict[str, Any]]:
    if path.stat().st_size > _LARGEST:
        raise UsageError(f"{path} has more than {_LARGEST:,} bytes; leave it out, or give --no-labels")
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix == ".csv":
            rows: list[dict[str, Any]] = [dict(row) for row in csv.DictReader(text.splitlines())]
            return [
                {k: int(v) if isinstance(v, str) and v.isdecimal() else v for k, v in r.items()} for r in rows
            ]
        lines = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise UsageError(
            f"{path} cannot be read: {str(error)[:120]}; repair it, or give --no-labels"
        ) from None
    return [line for line in lines if isinstance(line, dict)]


def _number(cell: Any) -> Any:
    return int(cell) if isinstance(cell, str) and cell.isdecimal() else cell
