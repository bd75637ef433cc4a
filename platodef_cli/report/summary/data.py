"""The table of many reports for programs: CSV that no spreadsheet takes for formulas, and JSON."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields

from platodef_cli.report.escaping import plain
from platodef_cli.report.interface import RenderOptions
from platodef_cli.report.json import dumps
from platodef_cli.report.summary.rows import Row, worst_code

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_text(rows: Sequence[Row], options: RenderOptions) -> str:
    """Return CSV with a header; references are between blanks."""
    stream = io.StringIO()
    names = ["place", *(field.name for field in fields(Row))]
    writer = csv.DictWriter(stream, fieldnames=names, lineterminator="\n")
    writer.writeheader()
    for place, row in enumerate(rows, start=1):
        values = asdict(row) | {"place": place, "references": " ".join(row.references)}
        writer.writerow({name: _cell(value) for name, value in values.items()})
    return stream.getvalue()


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = plain(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def json_text(rows: Sequence[Row], options: RenderOptions) -> str:
    """Return an object with the worst exit code, the number of every verdict, and the rows in order."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.verdict] = counts.get(row.verdict, 0) + 1
    return dumps(
        {
            "kind": "platodef-summary",
            "version": 1,
            "exit_code": worst_code([row.exit_code for row in rows]),
            "verdicts": dict(sorted(counts.items())),
            "rows": [asdict(row) for row in rows],
        }
    )
