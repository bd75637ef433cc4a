"""Solvers of the denoiser and their steps (the paper's Figure 5)."""

import time

from platodef_cli.bench.benchmark_run import BenchmarkRun, BenchmarkTable
from platodef_cli.bench.defending import cleaned
from platodef_cli.bench.evaluation import kept_cosine, numbers_of
from platodef_cli.bench.results import ResultColumn, ResultRow, ResultTable, Value
from platodef_cli.bench.statistics import joined, means_over
from platodef_cli.bench.zoo.card import ZooCard
from platodef_cli.defences import make_purifier
from platodef_cli.defences.interface import PurifyOptions
from platodef_cli.records import Record

SOLVERS = ("heun", "euler", "dpmpp", "langevin")
STEPS = (2, 5, 10, 20, 40)
DIRECT = ("mean", "average", "gaussian", "ridge")


class SolverCell(Record):
    """All solvers on one suspect."""

    rows: dict[str, dict[str, Value]]


def fill(run: BenchmarkRun) -> BenchmarkTable:
    """Sweep the solvers and their steps (the paper's Figure 5)."""
    suspects = run.one_per_parent()
    cells = []
    with run.progress.step("solvers", len(suspects) * len(run.config.seeds)) as task:
        for card in suspects:
            seeds = []
            for seed in run.config.seeds:
                seeds.append(_solver_cell(run, card, seed))
                task.advance(note=card.name)
            cells.append(seeds)
    columns = (
        ResultColumn(key="NFE", group="cost", label="NFE", unit="count"),
        ResultColumn(key="seconds", group="cost", label="CPU", unit="seconds"),
        *(ResultColumn(key=name, group="all purified", label=name) for name in ("CA", "PA", "ASR")),
        ResultColumn(key="CR", group="all purified", label="CR", unit="plain"),
    )
    rows = [
        ResultRow(
            label=label, values=joined([[cell.rows[label] for cell in seeds] for seeds in cells], columns)
        )
        for label in cells[0][0].rows
    ]
    caption = (
        f"{means_over(card.name for card in suspects)} Samplers start from noise. CR: cosine of purified "
        "features of triggered images to the clean features."
    )
    grid = ResultTable(
        id="solvers", title="Solvers and steps", caption=caption, columns=columns, rows=tuple(rows)
    )
    return BenchmarkTable(title="Solvers and steps (Figure 5)", grids=(grid,), configuration=run.roles())


def _solver_cell(run: BenchmarkRun, card: ZooCard, seed: int) -> SolverCell:
    config = run.config
    steps = STEPS[:2] if config.quick else STEPS
    references = [reference.name for reference in run.references]

    def compute() -> SolverCell:
        evaluation = run.evaluation(card, seed)
        heads = run.heads(evaluation.fit, card.name, seed)
        rows = {}
        plans = [(name, 0) for name in DIRECT] + [(name, count) for name in SOLVERS for count in steps]
        with run.progress.step(f"solving for {card.name}", len(plans)) as task:
            for name, count in plans:
                purifier = make_purifier(name, heads, PurifyOptions(steps=count) if count else None)
                started = time.process_time()
                clean, changed = cleaned(purifier, evaluation, seed)
                seconds = time.process_time() - started
                rows[f"{name}, {count} steps" if count else name] = {
                    "NFE": Value(value=purifier.evaluations),
                    "seconds": Value(value=seconds),
                    **numbers_of(evaluation, clean, changed),
                    "CR": kept_cosine(changed, evaluation.test.source),
                }
                task.advance(note=name)
        return SolverCell(rows=rows)

    key = {
        **run.key(card.name, references, seed),
        "heads": config.heads().to_json(),
        "steps": list(steps),
    }
    return run.store.get(f"solvers-{card.name}-{seed}", key, SolverCell, compute)
