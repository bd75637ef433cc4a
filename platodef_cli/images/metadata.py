"""Labels and captions beside images: ``metadata.jsonl`` or ``metadata.csv`` of an image folder."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from platodef_cli.errors import UsageError
from platodef_cli.images.columns import Columns
from platodef_cli.images.rows import number_or_text

_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_FILE = ("file_name", "filename", "file")
_LARGEST = 512 * 2**20


def read_metadata(
    root: Path,
    columns: Columns,
    pick: Callable[[Sequence[str], str], str | None] | None = None,
    images: Sequence[str] = (),
) -> dict[str, Any] | None:
    """Return relative path -> label of the tables in a folder and in all folders above its images.

    Args:
        root: The folder.
        columns: The column of the labels.
        images: Relative paths of its images.
        pick: Chooses among the columns of a table, given its name; by default that of the labels.

    Returns:
        None where there is no table, or it has no such column.

    Raises:
        UsageError: A table is damaged, or lacks the column that was asked for.
    """
    found: dict[str, Any] = {}
    inner = {parent.as_posix() for name in images for parent in PurePosixPath(name).parents} - {"."}
    for place in (root, *(root / name for name in sorted(inner))):
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
                (PurePosixPath(prefix.as_posix()) / _path(record[file])).as_posix(): record.get(label)
                for record in records
                if record.get(file)
            }
    return found or None


def _records(path: Path) -> list[dict[str, Any]]:
    if path.stat().st_size > _LARGEST:
        raise UsageError(f"{path} has more than {_LARGEST:,} bytes; leave it out, or give --no-labels")
    if path.suffix == ".parquet":
        return _of_parquet(path)
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix == ".csv":
            head = text.partition("\n")[0]
            delimiter = next((mark for mark in (",", ";", "\t") if mark in head), ",")
            rows = [dict(row) for row in csv.DictReader(text.splitlines(), delimiter=delimiter)]
            return [
                {k: number_or_text(v) if isinstance(v, str) and k not in _FILE else v for k, v in r.items()}
                for r in rows
            ]
        lines = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise UsageError(
            f"{path} cannot be read: {str(error)[:120]}; repair it, or give --no-labels"
        ) from None
    return [line for line in lines if isinstance(line, dict)]


def _path(cell: Any) -> PurePosixPath:
    """Return the path in a cell; tables that were written on Windows have backslashes."""
    text = str(cell)
    return PurePosixPath(text.replace("\\", "/") if "/" not in text else text)


def _of_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
        plain = [field.name for field in schema if not pa.types.is_nested(field.type)]
        records: list[dict[str, Any]] = pq.read_table(path, columns=plain).to_pylist()
    except (pa.ArrowException, OSError, RecursionError, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())[:120]
        raise UsageError(f"{path} cannot be read: {text}; repair it, or give --no-labels") from None
    return records
