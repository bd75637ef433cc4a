"""One run of the benchmark, which every table is filled from: the zoo, the images, the finished cells."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.metadata import version

import torch

from platodef_cli.audit.steps.heads import HEADS_VERSION
from platodef_cli.bench.attacks import make_adversarial
from platodef_cli.bench.cells import CellStore
from platodef_cli.bench.config import BenchConfig
from platodef_cli.bench.defending import defend
from platodef_cli.bench.evaluation import Classifier, Defended, EvaluationData, ZeroShot
from platodef_cli.bench.feature_store import FeatureStore
from platodef_cli.bench.results import Goal, Plot, ResultTable
from platodef_cli.bench.zoo.card import TRIGGER, ZooCard, files_of
from platodef_cli.defences import DETECTORS, PURIFIERS
from platodef_cli.errors import InconclusiveError
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.features.keys import FEATURE_VERSION
from platodef_cli.heads.fit import fit_heads
from platodef_cli.heads.heads import Heads
from platodef_cli.metrics.linear_probe import LinearProbe
from platodef_cli.progress import SILENT, Progress
from platodef_cli.records import AlignmentRecord

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

    def defended(
        self,
        card: ZooCard,
        seed: int,
        evaluation: Callable[[], EvaluationData],
        *,
        name: str,
        title: str,
        published: bool = False,
        more: Mapping[str, object] | None = None,
    ) -> Defended:
        """Return every method that was not left out on one encoder, from the store or computed.

        Args:
            card: Of the encoder.
            seed: Of the heads and of methods that draw.
            evaluation: Gives its samples, where they are needed.
            name: Of the cell.
            title: Of the plot.
            published: Try the published modes of the detectors as well.
            more: What else decides the result.
        """
        config = self.config
        detectors = [method for method in DETECTORS.names() if method not in config.skip]
        purifiers = [method for method in PURIFIERS.names() if method not in config.skip]

        def compute() -> Defended:
            samples = evaluation()
            return defend(
                self.feature_store,
                card.name,
                samples,
                self.heads(samples.fit, card.name, seed),
                seed=seed,
                detectors=detectors,
                purifiers=purifiers,
                published=published,
                diffusion=config.diffusion,
                title=title,
                progress=self.progress,
            )

        key: dict[str, object] = {
            **self.key(card.name, [reference.name for reference in self.references], seed),
            **(more or {}),
            "heads": config.heads().to_json(),
            "methods": [*detectors, *purifiers],
        }
        if published:
            key["published"] = True
        if config.diffusion is not None:
            key["diffusion"] = [file.sha256 for file in files_of(config.diffusion)]
        return self.store.get(name, key, Defended, compute)

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
            "libraries": versions_of_libraries(),
            "code": {"heads": HEADS_VERSION, "features": FEATURE_VERSION},
            "encoders": dict(self.feature_store.identity([suspect, *references])),
            "trigger": [file.sha256 for file in card.files if file.path.startswith(f"{TRIGGER}/")],
            "target": None if card.backdoor is None else card.backdoor.target,
            "references": list(references),
            "images": images.digest,
            "seed": seed,
        }


def versions_of_libraries() -> dict[str, str]:
    """Return name -> version of the libraries whose numbers go into the tables."""
    return {name: version(name) for name in LIBRARIES}
