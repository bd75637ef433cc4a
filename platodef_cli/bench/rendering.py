"""A result of the benchmark as JSON and as Markdown, and the texts that the page shares."""

import json

from platodef_cli.bench.results import BenchResult, Goal, ResultColumn, ResultTable, Value
from platodef_cli.report import blocks
from platodef_cli.report.markdown import escape
from platodef_cli.report.numbers import number, size

WIDE = 10  # columns of one table; a wider one is shown in parts, cut between methods
MISSING = "-"


def rounded(result: BenchResult) -> BenchResult:
    """Return the record with its numbers rounded to 6 digits, as files keep them."""
    values = json.loads(result.model_dump_json(), parse_float=lambda text: round(float(text), 6))
    return BenchResult.model_validate(values)


def to_json(result: BenchResult) -> str:
    """Return the record as JSON."""
    return json.dumps(result.model_dump(mode="json"), indent=1, sort_keys=True) + "\n"


def to_markdown(result: BenchResult) -> str:
    """Return the tables, goals and notes for a pull request or a repository."""
    lines = [f"# {escape(result.title)}", ""]
    lines += [f"- **{escape(label)}** {escape(text)}" for label, text in facts(result)]
    if result.goals:
        lines += ["", "## Goals", "", "| goal | wanted | measured | met |", "|:---|:---|---:|:---|"]
        lines += [f"| {' | '.join(escape(cell) for cell in goal_row(goal))} |" for goal in result.goals]
    for grid in result.grids:
        lines += ["", f"## {escape(grid.title)}"]
        if grid.caption:
            lines += ["", escape(grid.caption)]
        for part in parts(grid):
            lines += ["", *_table(part)]
    if result.notes or result.missing:
        lines += ["", "## Notes", "", *(f"- {escape(text)}" for text in notes(result))]
    return "\n".join(lines) + "\n"


def _table(grid: blocks.Grid) -> list[str]:
    header = "| " + " | ".join(escape(column.title) for column in grid.columns) + " |"
    rule = "|" + "|".join("---:" if column.numeric else ":---" for column in grid.columns) + "|"
    return [header, rule, *("| " + " | ".join(escape(cell) for cell in row) + " |" for row in grid.rows)]


def facts(result: BenchResult) -> list[tuple[str, str]]:
    """Return who made the result, with what."""
    configuration = ", ".join(
        f"{key} {' '.join(value) if isinstance(value, tuple) else value}"
        for key, value in sorted(result.configuration.items())
        if value
    )
    return [
        ("command", result.command),
        ("zoo", f"recipe {result.recipe}, seed {result.zoo_seed}, trained on {result.trained_on}"),
        ("encoders", f"{len(result.encoders)} finished, {len(result.missing)} missing"),
        ("images", result.images),
        ("seeds", ", ".join(map(str, result.seeds))),
        ("configuration", configuration),
        ("versions", ", ".join(f"{key} {value}" for key, value in sorted(result.libraries.items()))),
        ("device", result.device),
        ("computing time", f"{result.seconds / 60:.1f} minutes"),
    ]


def notes(result: BenchResult) -> list[str]:
    """Return what a reader has to know, the missing encoders first."""
    missing = [f"planned, but not finished: {', '.join(result.missing)}"] if result.missing else []
    return [*missing, *result.notes]


def goal_row(goal: Goal) -> tuple[str, str, str, str]:
    """Return a goal as cells."""
    missing = "not measured" if goal.measured is None else "not judged: not everything was measured"
    met = {None: missing, True: "yes", False: "no"}[goal.met]
    return goal.name, goal.wanted, MISSING if goal.measured is None else number(goal.measured, 3), met


def chunks(grid: ResultTable) -> list[list[ResultColumn]]:
    """Return the columns of a grid in pieces of at most :data:`WIDE`, methods kept whole."""
    groups: dict[str, list[ResultColumn]] = {}
    for column in grid.columns:
        groups.setdefault(column.group, []).append(column)
    pieces: list[list[ResultColumn]] = [[]]
    for columns in groups.values():
        if pieces[-1] and len(pieces[-1]) + len(columns) > WIDE:
            pieces.append([])
        pieces[-1] += columns
    return pieces


def parts(grid: ResultTable) -> list[blocks.Grid]:
    """Return a grid as tables of at most :data:`WIDE` columns; the labels come first."""
    return [_part(grid, columns) for columns in chunks(grid)]


def _part(grid: ResultTable, columns: list[ResultColumn]) -> blocks.Grid:
    titles = [_title(column) for column in columns]
    rows = [
        (row.label, *(cell(row.values.get(column.key), column) for column in columns)) for row in grid.rows
    ]
    return blocks.Grid(
        (
            blocks.Column("", numeric=False),
            *(
                blocks.Column(title, numeric=column.unit != "text")
                for title, column in zip(titles, columns, strict=True)
            ),
        ),
        tuple(rows),
    )


def _title(column: ResultColumn) -> str:
    return column.label if column.label == column.group else f"{column.group}: {column.label}"


def cell(value: Value | None, column: ResultColumn) -> str:
    """Return a value in the unit of its column, with its interval."""
    text, more = cell_parts(value, column)
    if not more:
        return text
    return f"{text} ({more})" if value is not None and value.note else f"{text} [{more}]"


def cell_parts(value: Value | None, column: ResultColumn) -> tuple[str, str]:
    """Return a value in the unit of its column, and its interval or what it is an average of, or nothing."""
    if value is None:
        return MISSING, ""
    if column.unit == "text":
        return value.note or MISSING, ""
    if value.value is None:
        return MISSING, ""
    if column.unit == "count":
        return size(round(value.value)), ""
    if column.unit == "seconds":
        return f"{value.value:.1f} s", ""
    scale, digits = (100, 1) if column.unit == "percent" else (1, 3)
    text = number(scale * value.value, digits)
    if value.low is None or value.high is None:
        return text, value.note
    return text, f"{number(scale * value.low, digits)}, {number(scale * value.high, digits)}"
