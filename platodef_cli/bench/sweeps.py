"""Sweeps: solvers and steps, backbones and widths, alignment of trained against random encoders."""

import time
from collections.abc import Mapping, Sequence
from statistics import fmean

import torch
from pydantic import Field
from torch import Tensor

from platodef_cli.bench.context import BenchmarkTable, Context
from platodef_cli.bench.defending import cleaned, defend, kept_cosine, numbers_of
from platodef_cli.bench.results import ResultColumn, ResultRow, ResultTable, Value
from platodef_cli.bench.statistics import joined
from platodef_cli.bench.zoo.card import ZooCard
from platodef_cli.bench.zoo.networks import Network
from platodef_cli.defences import make_purifier
from platodef_cli.heads.backbone import BackboneConfig
from platodef_cli.heads.config import FitConfig
from platodef_cli.metrics.alignment import alignment_records
from platodef_cli.records import AlignmentRecord, Record

SOLVERS = ("heun", "euler", "dpmpp", "langevin")
STEPS = (2, 5, 10, 20, 40)
DIRECT = ("mean", "average", "gaussian", "ridge")
KINDS = ("transformer", "mixer", "resmlp")
WIDTHS = (32, 64, 128, 256)
ALIGNED = 1000  # images; values of different counts do not compare
PERMUTATIONS = 20

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


def means_over(suspects: Sequence[ZooCard]) -> str:
    """Return the sentence that says what a row is a mean of."""
    names = ", ".join(card.name for card in suspects)
    return f"Means over {names}, with the wider of Student's interval over them and that of the images."


class HeadCell(Record):
    """One way to fit heads, on one suspect."""

    parameters: int
    matched: float
    values: dict[str, Value]
    closed: dict[str, Value] = Field(description="the same numbers of the closed form of the same heads")
    seconds: float


def head_cell(context: Context, card: ZooCard, seed: int, changes: Mapping[str, object]) -> HeadCell:
    """Fit heads with ``changes`` to the configuration, and measure them on a planted encoder."""
    config: FitConfig = context.config.heads(**changes)
    references = [reference.name for reference in context.references]

    def compute() -> HeadCell:
        evaluation = context.evaluation(card, seed)
        started = time.process_time()
        heads = context.heads(evaluation.fit, card.name, seed, **changes)
        seconds = time.process_time() - started
        found = defend(
            context.feature_store,
            card.name,
            evaluation,
            heads,
            seed=seed,
            detectors=("energy", "platonic", "gaussian"),
            purifiers=("mean", "gaussian"),
            progress=context.progress,
        ).methods
        # joint heads share a backbone; it is counted once
        weights = {id(value): value for head in (heads.energy, heads.denoiser) for value in head.parameters()}
        return HeadCell(
            parameters=sum(value.numel() for value in weights.values()),
            matched=heads.metrics["matched_auroc"],
            values={
                "energy": found["detector energy"].numbers["AUC"],
                "platonic": found["detector platonic"].numbers["AUC"],
                **{name: found["purifier mean"].numbers[name] for name in ("CA", "PA", "ASR")},
            },
            closed={
                "energy": found["detector gaussian"].numbers["AUC"],
                **{name: found["purifier gaussian"].numbers[name] for name in ("CA", "PA", "ASR")},
            },
            seconds=seconds,
        )

    key = {**context.key(card.name, references, seed), "heads": config.to_json()}
    return context.store.get(f"heads-{card.name}-{seed}", key, HeadCell, compute)


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


def backbones(context: Context) -> BenchmarkTable:
    """Sweep kind and width of the backbone (the paper's Figure 4)."""
    suspects = context.one_per_parent()
    widths = (16, 32) if context.config.quick else WIDTHS
    base = context.config.heads().backbone
    rows: list[ResultRow] = []
    with context.progress.step("backbones", len(KINDS) * len(widths) * len(suspects)) as task:
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
                    cells.append([head_cell(context, card, seed, changes) for seed in context.config.seeds])
                    task.advance(note=f"{kind} {width}, {card.name}")
                if not rows:
                    rows.append(closed_form_row(cells))
                rows.append(head_row(f"{kind}, width {width}", cells))
    caption = f"Depth {base.depth}. {HEADS_CAPTION} {means_over(suspects)}"
    grid = ResultTable(
        id="backbones", title="Backbones and widths", caption=caption, columns=HEAD_COLUMNS, rows=tuple(rows)
    )
    return BenchmarkTable(
        title="Backbones and widths (Figure 4)", grids=(grid,), configuration=context.roles()
    )


class SolverCell(Record):
    """All solvers on one suspect."""

    rows: dict[str, dict[str, Value]]


