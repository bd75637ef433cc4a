"""The table of scores, written row by row: JSON or CSV, of as many rows as there are."""

import csv
import json
import tempfile
from pathlib import Path
from typing import IO

from platodef_cli.cli.outputs import STANDARD_STREAM, to_stdout
from platodef_cli.disk import replacing

_CHUNK = 1 << 20
Row = dict[str, object]


class ScoreTable:
    """Collects rows in a temporary file.

    Args:
        form: ``json`` or ``csv``.
    """

    def __init__(self, form: str):
        self._form = form
        self._rows: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", newline="")
        self._writer: csv.DictWriter[str] | None = None
        self._count = 0

    def add(self, rows: list[Row]) -> None:
        """Append rows."""
        from platodef_cli.report.json import encodable

        for row in rows:
            if self._form == "csv":
                if self._writer is None:
                    self._writer = csv.DictWriter(self._rows, fieldnames=list(row), lineterminator="\n")
                    self._writer.writeheader()
                self._writer.writerow({**_safe(row), "flagged": int(bool(row["flagged"]))})
            else:
                text = json.dumps(encodable(row), indent=2, ensure_ascii=True, allow_nan=False)
                indented = "\n".join(f"    {line}" for line in text.split("\n"))
                self._rows.write(f"{',' if self._count else ''}\n{indented}")
            self._count += 1

    def write(self, output: str, facts: Row) -> None:
        """Write the table, JSON with some facts before the rows, to stdout or a file, whole or not at all."""
        from platodef_cli.report.json import dumps

        before, after = "", ""
        if self._form == "json":
            text = dumps({**facts, "direction": "higher is more suspicious", "rows": []})
            before, after = text[: -len("]\n}\n")], ("\n  ]\n}\n" if self._count else "]\n}\n")
        self._rows.seek(0)
        if output == STANDARD_STREAM:
            to_stdout(before)
            while chunk := self._rows.read(_CHUNK):
                to_stdout(chunk)
            to_stdout(after)
        else:
            with (
                replacing(Path(output)) as temporary,
                temporary.open("w", encoding="utf-8", newline="") as sink,
            ):
                sink.write(before)
                while chunk := self._rows.read(_CHUNK):
                    sink.write(chunk)
                sink.write(after)

    def close(self) -> None:
        """Remove the temporary file."""
        self._rows.close()


def _safe(row: Row) -> Row:
    """Return a row that no spreadsheet takes for a formula."""
    name = row.get("image")
    if isinstance(name, str) and name.startswith(("=", "+", "-", "@", "\t", "\r")):
        return {**row, "image": f"'{name}"}
    return row
