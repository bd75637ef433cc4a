"""The table of many reports for people: in a terminal, and as one HTML file without scripts or network."""

from collections.abc import Mapping, Sequence

from platodef_cli.report import page
from platodef_cli.report.blocks import Column, Grid
from platodef_cli.report.escaping import ascii_only, cut, plain
from platodef_cli.report.interface import RenderOptions
from platodef_cli.report.numbers import number
from platodef_cli.report.summary.rows import Row, worst_code

_MARKS: Mapping[str, str] = {"pass": "✓", "fail": "✗", "refused": "✗", "inconclusive": "?"}
_COLORS = {"pass": "32", "fail": "31", "refused": "31"}
_MODEL, _CHECK = 48, 28
ORDER = (
    "Ordered by suspicion: failed and refused first, then what has no verdict, passed last; inside of these "
    "by the margin, which is how far the worst indicator lies past its limit (negative: short of it)."
)


def counted(rows: Sequence[Row]) -> str:
    """Return ``5 suspects: 1 fail, 4 pass``."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.verdict] = counts.get(row.verdict, 0) + 1
    some = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return f"{len(rows)} suspect{'s' * (len(rows) != 1)}: {some}"


def terminal(rows: Sequence[Row], options: RenderOptions) -> str:
    """Return aligned text, a line per suspect, and the reason of those that did not pass below it."""
    header = ("", "verdict", "margin", "suspect", "indicator")
    cells = [
        (
            _MARKS.get(row.verdict, "!"),
            f"{row.verdict} ({row.exit_code})",
            number(row.margin),
            _short(row.model, _MODEL),
            _short(row.check, _CHECK),
        )
        for row in rows
    ]
    widths = [max(len(line[place]) for line in (header, *cells)) for place in range(len(header))]

    def line(values: Sequence[str]) -> str:
        parts = [value.ljust(width) for value, width in zip(values, widths, strict=True)]
        parts[2] = values[2].rjust(widths[2])
        return "  ".join(parts).rstrip()

    lines = [line(header)]
    for row, values in zip(rows, cells, strict=True):
        text = line(values)
        if options.color and row.verdict in _COLORS:
            text = f"\x1b[{_COLORS[row.verdict]}m{text}\x1b[0m"
        lines.append(text)
        if row.verdict != "pass" or options.details:
            room = max(20, options.width - 5)
            lines.append(f"     {_short(row.summary, room)}")
    text = "\n".join([*lines, "", counted(rows)]) + "\n"
    return text if options.unicode else ascii_only(text)


def _short(text: str, most: int) -> str:
    """Return a text on one line that keeps its end, which tells names apart."""
    shown = plain(text)
    return shown if len(shown) <= most else f"{shown[: most // 3]}…{shown[-(most - most // 3 - 1) :]}"


def html(rows: Sequence[Row], options: RenderOptions) -> str:
    """Return one HTML file."""
    columns = (
        Column("", numeric=False),
        Column("suspect", numeric=False),
        Column("verdict", numeric=False),
        Column("margin"),
        Column("indicator", numeric=False),
        Column("why", numeric=False),
        Column("files", numeric=False),
        Column("references", numeric=False),
        Column("images"),
        Column("policy", numeric=False),
        Column("finished", numeric=False),
        Column("report", numeric=False),
    )
    cells = tuple(
        (
            str(place),
            row.model,
            f"{_MARKS.get(row.verdict, '!')} {row.verdict} ({row.exit_code})",
            number(row.margin),
            row.check,
            cut(row.summary, 400),
            (row.commit or row.digest)[:12],
            ", ".join(row.references),
            "–" if row.images is None else str(row.images),
            row.policy,
            row.finished,
            row.file,
        )
        for place, row in enumerate(rows, start=1)
    )
    alarms = frozenset(place for place, row in enumerate(rows) if row.verdict in ("fail", "refused"))
    code = worst_code([row.exit_code for row in rows])
    header = page.Html("<h1>{}</h1><p>{}</p>").format(
        page.escape(counted(rows)), page.escape(f"The worst exit code is {code}.")
    )
    table = page.table(Grid(columns, cells, alarms), "all suspects, the most suspicious first")
    body = page.section("Suspects", table, identity="suspects", note=ORDER)
    return page.document("platodef: many audits", header, body)