def solvers(context: Context) -> BenchmarkTable:
    """Sweep the solvers and their steps (the paper's Figure 5)."""
    suspects = context.one_per_parent()
    cells = []
    with context.progress.step("solvers", len(suspects) * len(context.config.seeds)) as task:
        for card in suspects:
            seeds = []
            for seed in context.config.seeds:
                seeds.append(_solver_cell(context, card, seed))
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
        f"{means_over(suspects)} Samplers start from noise. CR: cosine of purified features of triggered "
        "images to the clean features."
    )
    grid = ResultTable(
        id="solvers", title="Solvers and steps", caption=caption, columns=columns, rows=tuple(rows)
    )
    return BenchmarkTable(title="Solvers and steps (Figure 5)", grids=(grid,), configuration=context.roles())


def _solver_cell(context: Context, card: ZooCard, seed: int) -> SolverCell:
    config = context.config
    steps = STEPS[:2] if config.quick else STEPS
    references = [reference.name for reference in context.references]

    def compute() -> SolverCell:
        evaluation = context.evaluation(card, seed)
        heads = context.heads(evaluation.fit, card.name, seed)
        rows = {}
        plans = [(name, 0) for name in DIRECT] + [(name, count) for name in SOLVERS for count in steps]
        with context.progress.step(f"solving for {card.name}", len(plans)) as task:
            for name, count in plans:
                purifier = make_purifier(name, heads, **({"steps": count} if count else {}))  # type: ignore[arg-type]
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
        **context.key(card.name, references, seed),
        "heads": config.heads().to_json(),
        "steps": list(steps),
    }
    return context.store.get(f"solvers-{card.name}-{seed}", key, SolverCell, compute)


class AlignmentCell(Record):
    """Alignment of every pair."""

    records: tuple[AlignmentRecord, ...]


def alignment(context: Context) -> BenchmarkTable:
    """Compare the alignment of trained encoders with that of the same networks at random (Figures 2, 6)."""
    zoo, pictures = context.feature_store.zoo, context.feature_store.pictures
    cards = context.chosen([card for card in zoo.cards.values() if card.made in ("scratch", "embedded")])
    rows = list(pictures.roles(context.config.seeds[0]).test)[:ALIGNED]
    names = [card.name for card in cards]

    def compute() -> AlignmentCell:
        chosen = torch.tensor(rows)
        spaces: dict[str, Tensor] = {name: context.feature_store.clean(name)[chosen] for name in names}
        for number, card in enumerate(cards):
            spaces[f"random {card.name}"] = _random_features(card, number, pictures.pixels[chosen])
        records = alignment_records(spaces, permutations=PERMUTATIONS, progress=context.progress)
        return AlignmentCell(records=records)

    key = {
        **context.key(names[0], names[1:], context.config.seeds[0]),
        "rows": len(rows),
        "permutations": PERMUTATIONS,
    }
    cell = context.store.get("alignment", key, AlignmentCell, compute)
    grids = [_summary(cell.records)]
    grids += [_matrix(measure, names, cell.records) for measure in ("cknna", "cka")]
    return BenchmarkTable(
        title="Alignment of trained and random encoders (Figures 2 and 6)",
        grids=tuple(grids),
        alignment=cell.records,
        notes=(
            f"{len(rows)} images; values of different numbers of images or neighbours must not be compared",
        ),
    )


def _random_features(card: ZooCard, seed: int, pixels: Tensor) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(card.architecture)
    network.module.eval()
    return network.embed(pixels)


def _summary(records: Sequence[AlignmentRecord]) -> ResultTable:
    kinds: dict[str, list[AlignmentRecord]] = {}
    for record in records:
        count = sum(name.startswith("random ") for name in (record.first, record.second))
        label = ("trained - trained", "trained - random", "random - random")[count]
        kinds.setdefault(f"{label}, {record.measure.upper()}", []).append(record)
    rows = [
        ResultRow(
            label=label,
            values={
                "mean": Value(value=fmean(record.value for record in found), n=len(found)),
                "least": Value(value=min(record.value for record in found)),
                "most": Value(value=max(record.value for record in found)),
                "null": Value(value=max(record.null_high for record in found)),
            },
        )
        for label, found in sorted(kinds.items())
    ]
    columns = tuple(
        ResultColumn(key=key, group="alignment", label=label, unit="plain")
        for key, label in (("mean", "mean"), ("least", "least"), ("most", "most"), ("null", "largest null"))
    )
    return ResultTable(id="alignment", title="Trained against random", columns=columns, rows=tuple(rows))


def _matrix(measure: str, names: Sequence[str], records: Sequence[AlignmentRecord]) -> ResultTable:
    values: dict[str, dict[str, Value]] = {name: {name: Value(value=1.0)} for name in names}
    for record in records:
        if record.measure == measure and record.first in values and record.second in values:
            values[record.first][record.second] = Value(value=record.value)
            values[record.second][record.first] = Value(value=record.value)
    columns = tuple(ResultColumn(key=name, group=measure.upper(), label=name, unit="plain") for name in names)
    rows = tuple(ResultRow(label=name, values=values[name]) for name in names)
    return ResultTable(
        id=f"alignment-{measure}",
        title=f"{measure.upper()} of the trained encoders",
        columns=columns,
        rows=rows,
    )
