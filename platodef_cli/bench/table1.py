"""Table 1: every attack against every defence."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from platodef_cli.attacks import ADVERSARIAL
from platodef_cli.bench import paper
from platodef_cli.bench.card import ZooCard
from platodef_cli.bench.context import Context, Table
from platodef_cli.bench.defending import FLAGGED, NONE, Defended, Method, Trial, defend
from platodef_cli.bench.results import Column, Goal, Grid, Row, Unit, Value
from platodef_cli.bench.statistics import average, over_seeds
from platodef_cli.detectors import DEFAULT_DETECTOR, DETECTORS
from platodef_cli.purifiers import DEFAULT_PURIFIER, PURIFIERS

FIRST = ("none", "ridge", "knn", "mahalanobis", "energy", "denoiser", "platonic", "platonic, flagged only")
_MEASURES: Mapping[str, Unit] = {"CA": "percent", "PA": "percent", "AUC": "plain", "ASR": "percent"}
_PAPER = "paper's own"
_GROUPS = ("unimodal", "image-text", "adversarial")


def run(context: Context) -> Table:
    """Fill Table 1: rows are attacks, columns defences."""
    cells: dict[str, dict[str, list[Defended]]] = {group: {} for group in _GROUPS}
    jobs = [*_planted(context), *_adversarial(context)]
    with context.progress.step("attacks", len(jobs) * len(context.config.seeds)) as task:
        for group, attack, compute in jobs:
            for seed in context.config.seeds:
                cells[group].setdefault(attack, []).append(compute(seed))
                task.advance(note=attack)
    grid_rows: list[Row] = []
    for group, found in cells.items():
        if found:
            rows = _rows(found)
            grid_rows += [*rows, average(rows, f"average, {group}"), _paper(group)]
    every = [cell for found in cells.values() for some in found.values() for cell in some]
    averages = {row.label.removeprefix("average, "): row for row in grid_rows if row.kind == "average"}
    grid = Grid(
        id="table-1",
        title="Attacks and defences",
        caption=(
            "CA: accuracy on clean images; PA: on images with the trigger; ASR: triggered images of other "
            "classes that land on the target (adversarial rows: 1 - PA); AUC: clean against triggered images "
            "of other classes. The classifier is a linear probe, for image-text attacks the class prompts "
            "(zero-shot). All samples are purified, but for 'flagged only'. "
            f"Rows and columns 'paper': {paper.CITATION}."
        ),
        columns=_columns([row for row in grid_rows if row.kind == "measured"]),
        rows=tuple(grid_rows),
    )
    return Table(
        title="Table 1: attacks and defences",
        grids=(grid,),
        plots=tuple(some[0].plot for found in cells.values() for some in found.values()),
        goals=_goals(averages),
        notes=_notes(every),
    )


_Job = tuple[str, str, Callable[[int], Defended]]  # group, attack, seed -> result


def _planted(context: Context) -> list[_Job]:
    jobs: list[_Job] = []
    for card in context.planted():
        assert card.backdoor is not None
        jobs.append((card.backdoor.attack_kind, card.backdoor.attack, partial(cell, context, card)))
    return jobs


def _adversarial(context: Context) -> list[_Job]:
    """Return the attacks at test time, all on the first clean suspect."""
    if not context.config.adversarial:
        return []
    clean = [card for card in context.laboratory.zoo.cards.values() if card.role == "suspect"]
    found = [card for card in clean if card.made in ("scratch", "embedded")][:1]
    return [
        ("adversarial", name, partial(adversarial_cell, context, card, name))
        for card in found
        for name in ADVERSARIAL.names()
        if name not in context.config.skip
    ]


def cell(context: Context, card: ZooCard, seed: int) -> Defended:
    """Return every method on one planted encoder, from the store or computed."""
    return _defended(
        context, card, seed, lambda: context.trial(card, seed), f"{card.name} on {card.parent}", {}
    )


def adversarial_cell(context: Context, card: ZooCard, attack: str, seed: int) -> Defended:
    """Return every method on a clean encoder under an adversarial attack on its undefended probe."""
    count = context.config.adversarial
    return _defended(
        context,
        card,
        seed,
        lambda: context.adversarial_trial(card, attack, seed, count),
        f"{attack} on {card.name}",
        {"adversarial": attack, "count": count},
    )


def _defended(
    context: Context,
    card: ZooCard,
    seed: int,
    trial: Callable[[], Trial],
    title: str,
    more: Mapping[str, object],
) -> Defended:
    config = context.config
    references = [reference.name for reference in context.references]
    detectors = [name for name in DETECTORS.names() if name not in config.skip]
    purifiers = [name for name in PURIFIERS.names() if name not in config.skip]

    def compute() -> Defended:
        samples = trial()
        heads = context.heads(samples.fit, card.name, seed)
        return defend(
            context.laboratory,
            card.name,
            samples,
            heads,
            seed=seed,
            detectors=detectors,
            purifiers=purifiers,
            title=title,
            progress=context.progress,
        )

    key = {
        **context.key(card.name, references, seed),
        **more,
        "heads": config.heads().to_json(),
        "methods": [*detectors, *purifiers],
    }
    name = f"defended-{card.name}-{more['adversarial']}-{seed}" if more else f"defended-{card.name}-{seed}"
    return context.store.get(name, key, Defended, compute)


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


def _rows(found: Mapping[str, Sequence[Defended]]) -> list[Row]:
    rows = []
    for attack, cells in found.items():
        parts = [
            {
                f"{group}:{measure}": value
                for group, numbers in grouped(cell.methods).items()
                for measure, value in numbers.items()
            }
            for cell in cells
        ]
        keys = dict.fromkeys(key for part in parts for key in part)
        values = {key: over_seeds([part[key] for part in parts if key in part]) for key in keys}
        for measure, number in zip(("CA", "PA", "AUC", "ASR"), paper.PLATONIC.get(attack, ()), strict=False):
            values[f"{_PAPER}:{measure}"] = Value(value=number, n=0)
        rows.append(Row(label=attack, values=values))
    return rows


def _columns(rows: Sequence[Row]) -> tuple[Column, ...]:
    found: dict[str, set[str]] = {}
    for row in rows:
        for key in row.values:
            group, _, measure = key.partition(":")
            found.setdefault(group, set()).add(measure)
    first = [group for group in (*FIRST, _PAPER) if group in found]
    order = [*first, *(group for group in found if group not in first)]
    return tuple(
        Column(key=f"{group}:{measure}", group=group, label=measure, unit=unit)
        for group in order
        for measure, unit in _MEASURES.items()
        if measure in found[group]
    )


def _paper(group: str) -> Row:
    """Return the paper's averages in our columns."""
    values = {
        f"{paper.OURS[defence]}:{measure}": Value(value=number, n=0)
        for defence, numbers in paper.AVERAGES[group].items()
        for measure, number in numbers.items()
    }
    return Row(label=f"paper, average, {group}", kind="paper", values=values)


