"""One run of the benchmark, which every table is filled from: the zoo, the images, the finished cells."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import BaseModel, ValidationError

from platodef_cli.audit.steps.scoring import HEADS_VERSION
from platodef_cli.bench.attacks import make_adversarial
from platodef_cli.bench.config import BenchConfig
from platodef_cli.bench.defending import Classifier, EvaluationData, ZeroShot
from platodef_cli.bench.feature_store import FeatureStore
from platodef_cli.bench.results import Goal, Plot, ResultTable
from platodef_cli.bench.zoo.card import TRIGGER, ZooCard
from platodef_cli.errors import InconclusiveError
from platodef_cli.features.extract import FEATURE_VERSION
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.fit import fit_heads
from platodef_cli.heads.heads import Heads
from platodef_cli.metrics.linear_probe import LinearProbe
from platodef_cli.progress import SILENT, Progress
from platodef_cli.records import AlignmentRecord, Record

VERSION = 2  # part of every key: raise it when the same inputs give other numbers

R = TypeVar("R", bound=BaseModel)


class Stored(Record):
    """What is kept of one cell."""

    key: dict[str, object]
    seconds: float
    result: dict[str, object]


class CellStore:
    """Keeps results of cells in a folder.

    Args:
        folder: Made when the first cell is stored.
        fresh: Ignore what is there.

    Attributes:
        folder: The folder.
        seconds: Computing time of all cells that were asked for, those of earlier runs included.
        computed: Cells computed by this run.
        reused: Cells that an earlier run had stored.
    """

    def __init__(self, folder: Path, *, fresh: bool = False):
        self.folder, self._fresh = folder, fresh
        self.seconds, self.computed, self.reused = 0.0, 0, 0

    def get(self, name: str, key: dict[str, object], kind: type[R], compute: Callable[[], R]) -> R:
        """Return the stored result of a cell, or compute and store it.

        Args:
            name: Begins the file name.
            key: JSON values that decide the result.
            kind: Record of the result.
            compute: Gives the result.
        """
        key = {"version": VERSION, **key}
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        path = self.folder / f"{name}-{digest}.json"
        kept = None if self._fresh else _read(path, kind)
        if kept is not None:
            self.reused += 1
            self.seconds += kept[1]
            return kept[0]
        started = time.perf_counter()
        result = compute()
        seconds = time.perf_counter() - started
        self.computed += 1
        self.seconds += seconds
        self.folder.mkdir(parents=True, exist_ok=True)
        stored = Stored(key=key, seconds=round(seconds, 3), result=result.model_dump(mode="json"))
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        temporary.write_text(json.dumps(stored.model_dump(mode="json")) + "\n", encoding="utf-8")
        os.replace(temporary, path)
        return result


def _read(path: Path, kind: type[R]) -> tuple[R, float] | None:
    """Return a stored result; None where it is missing or damaged."""
    try:
        stored = Stored.model_validate_json(path.read_bytes())
        return kind.model_validate(stored.result), stored.seconds
    except (OSError, ValidationError):
        return None


LIBRARIES = ("torch", "timm", "transformers", "open_clip_torch", "numpy", "scipy", "scikit-learn")


@dataclass(frozen=True)
class BenchmarkTable:
    """One filled table of the benchmark, without the record of how it was made."""

    title: str
    grids: tuple[ResultTable, ...]
    plots: tuple[Plot, ...] = ()
    alignment: tuple[AlignmentRecord, ...] = ()
    goals: tuple[Goal, ...] = ()
    notes: tuple[str, ...] = ()
    configuration: Mapping[str, int | str] = field(default_factory=dict)


@dataclass
class BenchmarkRun:
    """What a table is filled from: what was asked, the encoders and images, and the finished cells.

    Attributes:
        config: What was asked.
        feature_store: Encoders and images.
        store: Finished cells.
        progress: Receives the steps.
    """

    config: BenchConfig
    feature_store: FeatureStore
    store: CellStore
    progress: Progress = field(default_factory=lambda: SILENT)
    _heads: tuple[object, Heads] | None = None

    @property
    def references(self) -> list[ZooCard]:
        """The trusted encoders.

        Raises:
            InconclusiveError: None is finished.
        """
        references = self.feature_store.zoo.references
        if not references:
            raise InconclusiveError("no reference of this zoo is finished; build the zoo first")
        return references

    def matching(self, cards: Sequence[ZooCard]) -> list[ZooCard]:
        """Return the cards whose names match ``only``."""
        patterns = self.config.only
        return [card for card in cards if not patterns or any(fnmatchcase(card.name, p) for p in patterns)]

    def planted(self) -> list[ZooCard]:
        """Return the backdoored encoders that were asked for.

        Raises:
            InconclusiveError: There is none.
        """
        planted = self.matching(self.feature_store.zoo.planted)
        if not planted:
            raise InconclusiveError("no backdoored encoder of this zoo is finished (or matches --only)")
        return planted

    def one_per_parent(self) -> list[ZooCard]:
        """Return the first planted encoder of every parent: one per architecture."""
        first: dict[str | None, ZooCard] = {}
        for card in self.planted():
            first.setdefault(card.parent, card)
        return list(first.values())

    def heads(self, samples: FeatureTuples, suspect: str, seed: int, **changes: object) -> Heads:
        """Fit heads on clean tuples, or return the last ones where nothing has changed.

        Args:
            samples: Clean tuples to fit on.
            suspect: Whose features they are.
            seed: Of the fit.
            changes: Of the configuration.
        """
        config = self.config.heads(**changes)
        key = (suspect, tuple(samples.references), seed, config)
        if self._heads is None or self._heads[0] != key:
            tuples = FeatureTuples(samples.source, samples.references)
            self._heads = (key, fit_heads(tuples, config, seed=seed, progress=self.progress))
        return self._heads[1]

    def evaluation(self, card: ZooCard, seed: int, references: Sequence[str] | None = None) -> EvaluationData:
        """Return the samples of a planted encoder; by default against all references of the zoo."""
        assert card.backdoor is not None
        names = [one.name for one in self.references] if references is None else list(references)
        feature_store, roles = self.feature_store, self.feature_store.images.roles(seed)
        fit = feature_store.samples(card.name, names, roles.fit)
        assert fit.labels is not None
        prompts = feature_store.prompts(card) if card.backdoor.attack_kind == "image-text" else None
        probe: Classifier
        if prompts is None:
            probe = LinearProbe.fit(fit.source, fit.labels, seed=seed)
        else:
            probe = ZeroShot(prompts)
        return EvaluationData(
            fit=fit,
            calibration=feature_store.samples(card.name, names, roles.calibration),
            test=feature_store.samples(card.name, names, roles.test),
            changed=feature_store.changed(card.name, names, roles.test, feature_store.trigger(card)),
            target=card.backdoor.target,
            probe=probe,
        )

    def adversarial_evaluation(self, card: ZooCard, attack: str, seed: int, count: int) -> EvaluationData:
        """Return the samples of a clean encoder, its test images changed by an adversarial attack.

        The attack sees the undefended classifier: the encoder and its linear probe.
        """
        names = [one.name for one in self.references]
        feature_store, roles = self.feature_store, self.feature_store.images.roles(seed)
        fit = feature_store.samples(card.name, names, roles.fit)
        assert fit.labels is not None
        probe = LinearProbe.fit(fit.source, fit.labels, seed=seed)
        test = feature_store.samples(card.name, names, roles.test[:count])
        assert test.labels is not None
        assert test.images is not None
        encoder = feature_store.encoder(card.name)
        changed = make_adversarial(attack).perturb(
            lambda unit: probe.scores(encoder.differentiable(unit)),
            test.images,
            torch.searchsorted(probe.classes, test.labels),
            seed=seed,
            progress=self.progress,
        )
        return EvaluationData(
            fit=fit,
            calibration=feature_store.samples(card.name, names, roles.calibration),
            test=test,
            changed=feature_store.of_pixels(card.name, names, changed, test.labels),
            target=None,
            probe=probe,
        )

    def roles(self) -> dict[str, int | str]:
        """Return how many images fit, calibrate and test, for the record of a table."""
        parts = self.feature_store.images.roles(self.config.seeds[0])
        return {
            "images_to_fit": len(parts.fit),
            "images_to_calibrate": len(parts.calibration),
            "images_to_test": len(parts.test),
        }

    def key(self, suspect: str, references: Sequence[str], seed: int) -> dict[str, object]:
        """Return what decides every cell of a suspect, for the store."""
        images = self.feature_store.images
        card = self.feature_store.zoo.cards[suspect]
        by_prompts = card.backdoor is not None and card.backdoor.attack_kind == "image-text"
        return {
            **({"classifier": "prompts", "classes": list(images.classes)} if by_prompts else {}),
            "libraries": library_versions(),
            "code": {"heads": HEADS_VERSION, "features": FEATURE_VERSION},
            "encoders": dict(self.feature_store.identity([suspect, *references])),
            "trigger": [file.sha256 for file in card.files if file.path.startswith(f"{TRIGGER}/")],
            "target": None if card.backdoor is None else card.backdoor.target,
            "references": list(references),
            "images": images.digest,
            "seed": seed,
        }


def library_versions() -> dict[str, str]:
    """Return name -> version of the libraries whose numbers go into the tables."""
    return {name: version(name) for name in LIBRARIES}
