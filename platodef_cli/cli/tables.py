"""Small results of commands: aligned text for people, JSON for programs, both on stdout."""

from collections.abc import Sequence

from platodef_cli.cli.outputs import to_stdout
from platodef_cli.report.escaping import plain


def aligned(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table with one line per row, never wrapped or cut; foreign text is escaped."""
    lines = [[plain(str(cell)) for cell in row] for row in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n"
        for line in lines
    )


def show_rows(header: Sequence[str], rows: Sequence[Sequence[object]], *, as_json: bool) -> None:
    """Write rows to stdout, as a table or as a JSON list of objects with the header as keys."""
    if as_json:
        show_json([dict(zip(header, row, strict=True)) for row in rows])
    else:
        to_stdout(aligned(header, rows))


def show_json(value: object) -> None:
    """Write JSON to stdout."""
    from platodef_cli.report.json import dumps

    to_stdout(dumps(value))
