"""Ablations of the heads: how the two share their weights (Table 3), kinds and widths of the backbone."""

import time
from collections.abc import Mapping, Sequence

from pydantic import Field

from platodef_cli.bench.benchmark_run import BenchmarkRun, BenchmarkTable
from platodef_cli.bench.defending import defend
from platodef_cli.bench.results import ResultColumn, ResultRow, ResultTable, Value
from platodef_cli.bench.statistics import joined, means_over
from platodef_cli.bench.zoo.card import ZooCard
from platodef_cli.heads.backbone import BackboneConfig
from platodef_cli.heads.config import FitConfig
from platodef_cli.records import Record

TRAINING_MODES: Mapping[str, str] = {
    "separate": "separate",
    "energy-from-denoiser": "warm start: energy from denoiser",
    "denoiser-from-energy": "warm start: denoiser from energy",
    "energy-on-denoiser": "frozen probe: energy on denoiser",
    "denoiser-on-energy": "frozen probe: denoiser on energy",
    "joint": "joint",
}
KINDS = ("transformer", "mixer", "resmlp")
WIDTHS = (32, 64, 128, 256)

HEAD_COLUMNS = (
    ResultColumn(key="parameters", group="heads", label="parameters", unit="count"),
    ResultColumn(key="matched", group="validation", label="matched AUROC", unit="plain"),
    ResultColumn(key="energy", group="detection", label="energy AUC", unit="plain"),
    ResultColumn(key="platonic", group="detection", label="platonic AUC", unit="plain"),
    *(ResultColumn(key=name, group="purified by the mean", label=name) for name in ("CA", "PA", "ASR")),
    ResultColumn(key="seconds", group="heads", label="fit", unit="seconds"),
)


PAPERS_HEADS: Mapping[str, object] = {"gaussian_start": False}
"""Changes to the configuration of heads that are compared with each other: the paper's networks, which learn
everything themselves. Those that start from the closed form differ by little but it."""


HEADS_CAPTION = (
    "The networks are the paper's, which learn everything themselves; by default platodef's start from the "
    "closed form, whose numbers stand in the first row."
)


class HeadCell(Record):
    """One way to fit heads, on one suspect."""

    parameters: int
    matched: float
    values: dict[str, Value]
    closed: dict[str, Value] = Field(description="the same numbers of the closed form of the same heads")
    seconds: float


def head_cell(run: BenchmarkRun, card: ZooCard, seed: int, changes: Mapping[str, object]) -> HeadCell:
    """Fit heads with ``changes`` to the configuration, and measure them on a planted encoder."""
    config: FitConfig = run.config.heads(**changes)
    references = [reference.name for reference in run.references]

    def compute() -> HeadCell:
        evaluation = run.evaluation(card, seed)
        started = time.process_time()
        heads = run.heads(evaluation.fit, card.name, seed, **changes)
        seconds = time.process_time() - started
        methods = defend(
            run.feature_store,
            card.name,
            evaluation,
            heads,
            seed=seed,
            detectors=("energy", "platonic", "gaussian"),
            purifiers=("mean", "gaussian"),
            progress=run.progress,
        ).methods
        # joint heads share a backbone; it is counted once
        weights = {id(value): value for head in heads.networks for value in head.parameters()}
        return HeadCell(
            parameters=sum(value.numel() for value in weights.values()),
            matched=heads.metrics["matched_auroc"],
            values={
                "energy": methods["detector energy"].numbers["AUC"],
                "platonic": methods["detector platonic"].numbers["AUC"],
                **{name: methods["purifier mean"].numbers[name] for name in ("CA", "PA", "ASR")},
            },
            closed={
                "energy": methods["detector gaussian"].numbers["AUC"],
                **{name: methods["purifier gaussian"].numbers[name] for name in ("CA", "PA", "ASR")},
            },
            seconds=seconds,
        )

    key = {**run.key(card.name, references, seed), "heads": config.to_json()}
    return run.store.get(f"heads-{card.name}-{seed}", key, HeadCell, compute)


def head_row(label: str, encoders: Sequence[Sequence[HeadCell]]) -> ResultRow:
    """Return a row of :data:`HEAD_COLUMNS` from the cells of every encoder and seed."""
    parts = [
        [
            {
                "parameters": Value(value=cell.parameters),
                "matched": Value(value=cell.matched),
                **cell.values,
                "seconds": Value(value=cell.seconds),
            }
            for cell in seeds
        ]
        for seeds in encoders
    ]
    return ResultRow(label=label, values=joined(parts, HEAD_COLUMNS))


def closed_form_row(encoders: Sequence[Sequence[HeadCell]]) -> ResultRow:
    """Return what the closed form reaches alone: the same numbers without a network."""
    parts = [[cell.closed for cell in seeds] for seeds in encoders]
    return ResultRow(label="closed form alone", values=joined(parts, HEAD_COLUMNS))


def training_modes(run: BenchmarkRun) -> BenchmarkTable:
    """Fill Table 3 on the first planted encoder of every parent."""
    suspects = run.one_per_parent()
    rows: list[ResultRow] = []
    with run.progress.step("training modes", len(TRAINING_MODES) * len(suspects)) as task:
        for mode, label in TRAINING_MODES.items():
            cells = []
            for card in suspects:
                changes = {**PAPERS_HEADS, "mode": mode}
                cells.append([head_cell(run, card, seed, changes) for seed in run.config.seeds])
                task.advance(note=f"{mode}, {card.name}")
            if not rows:
                rows.append(closed_form_row(cells))
            rows.append(head_row(label, cells))
    grid = ResultTable(
        id="table-3",
        title="Training modes of the heads",
        caption=f"{HEADS_CAPTION} {means_over(card.name for card in suspects)}",
        columns=HEAD_COLUMNS,
        rows=tuple(rows),
    )
    return BenchmarkTable(
        title="Table 3: training modes of the heads", grids=(grid,), configuration=run.roles()
    )


def backbones(run: BenchmarkRun) -> BenchmarkTable:
    """Sweep kind and width of the backbone (the paper's Figure 4)."""
    suspects = run.one_per_parent()
    widths = (16, 32) if run.config.quick else WIDTHS
    base = run.config.heads().backbone
    assert base is not None  # the configuration refuses presets without networks here
    rows: list[ResultRow] = []
    with run.progress.step("backbones", len(KINDS) * len(widths) * len(suspects)) as task:
        for kind in KINDS:
            for width in widths:
                backbone = BackboneConfig(
                    kind=kind,  # type: ignore[arg-type]
                    width=width,
                    depth=base.depth,
                    heads=base.heads,
                )
                cells = []
                for card in suspects:
                    changes = {**PAPERS_HEADS, "backbone": backbone}
                    cells.append([head_cell(run, card, seed, changes) for seed in run.config.seeds])
                    task.advance(note=f"{kind} {width}, {card.name}")
                if not rows:
                    rows.append(closed_form_row(cells))
                rows.append(head_row(f"{kind}, width {width}", cells))
    caption = f"Depth {base.depth}. {HEADS_CAPTION} {means_over(card.name for card in suspects)}"
    grid = ResultTable(
        id="backbones", title="Backbones and widths", caption=caption, columns=HEAD_COLUMNS, rows=tuple(rows)
    )
    return BenchmarkTable(title="Backbones and widths (Figure 4)", grids=(grid,), configuration=run.roles())
