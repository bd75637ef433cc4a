"""Alignment of trained encoders against that of the same networks at random (the paper's Figures 2 and 6)."""

from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor

from platodef_cli.bench.benchmark_run import BenchmarkRun, BenchmarkTable
from platodef_cli.bench.results import ResultColumn, ResultRow, ResultTable, Value
from platodef_cli.bench.zoo.card import ZooCard
from platodef_cli.bench.zoo.networks import Network
from platodef_cli.metrics.alignment import alignment_records
from platodef_cli.records import AlignmentRecord, Record

ALIGNED = 1000  # images; values of different counts do not compare
PERMUTATIONS = 20


class AlignmentCell(Record):
    """Alignment of every pair."""

    records: tuple[AlignmentRecord, ...]


def fill(run: BenchmarkRun) -> BenchmarkTable:
    """Compare the alignment of trained encoders with that of the same networks at random (Figures 2, 6)."""
    zoo, images = run.feature_store.zoo, run.feature_store.images
    cards = run.matching([card for card in zoo.cards.values() if card.made in ("scratch", "embedded")])
    rows = list(images.roles(run.config.seeds[0]).test)[:ALIGNED]
    names = [card.name for card in cards]

    def compute() -> AlignmentCell:
        at = torch.tensor(rows)
        spaces: dict[str, Tensor] = {name: run.feature_store.clean(name)[at] for name in names}
        for number, card in enumerate(cards):
            spaces[f"random {card.name}"] = _random_features(card, number, images.pixels[at])
        records = alignment_records(spaces, permutations=PERMUTATIONS, progress=run.progress)
        return AlignmentCell(records=records)

    key = {
        **run.key(names[0], names[1:], run.config.seeds[0]),
        "rows": len(rows),
        "permutations": PERMUTATIONS,
    }
    cell = run.store.get("alignment", key, AlignmentCell, compute)
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
                "mean": Value(value=fmean(record.value for record in group), n=len(group)),
                "least": Value(value=min(record.value for record in group)),
                "most": Value(value=max(record.value for record in group)),
                "null": Value(value=max(record.null_high for record in group)),
            },
        )
        for label, group in sorted(kinds.items())
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
