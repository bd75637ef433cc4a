"""Table 1: every attack against every defence."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial

from platodef_cli.bench import paper
from platodef_cli.bench.attacks import ADVERSARIAL, make_adversarial
from platodef_cli.bench.benchmark_run import BenchmarkRun, BenchmarkTable
from platodef_cli.bench.defending import FLAGGED, NONE, inapplicable
from platodef_cli.bench.evaluation import Defended, Method
from platodef_cli.bench.results import Goal, ResultColumn, ResultRow, ResultTable, Unit, Value
from platodef_cli.bench.statistics import average, joined, of_metric
from platodef_cli.bench.zoo.card import ZooCard
from platodef_cli.bench.zoo.recipe import known_attacks
from platodef_cli.defences import DEFAULT_DETECTOR, DEFAULT_PURIFIER

FIRST = ("none", "ridge", "knn", "mahalanobis", "energy", "denoiser", "platonic", "platonic, flagged only")
_PARENT = "ASR of the clean parent"
_MEASURES: Mapping[str, Unit] = {
    "CA": "percent",
    "PA": "percent",
    "AUC": "plain",
    "ASR": "percent",
    _PARENT: "percent",
}
_PAPERS = ("CA", "PA", "AUC", "ASR")  # order of its numbers
_PAPER = "paper's own"
_GROUPS = ("unimodal", "image-text", "adversarial")


def fill(run: BenchmarkRun) -> BenchmarkTable:
    """Fill Table 1: rows are attacks, columns defences."""
    cells: dict[str, dict[str, list[_Encoder]]] = {group: {} for group in _GROUPS}
    jobs = [*_planted(run), *_adversarial(run)]
    with run.progress.step("attacks", len(jobs) * len(run.config.seeds)) as task:
        for group, attack, card, compute in jobs:
            seeds = []
            for seed in run.config.seeds:
                seeds.append(compute(seed))
                task.advance(note=attack)
            cells[group].setdefault(attack, []).append((card, seeds))
    parts = {group: _rows(attacks) for group, attacks in cells.items() if attacks}
    columns = _columns([row for rows in parts.values() for row in rows])
    rows, averages = [], {}
    for group, measured in parts.items():
        averages[group] = average(measured, f"average, {group}", without=_PAPER)
        rows += [*measured, averages[group], _paper(group)]
    every = [
        cell
        for attacks in cells.values()
        for encoders in attacks.values()
        for _, seeds in encoders
        for cell in seeds
    ]
    grid = ResultTable(
        id="table-1",
        title="Attacks and defences",
        caption=(
            "CA: accuracy on clean images; PA: on images with the trigger; ASR: triggered images of other "
            "classes that land on the target (adversarial rows: 1 - PA), beside the rate of the clean parent "
            "under the same trigger; AUC: clean against triggered images of other classes. The classifier is "
            "a linear probe, for image-text attacks the class prompts (zero-shot). All samples are purified, "
            "but for 'flagged only'. Intervals: of the images where an attack was measured once, else the "
            "wider of Student's over encoders (or the seeds of one) and that of the images. "
            f"Rows and columns 'paper': {paper.CITATION}; {paper.PLATONIC_IS}."
        ),
        columns=columns,
        rows=tuple(rows),
    )
    return BenchmarkTable(
        title="Table 1: attacks and defences",
        grids=(grid,),
        plots=tuple(encoders[0][1][0].plot for attacks in cells.values() for encoders in attacks.values()),
        goals=_goals(averages, _complete(parts, run)),
        configuration=run.roles(),
        notes=(*_adversarial_notes(cells["adversarial"]), *inapplicable(every)),
    )


_Encoder = tuple[ZooCard, list[Defended]]  # one result per seed
_TableJob = tuple[str, str, ZooCard, Callable[[int], Defended]]  # group, attack, suspect, seed -> result


def _planted(run: BenchmarkRun) -> list[_TableJob]:
    jobs: list[_TableJob] = []
    for card in run.planted():
        assert card.backdoor is not None
        jobs.append((card.backdoor.attack_kind, card.backdoor.attack, card, partial(cell, run, card)))
    return jobs


def _adversarial(run: BenchmarkRun) -> list[_TableJob]:
    """Return the attacks at test time, all on the first clean suspect."""
    if not run.config.adversarial:
        return []
    clean = [card for card in run.feature_store.zoo.cards.values() if card.role == "suspect"]
    victims = [card for card in clean if card.made in ("scratch", "embedded")][:1]
    return [
        ("adversarial", name, card, partial(adversarial_cell, run, card, name))
        for card in victims
        for name in ADVERSARIAL.names()
        if name not in run.config.skip
    ]


def cell(run: BenchmarkRun, card: ZooCard, seed: int) -> Defended:
    """Return every method on one planted encoder, from the store or computed."""
    return run.defended(
        card,
        seed,
        lambda: run.evaluation(card, seed),
        name=f"defended-{card.name}-{seed}",
        title=f"{card.name} on {card.parent}",
    )


def adversarial_cell(run: BenchmarkRun, card: ZooCard, attack: str, seed: int) -> Defended:
    """Return every method on a clean encoder under an adversarial attack on its undefended probe."""
    count = run.config.adversarial
    return run.defended(
        card,
        seed,
        lambda: run.adversarial_evaluation(card, attack, seed, count),
        name=f"defended-{card.name}-{attack}-{seed}",
        title=f"{attack} on {card.name}",
        more={
            "adversarial": attack,
            "adversarial_images": count,
            "parameters": asdict(make_adversarial(attack)),  # type: ignore[call-overload]
        },
    )


def grouped(methods: Mapping[str, Method]) -> dict[str, dict[str, Value]]:
    """Return column group -> measure -> value: a detector and a purifier of one name share a group.

    The group ``platonic`` is the default detector with the default purifier.
    """
    groups: dict[str, dict[str, Value]] = {}
    for name, method in methods.items():
        kind, _, own = name.partition(" ")
        group = {NONE: "none", FLAGGED: "platonic, flagged only"}.get(name, own)
        if kind == "purifier" and own == DEFAULT_PURIFIER:
            group = DEFAULT_DETECTOR
        numbers = {measure: value for measure, value in method.numbers.items() if measure in _MEASURES}
        if not numbers:
            measures = ("AUC",) if kind == "detector" else ("CA", "PA", "ASR")
            numbers = {measure: Value(value=None, n=0, note=method.note) for measure in measures}
        groups.setdefault(group, {}).update(numbers)
    return groups


def _rows(attacks: Mapping[str, Sequence[_Encoder]]) -> list[ResultRow]:
    rows = []
    for attack, encoders in attacks.items():
        parts = [[_flat(card, cell) for cell in seeds] for card, seeds in encoders]
        columns = _columns([ResultRow(label=attack, values=one) for seeds in parts for one in seeds])
        values = joined(parts, columns)
        for measure, number in zip(_PAPERS, paper.PLATONIC.get(attack, ()), strict=False):
            values[f"{_PAPER}:{measure}"] = Value(value=number, n=0)
        rows.append(ResultRow(label=attack, values=values))
    return rows


def _flat(card: ZooCard, cell: Defended) -> dict[str, Value]:
    """Return column key -> value of one encoder with one seed."""
    values = {
        f"{group}:{measure}": value
        for group, numbers in grouped(cell.methods).items()
        for measure, value in numbers.items()
    }
    if card.backdoor is not None:
        values[f"none:{_PARENT}"] = of_metric(card.backdoor.success_of_parent)
    return values


def _columns(rows: Sequence[ResultRow]) -> tuple[ResultColumn, ...]:
    """Return the columns that any of the rows has, the most important methods first."""
    measures: dict[str, set[str]] = {}
    for row in rows:
        for key in row.values:
            group, _, measure = key.partition(":")
            measures.setdefault(group, set()).add(measure)
    first = [group for group in (*FIRST, _PAPER) if group in measures]
    order = [*first, *(group for group in measures if group not in first)]
    return tuple(
        ResultColumn(key=f"{group}:{measure}", group=group, label=measure, unit=unit)
        for group in order
        for measure, unit in _MEASURES.items()
        if measure in measures[group]
    )


def _paper(group: str) -> ResultRow:
    """Return the paper's averages in our columns, those of its own defence in the paper's columns too."""
    values = {}
    for defence, numbers in paper.AVERAGES[group].items():
        detector, purifier = paper.OURS[defence]
        for measure, number in numbers.items():
            values[f"{detector if measure == 'AUC' else purifier}:{measure}"] = Value(value=number, n=0)
    for measure, number in paper.AVERAGES[group]["Platonic"].items():
        values[f"{_PAPER}:{measure}"] = Value(value=number, n=0)
    return ResultRow(label=f"paper, average, {group}", kind="paper", values=values)


def _adversarial_notes(attacks: Mapping[str, Sequence[_Encoder]]) -> list[str]:
    """Return on which encoder the adversarial rows are, and how an attack differs from the published one."""
    counts = [
        f"adversarial rows: attacks on the undefended {cards[0][0].name}" for cards in attacks.values()
    ][:1]
    for attack in attacks:
        note = make_adversarial(attack).note
        if note:
            counts.append(f"{attack}: {note}")
    return counts


def _complete(parts: Mapping[str, Sequence[ResultRow]], run: BenchmarkRun) -> set[str]:
    """Return the groups of which every attack was measured in earnest: goals average over all of them."""
    if run.config.quick:
        return set()
    wanted: dict[str, set[str]] = {"adversarial": set(ADVERSARIAL.names())}
    for attack, kind in known_attacks().items():
        wanted.setdefault(kind, set()).add(attack)
    return {group for group, rows in parts.items() if {row.label for row in rows} >= wanted[group]}


_AUC = {"unimodal": 0.97, "image-text": 0.97, "adversarial": 0.80}


def _goals(averages: Mapping[str, ResultRow], complete: set[str]) -> tuple[Goal, ...]:
    """Return the goals at the sample level; none is judged on a part of its attacks."""
    goals = []

    def add(name: str, group: str, wanted: float, measured: float | None, *, least: bool = False) -> None:
        met = None
        if measured is not None and group in complete:
            met = measured >= wanted if least else measured <= wanted
        text = f"{'at least' if least else 'at most'} {wanted:g}"
        goals.append(Goal(name=f"{name}, {group}", wanted=text, measured=measured, met=met))

    for group, least in _AUC.items():
        add("AUC", group, least, _number(averages.get(group), "platonic:AUC"), least=True)
    for group in ("unimodal", "image-text"):
        row = averages.get(group)
        add("ASR of the attacks themselves", group, 0.9, _number(row, "none:ASR"), least=True)
        add("ASR, all purified", group, 0.035, _number(row, "platonic:ASR"))
        ca, pa = _number(row, "platonic:CA"), _number(row, "platonic:PA")
        add("CA - PA, all purified", group, 0.10, None if ca is None or pa is None else ca - pa)
        undefended, flagged = _number(row, "none:CA"), _number(row, "platonic, flagged only:CA")
        loss = None if undefended is None or flagged is None else undefended - flagged
        add("CA lost, flagged only", group, 0.02, loss)
    return tuple(goals)


def _number(row: ResultRow | None, key: str) -> float | None:
    return None if row is None or key not in row.values else row.values[key].value
