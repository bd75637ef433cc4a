"""Table 2: an attacker who knows the defence backdoors the references too, trigger and target alike."""

from collections.abc import Sequence
from itertools import combinations

from platodef_cli.bench.attacks import make_attack
from platodef_cli.bench.benchmark_run import BenchmarkRun, BenchmarkTable
from platodef_cli.bench.defending import defend
from platodef_cli.bench.evaluation import Defended
from platodef_cli.bench.results import ResultColumn, ResultRow, ResultTable, Value
from platodef_cli.bench.statistics import joined
from platodef_cli.bench.zoo.card import ZooCard, read_card
from platodef_cli.bench.zoo.entries import Plant
from platodef_cli.bench.zoo.making import BuildJob, entry_digest, finished, make
from platodef_cli.bench.zoo.recipe import recipe
from platodef_cli.errors import InconclusiveError, UsageError

INSIDERS = "insiders"  # sub-folder of the zoo for backdoored references
REFERENCES = 4
_COLUMNS = (
    ResultColumn(key="none:ASR", group="no defence", label="ASR"),
    *(ResultColumn(key=f"mean:{name}", group="platonic", label=name) for name in ("CA", "PA", "ASR")),
    ResultColumn(key="mean:CR", group="platonic", label="CR", unit="plain"),
    ResultColumn(key="platonic:AUC", group="platonic", label="AUC", unit="plain"),
    ResultColumn(key="robust:AUC", group="robust", label="AUC", unit="plain"),
)


def fill(run: BenchmarkRun) -> BenchmarkTable:
    """Fill Table 2: one row per subset of the references that the attacker reached."""
    references = run.references[:REFERENCES]
    if len(references) < 2:
        raise InconclusiveError("Table 2 needs at least two references in the zoo")
    suspect = _suspect(run)
    insiders = _insiders(run, suspect, references)
    subsets = [
        subset
        for count in range(len(references) + 1)
        for subset in combinations(range(len(references)), count)
    ]
    rows = []
    with run.progress.step("subsets of references", len(subsets) * len(run.config.seeds)) as task:
        for subset in subsets:
            names = [
                insiders[number] if number in subset else card.name for number, card in enumerate(references)
            ]
            cells = []
            for seed in run.config.seeds:
                cells.append(_cell(run, suspect, names, seed))
                task.advance()
            rows.append(ResultRow(label=_label(subset, references), values=_values(cells)))
    assert suspect.backdoor is not None
    return BenchmarkTable(
        title="Table 2: backdoored references",
        grids=(
            ResultTable(
                id="table-2",
                title="Backdoored references",
                caption=(
                    f"Suspect: {suspect.name}. The named references carry a backdoor with the same trigger "
                    "and target, planted by the same attack. CR: cosine of the purified features of "
                    "triggered images to the clean features of the same images."
                ),
                columns=_COLUMNS,
                rows=tuple(rows),
            ),
        ),
        configuration=run.roles(),
        notes=tuple(_insider_note(run, name) for name in insiders),
    )


def _suspect(run: BenchmarkRun) -> ZooCard:
    """Return the planted encoder of the configured attack, whose trigger must be the same everywhere."""
    wanted = run.config.attack
    attack = make_attack(wanted)
    if attack.trigger(0) is None:
        raise UsageError(
            f"the trigger of {wanted} is learned for each encoder, so references cannot share it; "
            "give another --attack"
        )
    cards = [card for card in run.planted() if card.backdoor and card.backdoor.attack == wanted]
    if not cards:
        raise InconclusiveError(f"the zoo has no finished encoder with the attack {wanted!r}")
    return cards[0]


def _insiders(run: BenchmarkRun, suspect: ZooCard, references: Sequence[ZooCard]) -> list[str]:
    """Plant the suspect's backdoor in every reference, or find it done; return their names."""
    zoo = run.feature_store.zoo
    assert suspect.backdoor is not None
    zoo_recipe = recipe(zoo.manifest.recipe)
    names = []
    with run.progress.step("backdooring references", len(references)) as task:
        for card in references:
            entry = Plant(
                parent=card.name,
                attack=suspect.backdoor.attack,
                target=suspect.backdoor.target,
                seed=int(suspect.backdoor.parameters["seed"]),
                name=f"{suspect.backdoor.attack}-in-{card.name}",
                budget=zoo_recipe.budget,
            )
            images, seed = zoo.manifest.images, zoo.manifest.seed
            digest = entry_digest(entry, zoo_recipe, images, seed, card.digest)
            job = BuildJob(entry, zoo_recipe, images, seed, zoo.root, run.config.command, digest, INSIDERS)
            if not finished(job):
                make(job, run.progress)
            run.feature_store.extra[entry.name] = job.folder
            names.append(entry.name)
            task.advance(note=entry.name)
    return names


def _cell(run: BenchmarkRun, suspect: ZooCard, names: Sequence[str], seed: int) -> Defended:
    config = run.config

    def compute() -> Defended:
        evaluation = run.evaluation(suspect, seed, names)
        heads = run.heads(evaluation.fit, suspect.name, seed)
        return defend(
            run.feature_store,
            suspect.name,
            evaluation,
            heads,
            seed=seed,
            detectors=("platonic", "robust"),
            purifiers=("mean",),
            progress=run.progress,
        )

    key = {**run.key(suspect.name, names, seed), "heads": config.heads().to_json()}
    return run.store.get(f"subset-{suspect.name}-{seed}", key, Defended, compute)


def _values(cells: Sequence[Defended]) -> dict[str, Value]:
    names = {
        "none": "none",
        "mean": "purifier mean",
        "platonic": "detector platonic",
        "robust": "detector robust",
    }
    seeds = []
    for cell in cells:
        parts = [column.key.split(":") for column in _COLUMNS]
        seeds.append({f"{m}:{measure}": cell.methods[names[m]].numbers[measure] for m, measure in parts})
    return joined([seeds], _COLUMNS)


def _label(subset: Sequence[int], references: Sequence[ZooCard]) -> str:
    if not subset:
        return "none"
    return " + ".join(references[number].name for number in subset)


def _insider_note(run: BenchmarkRun, name: str) -> str:
    card = read_card(run.feature_store.extra[name])
    assert card.backdoor is not None
    rate = card.backdoor.attack_success.value
    return f"{name}: the planted reference's own ASR is {0.0 if rate is None else rate:.1%}"
