"""A result of the benchmark as one HTML page: tables, ROC curves, histograms, an alignment matrix."""

from collections.abc import Sequence
from itertools import groupby

from platodef_cli.bench.rendering import cell_parts, chunks, facts, goal_row, notes
from platodef_cli.bench.results import BenchResult, Plot, ResultColumn, ResultTable
from platodef_cli.report import blocks, page, plots
from platodef_cli.report.numbers import number
from platodef_cli.report.page import Html, join

_FILE = "benchmark.html"
_TEMPLATES = page.Templates("platodef_cli.bench")


def to_html(result: BenchResult) -> str:
    """Return the page: self-contained, without scripts, light and dark."""
    made_by = page.facts(blocks.KeyValueTable(tuple(facts(result))))
    header = _TEMPLATES.piece(_FILE, "header", result.title, made_by)
    sections: list[tuple[str, str, Html, str]] = []
    if result.goals:
        columns = (
            blocks.Column("goal", numeric=False),
            blocks.Column("wanted", numeric=False),
            blocks.Column("measured"),
            blocks.Column("met", numeric=False),
        )
        grid = blocks.Grid(columns, tuple(goal_row(goal) for goal in result.goals))
        sections.append(("goals", "Goals", page.table(grid, "Goals and what was reached"), ""))
    for grid_record in result.grids:
        content = join(_table(grid_record, columns) for columns in chunks(grid_record))
        sections.append((grid_record.id, grid_record.title, content, grid_record.caption))
    if result.alignment:
        sections.append(("matrix", "Alignment matrix", _matrices(result), ""))
    for number_, plot in enumerate(result.plots):
        sections.append((f"plot-{number_}", plot.title, _plots(plot, f"plot{number_}"), ""))
    text = notes(result)
    if text:
        sections.append(("notes", "Notes", page.bullets(text), ""))
    body = [page.contents((identity, title) for identity, title, _, _ in sections)]
    body += [
        page.section(title, content, identity=identity, note=note)
        for identity, title, content, note in sections
    ]
    footer = _TEMPLATES.piece(_FILE, "footer", result.tool_version)
    style = _TEMPLATES.fill("benchmark.css")
    return page.document(result.title, header, join(body), footer, style)


def _table(grid: ResultTable, columns: Sequence[ResultColumn]) -> Html:
    """Return some columns of a grid: methods over their measures, intervals under their numbers."""
    groups = [
        (name, len(list(members))) for name, members in groupby(columns, key=lambda column: column.group)
    ]
    named = any(column.label != column.group for column in columns)
    rows = [
        (row.kind, row.label, [cell_parts(row.values.get(column.key), column) for column in columns])
        for row in grid.rows
    ]
    return _TEMPLATES.piece(_FILE, "table", grid.title, groups if named else (), columns, rows)


def _plots(plot: Plot, name: str) -> Html:
    figures = []
    if plot.curves:
        drawn = plots.roc(plot.curves, name=f"{name}-roc", title=f"ROC curves of {plot.title}")
        figures.append(page.figure(drawn, f"ROC: clean against {plot.curves[0].group}"))
    for number_, record in enumerate(plot.histograms):
        drawn = plots.histogram(record, name=f"{name}-h{number_}")
        figures.append(page.figure(drawn, f"Histogram of {record.name}"))
    return page.gallery(figures)


def _matrices(result: BenchResult) -> Html:
    figures = []
    for measure in ("cknna", "cka"):
        records = [record for record in result.alignment if record.measure == measure]
        names = list(dict.fromkeys(name for record in records for name in (record.first, record.second)))
        if not names:
            continue
        place = {name: position for position, name in enumerate(names)}
        values: list[list[float | None]] = [[1.0 if a == b else None for b in names] for a in names]
        texts = [["" for _ in names] for _ in names]
        for record in records:
            for a, b in ((record.first, record.second), (record.second, record.first)):
                values[place[a]][place[b]] = record.value
                texts[place[a]][place[b]] = f"null {number(record.null_high)}"
        drawn = plots.matrix(
            names, values, texts, name=f"matrix-{measure}", title=f"{measure.upper()} of all pairs"
        )
        figures.append(
            page.figure(drawn, f"{measure.upper()}: trained encoders and the same networks at random")
        )
    return page.gallery(figures)