def _notes(cells: Sequence[Defended]) -> tuple[str, ...]:
    told: dict[str, int] = {}
    for cell in cells:
        for name, method in cell.methods.items():
            if method.note:
                told[f"{name}: {method.note}"] = told.get(f"{name}: {method.note}", 0) + 1
    return tuple(f"not applicable in {count} of {len(cells)} cells: {text}" for text, count in told.items())


_AUC = {"unimodal": 0.97, "image-text": 0.97, "adversarial": 0.80}


def _goals(averages: Mapping[str, Row]) -> tuple[Goal, ...]:
    """Return the goals at the sample level."""
    goals = []

    def add(name: str, wanted: str, measured: float | None, met: bool | None) -> None:
        goals.append(Goal(name=name, wanted=wanted, measured=measured, met=met))

    for group, least in _AUC.items():
        value = _number(averages.get(group), "platonic:AUC")
        add(f"AUC, {group}", f"at least {least:.2f}", value, None if value is None else value >= least)
    for group in ("unimodal", "image-text"):
        row = averages.get(group)
        own = _number(row, "none:ASR")
        add(
            f"ASR of the attacks themselves, {group}",
            "at least 0.90",
            own,
            None if own is None else own >= 0.9,
        )
        asr, ca, pa = (_number(row, f"platonic:{measure}") for measure in ("ASR", "CA", "PA"))
        add(f"ASR, all purified, {group}", "at most 0.035", asr, None if asr is None else asr <= 0.035)
        gap = None if ca is None or pa is None else ca - pa
        add(f"CA - PA, all purified, {group}", "at most 0.10", gap, None if gap is None else gap <= 0.10)
        undefended, flagged = _number(row, "none:CA"), _number(row, "platonic, flagged only:CA")
        loss = None if undefended is None or flagged is None else undefended - flagged
        add(f"CA lost, flagged only, {group}", "at most 0.02", loss, None if loss is None else loss <= 0.02)
    return tuple(goals)


def _number(row: Row | None, key: str) -> float | None:
    return None if row is None or key not in row.values else row.values[key].value
