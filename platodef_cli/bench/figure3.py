"""Figure 3: backdoored image-text encoders judged by what an image shows, by what is said of it, or by both.

References are encoders that see the image, and the text tower of an image-text model that reads sentences
about it: CLIP's templates with the class name of the label, the image's caption, or the caption without the
name of the class. Under a trigger the sentence of the clean image stays. Labels and captions that are right
tell the class, so that a feature purified by them has the right class whatever the image shows; the captions
without the name say what else a sentence is good for.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from platodef_cli.bench.benchmark_run import BenchmarkRun, BenchmarkTable
from platodef_cli.bench.defending import defend
from platodef_cli.bench.evaluation import Defended, EvaluationData
from platodef_cli.bench.results import ResultColumn, ResultRow, ResultTable, Value
from platodef_cli.bench.statistics import joined
from platodef_cli.bench.zoo.card import ZooCard
from platodef_cli.errors import InconclusiveError
from platodef_cli.features.interface import Samples
from platodef_cli.features.text import sentence_features
from platodef_cli.images.columns import Columns
from platodef_cli.images.interface import caption_column
from platodef_cli.images.open import open_source
from platodef_cli.texts.names import BY_CLASS, COLUMN, PREFIX, TEMPLATES
from platodef_cli.texts.sentences import Sentences, sentences_of
from platodef_cli.texts.tower import TOWER_VERSION, TextTower, open_text

SENTENCES = ("class templates", "captions", "captions without the class name")
OWN = "of the clean parent"
IMAGE_TEXT = "image-text"
_THING = "object"  # stands where the name of the class stood
_DETECTORS, _PURIFIER = ("platonic", "robust"), "mean"
_COLUMNS = (
    *(ResultColumn(key=f"none:{name}", group="no defence", label=name) for name in ("CA", "PA", "ASR")),
    *(ResultColumn(key=f"mean:{name}", group="platonic", label=name) for name in ("CA", "PA", "ASR")),
    ResultColumn(key="mean:CR", group="platonic", label="CR", unit="plain"),
    ResultColumn(key="platonic:AUC", group="platonic", label="AUC", unit="plain"),
    ResultColumn(key="robust:AUC", group="robust", label="AUC", unit="plain"),
)


@dataclass(frozen=True)
class ReferenceSet:
    """What a suspect is judged by.

    Attributes:
        visual: Whether the encoders that see the images take part.
        tower: Whose text tower reads: :data:`OWN`, or the name of an encoder of the zoo. Empty: none reads.
        sentences: A row of :data:`SENTENCES`. Empty: none are read.
    """

    visual: bool
    tower: str = ""
    sentences: str = ""

    @property
    def label(self) -> str:
        """What a row is called."""
        said = f"{self.sentences}, text tower {self.tower}" if self.tower else ""
        return " + ".join(part for part in ("visual" if self.visual else "", said) if part)


def fill(run: BenchmarkRun) -> BenchmarkTable:
    """Fill Figure 3 as tables: one per attack, one row per set of references."""
    suspects = _suspects(run)
    seen, readers = _references(run)
    written = _sentences(run)
    texts = _Texts(run, written)
    attacks = list(dict.fromkeys(card.backdoor.attack for card in suspects if card.backdoor))
    sets = [
        ReferenceSet(True),
        *(
            ReferenceSet(visual, tower, sentences)
            for tower in (OWN, *readers)
            for visual in (False, True)
            for sentences in written
        ),
    ]
    cells: dict[tuple[ReferenceSet, str], list[Defended]] = {}
    with run.progress.step("reference sets", len(sets) * len(suspects) * len(run.config.seeds)) as task:
        for card in suspects:
            for seed in run.config.seeds:
                evaluations = _Evaluations(run, card, seed, seen, texts)
                for one in sets:
                    cells.setdefault((one, card.name), []).append(evaluations.defended(one))
                    task.advance(note=f"{card.name}, {one.label}")
    grids = tuple(
        ResultTable(
            id=f"figure-3-{attack}",
            title=attack,
            caption=_caption(attack, suspects, seen),
            columns=_COLUMNS,
            rows=tuple(
                ResultRow(
                    label=one.label,
                    values=_values(
                        [
                            cells[one, card.name]
                            for card in suspects
                            if card.backdoor and card.backdoor.attack == attack
                        ]
                    ),
                )
                for one in sets
            ),
        )
        for attack in attacks
    )
    return BenchmarkTable(
        title="Figure 3: references that see and references that read",
        grids=grids,
        configuration=run.roles(),
        notes=(
            *(f"{name}: {sentences.origin}" for name, sentences in written.items()),
            *(_tower_note(run, name) for name in [*readers, *dict.fromkeys(map(_parent, suspects))]),
            "under a trigger the sentence of the clean image stays",
            *(
                []
                if SENTENCES[1] in written
                else ["the images have no captions, so that only templates are read"]
            ),
        ),
    )


def _suspects(run: BenchmarkRun) -> list[ZooCard]:
    cards = [
        card
        for card in run.matching(run.feature_store.zoo.planted)
        if card.backdoor is not None
        and card.backdoor.attack_kind == IMAGE_TEXT
        and card.parent in run.feature_store.zoo.cards
    ]
    if not cards:
        raise InconclusiveError(
            "the zoo has no finished image-text encoder with a backdoor (or none matches --only); build one "
            "with platodef bench zoo build --recipe image-text"
        )
    return cards


def _references(run: BenchmarkRun) -> tuple[list[str], list[str]]:
    """Return the references that see, without a text tower where there are such, and those that read."""
    cards = run.references
    readers = [card.name for card in cards if _reads(card)]
    return [card.name for card in cards if not _reads(card)] or readers, readers


def _reads(card: ZooCard) -> bool:
    return card.zero_shot is not None


def _parent(card: ZooCard) -> str:
    assert card.parent is not None
    return card.parent


def _sentences(run: BenchmarkRun) -> dict[str, Sentences]:
    """Return the sentences of every image, by every way that the images allow."""
    images = run.feature_store.images
    source = open_source(images.uri, limit=run.config.limit, columns=Columns(captions=True))
    found = {SENTENCES[0]: sentences_of(source, BY_CLASS, TEMPLATES[0])}
    if caption_column(source) is not None:
        said = sentences_of(source, COLUMN, TEMPLATES[0])
        found[SENTENCES[1]] = said
        found[SENTENCES[2]] = without_names(said, images.classes)
    if any(len(one.rows) != len(images.labels) for one in found.values()):
        raise InconclusiveError(f"{images.uri} has changed since it was opened; run the command again")
    return found


def without_names(said: Sentences, classes: Sequence[str]) -> Sentences:
    """Return sentences in which the names of classes are replaced by a word that says nothing."""
    names = sorted((" ".join(name.replace("_", " ").split()) for name in classes), key=len, reverse=True)
    pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, names))})\b", re.IGNORECASE)
    rows = [tuple(pattern.sub(_THING, text) for text in row) for row in said.rows]
    return Sentences(rows, f"{said.origin}, with {_THING!r} in place of the names of classes")


class _Texts:
    """Features of sentences; each text tower reads every kind of sentences once."""

    def __init__(self, run: BenchmarkRun, written: Mapping[str, Sentences]):
        self._run, self._written = run, written
        self._towers: dict[str, TextTower] = {}
        self._features: dict[tuple[str, str], Tensor] = {}

    def tower(self, name: str) -> TextTower:
        """Return the text tower of an encoder of the zoo, opened as ``-r text:FOLDER`` opens it."""
        if name not in self._towers:
            folder = self._run.feature_store.zoo.folder(name)
            self._towers[name] = open_text(f"{PREFIX}{folder}", name=name, progress=self._run.progress)
            self._run.feature_store.used.add(name)
        return self._towers[name]

    def features(self, name: str, sentences: str) -> Tensor:
        """Return ``[N, D]`` of all images."""
        if (name, sentences) not in self._features:
            rows = self._written[sentences].rows
            self._features[name, sentences] = sentence_features(self.tower(name), rows)
        return self._features[name, sentences]

    def key(self, name: str, sentences: str) -> dict[str, object]:
        """Return what decides the features."""
        return {
            "tower": self.tower(name).record.digest,
            "version": TOWER_VERSION,
            "sentences": self._written[sentences].digest,
        }


class _Evaluations:
    """One suspect and seed, judged by one set of references after the other."""

    def __init__(self, run: BenchmarkRun, card: ZooCard, seed: int, seen: Sequence[str], texts: _Texts):
        self._run, self._card, self._seed = run, card, seed
        self._seen, self._texts = list(seen), texts
        self._visual: EvaluationData | None = None

    def defended(self, one: ReferenceSet) -> Defended:
        """Return the defence by one set of references, from the store or computed."""
        run, card = self._run, self._card
        tower = _parent(card) if one.tower == OWN else one.tower

        def compute() -> Defended:
            evaluation = self._evaluation(one, tower)
            heads = run.heads(evaluation.fit, card.name, self._seed)
            return defend(
                run.feature_store,
                card.name,
                evaluation,
                heads,
                seed=self._seed,
                detectors=_DETECTORS,
                purifiers=(_PURIFIER,),
                progress=run.progress,
            )

        key = {
            **run.key(card.name, self._seen if one.visual else [], self._seed),
            "heads": run.config.heads().to_json(),
            **({"text": self._texts.key(tower, one.sentences)} if tower else {}),
        }
        return run.store.get(f"text-{card.name}-{self._seed}", key, Defended, compute)

    def _evaluation(self, one: ReferenceSet, tower: str) -> EvaluationData:
        if self._visual is None:
            self._visual = self._run.evaluation(self._card, self._seed, self._seen)
        visual = self._visual
        roles = self._run.feature_store.images.roles(self._seed)
        read: dict[str, Tensor] = {}
        if tower:
            read = {f"{PREFIX}{tower}, {one.sentences}": self._texts.features(tower, one.sentences)}

        def changed(samples: Samples, rows: Sequence[int]) -> Samples:
            at = torch.tensor(rows, dtype=torch.int64)
            kept = samples.references if one.visual else {}
            return replace(
                samples, references={**kept, **{name: values[at] for name, values in read.items()}}
            )

        return replace(
            visual,
            fit=changed(visual.fit, roles.fit),
            calibration=changed(visual.calibration, roles.calibration),
            test=changed(visual.test, roles.test),
            changed=changed(visual.changed, roles.test),
        )


def _values(encoders: Sequence[Sequence[Defended]]) -> dict[str, Value]:
    names = {
        "none": "none",
        "mean": f"purifier {_PURIFIER}",
        **{name: f"detector {name}" for name in _DETECTORS},
    }
    parts = [column.key.split(":") for column in _COLUMNS]
    rows = [
        [
            {f"{m}:{measure}": cell.methods[names[m]].numbers[measure] for m, measure in parts}
            for cell in seeds
        ]
        for seeds in encoders
    ]
    return joined(rows, _COLUMNS)


def _caption(attack: str, suspects: Sequence[ZooCard], seen: Sequence[str]) -> str:
    cards = [card for card in suspects if card.backdoor and card.backdoor.attack == attack]
    return (
        f"Suspects: {', '.join(f'{card.name} (from {card.parent})' for card in cards)}; classes are named by "
        f"their own prompts. Visual references: {', '.join(seen)}. A text tower {OWN!r} is that of the clean "
        "model that the suspect was made from. CR: cosine of the purified features of triggered images to "
        "the clean features of the same images."
    )


def _tower_note(run: BenchmarkRun, name: str) -> str:
    card = run.feature_store.zoo.cards[name]
    rate = None if card.zero_shot is None else card.zero_shot.value
    return (
        f"text tower of {name} ({card.architecture}, {card.objective}): its model names "
        f"{0.0 if rate is None else rate:.1%} of held-out images right by class prompts"
    )
