"""Table 3: how the two heads share their weights."""

from collections.abc import Mapping

from platodef_cli.bench.context import BenchmarkTable, Context
from platodef_cli.bench.results import ResultRow, ResultTable
from platodef_cli.bench.sweeps import (
    HEAD_COLUMNS,
    HEADS_CAPTION,
    PAPERS_HEADS,
    closed_form_row,
    head_cell,
    head_row,
    means_over,
)

LABELS: Mapping[str, str] = {
    "separate": "separate",
    "energy-from-denoiser": "warm start: energy from denoiser",
    "denoiser-from-energy": "warm start: denoiser from energy",
    "energy-on-denoiser": "frozen probe: energy on denoiser",
    "denoiser-on-energy": "frozen probe: denoiser on energy",
    "joint": "joint",
}


def run(context: Context) -> BenchmarkTable:
    """Fill Table 3 on the first planted encoder of every parent."""
    suspects = context.one_per_parent()
    rows: list[ResultRow] = []
    with context.progress.step("training modes", len(LABELS) * len(suspects)) as task:
        for mode, label in LABELS.items():
            cells = []
            for card in suspects:
                changes = {**PAPERS_HEADS, "mode": mode}
                cells.append([head_cell(context, card, seed, changes) for seed in context.config.seeds])
                task.advance(note=f"{mode}, {card.name}")
            if not rows:
                rows.append(closed_form_row(cells))
            rows.append(head_row(label, cells))
    grid = ResultTable(
        id="table-3",
        title="Training modes of the heads",
        caption=f"{HEADS_CAPTION} {means_over(suspects)}",
        columns=HEAD_COLUMNS,
        rows=tuple(rows),
    )
    return BenchmarkTable(
        title="Table 3: training modes of the heads", grids=(grid,), configuration=context.roles()
    )
