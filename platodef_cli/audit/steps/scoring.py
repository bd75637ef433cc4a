"""The heads of an audit, and everything that only needs features: detectors, thresholds, purifiers."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from platodef_cli.audit.config import DEFAULT_DETECTOR, AuditConfig
from platodef_cli.audit.inputs import Inputs, Split, digest_of
from platodef_cli.defences import DETECTORS, PURIFIERS, make_detector, make_purifier
from platodef_cli.defences.calibrate import conformal_threshold
from platodef_cli.defences.interface import Detector
from platodef_cli.defences.platonic import MEMBERS, PlatonicDetector
from platodef_cli.encoders.geometry import Geometry
from platodef_cli.errors import NotApplicable
from platodef_cli.features.access import Access, ModelAccess
from platodef_cli.features.cache import FeatureCache
from platodef_cli.features.extract import CLEAN, Extraction, image_seeds, load_pixels
from platodef_cli.features.interface import FeatureTuples, Samples, Variant
from platodef_cli.heads.card import HeadCard
from platodef_cli.heads.config import FitConfig, preset_name
from platodef_cli.heads.evaluate import COMPONENTS
from platodef_cli.heads.fit import fit_heads
from platodef_cli.heads.heads import Heads
from platodef_cli.heads.pretrained import check_match, load_heads, read_description, save_heads
from platodef_cli.images.interface import ImageSource
from platodef_cli.metrics.costs import Cost, measure_cost
from platodef_cli.metrics.detection import auroc_metric, histogram, rate_metric
from platodef_cli.progress import Progress
from platodef_cli.records import DefenceCost, HeadRecord, Histogram, Metric, Threshold
from platodef_cli.triggers.battery import BatteryItem


def build_detectors(
    names: tuple[str, ...],
    heads: Heads,
    bank: FeatureTuples,
    calibration: FeatureTuples,
    seed: int,
    model: ModelAccess | None,
) -> tuple[dict[str, Detector], dict[str, str]]:
    """Return the detectors that can work here, and name -> reason for the others.

    Args:
        names: Rows of the table of detectors.
        heads: The heads.
        bank: Clean samples that nothing is calibrated on.
        calibration: Clean samples; one of them is scored to see whether a detector works at all.
        seed: Seed of their random choices.
        model: The suspect, where images are at hand.
    """
    detectors: dict[str, Detector] = {}
    reasons: dict[str, str] = {}
    for name in names:
        kind = DETECTORS.load(name)
        try:
            # a bank that held the calibration rows would find every row beside itself
            detector = make_detector(name, heads, bank if kind.bank else None, seed=seed, model=model)
            if not kind.needs <= {Access.features, Access.references}:
                detector.score(calibration.select(torch.arange(1)))
        except NotApplicable as error:
            reasons[name] = error.why
            continue
        detectors[name] = detector
    return detectors, reasons


HEADS_VERSION = 2  # part of the cache key: raise it when the same tuples give other heads


class Images(Protocol):
    """Gives the images of rows, changed by a variant."""

    def load(self, rows: Tensor, variant: str) -> Tensor:
        """Return uint8 ``[n, 3, H, W]`` of rows of the source ``[n]``."""


@dataclass(frozen=True)
class Features:
    """Feature tuples of one extraction, by variant and rows of the source.

    Attributes:
        extraction: Features of all encoders.
        suspect: Name of the suspect among them.
        references: Names of the references, in order.
        images: The suspect's images, where a detector or purifier looks at them.
    """

    extraction: Extraction
    suspect: str
    references: tuple[str, ...]
    images: Images | None = None

    def tuples(self, rows: tuple[int, ...] | None, variant: str = CLEAN) -> tuple[FeatureTuples, Tensor]:
        """Return the tuples of the usable images among ``rows`` (None: all), and their rows ``[n]``."""
        indices, source = self.extraction.features(self.suspect, variant)
        keep = torch.arange(len(indices))
        if rows is not None:
            place = {int(row): position for position, row in enumerate(indices.tolist())}
            keep = torch.tensor([place[row] for row in rows if row in place], dtype=torch.int64)
        references = {name: self.extraction.features(name, variant)[1][keep] for name in self.references}
        return FeatureTuples(source[keep], references), indices[keep]

    def samples(
        self, rows: tuple[int, ...] | None, variant: str = CLEAN, most: int | None = None
    ) -> tuple[FeatureTuples, Tensor]:
        """Return the same as :meth:`tuples`, with images where somebody looks at them.

        Args:
            rows: Rows of the source, or None for all.
            variant: Name of the change.
            most: Largest number of samples with images.
        """
        tuples, usable = self.tuples(rows, variant)
        if self.images is None:
            return tuples, usable
        if most is not None and len(usable) > most:
            tuples, usable = tuples.select(torch.arange(most)), usable[:most]
        return Samples.of(tuples, self.images.load(usable, variant)), usable


def obtain_heads(
    inputs: Inputs,
    features: Features,
    split: Split,
    config: AuditConfig,
    cache: FeatureCache | None,
    progress: Progress,
) -> tuple[Heads, HeadRecord]:
    """Load the given heads, take them from the cache, or fit them on the fit images.

    Raises:
        UsageError: The given heads are damaged or belong to other encoders.
    """
    references = [encoder.record for encoder in inputs.references.values()]
    if inputs.head is not None:
        heads = load_heads(inputs.head, device=config.device)
        check_match(heads, inputs.suspect.record, references)
        return heads, _record(inputs.head.name, "loaded", inputs.head, heads)
    tuples, rows = features.tuples(split.fit)
    fit_config = FitConfig()
    digest = digest_of(inputs.images, rows.tolist())
    card = HeadCard(
        name=f"{inputs.suspect.record.name}-{digest[:8]}",
        source=inputs.suspect.record,
        references=tuple(references),
        trained_on=f"{len(tuples)} images of {inputs.images.uri} (sha256 {digest})",
    )
    key = {
        "version": HEADS_VERSION,
        "torch": torch.__version__,
        "encoders": [
            # where an encoder lies does not change its heads
            record.model_dump(mode="json", exclude={"uri", "isolated"})
            for record in (inputs.suspect.record, *references)
        ],
        "images": digest,
        "uri": inputs.images.uri,
        "config": fit_config.to_json(),
        "seed": config.seed,
        "device": config.device,
        "batch_size": config.batch_size,
    }
    stored = cache.load_artifact("heads", key) if cache else None
    if stored is not None:
        heads = load_heads(stored, device=config.device)
        return heads, _record(card.name, "fitted", stored, heads)
    heads = fit_heads(tuples, fit_config, seed=config.seed, device=config.device, progress=progress)
    if cache is None:
        with tempfile.TemporaryDirectory() as folder:
            save_heads(Path(folder), heads, card=card)
            return heads, _record(card.name, "fitted", Path(folder), heads)
    stored = cache.store_artifact("heads", key, lambda folder: save_heads(folder, heads, card=card))
    return heads, _record(card.name, "fitted", stored, heads)


def _record(name: str, origin: Literal["fitted", "loaded"], folder: Path, heads: Heads) -> HeadRecord:
    """Describe heads that lie in ``folder``; fresh and cached ones alike, so that reports do not differ."""
    description = read_description(folder)
    return HeadRecord(
        name=name,
        origin=origin,
        digest=description.sha256,
        trained_on=description.card.trained_on,
        fit_samples=heads.rows,
        preset=preset_name(heads.config),
        metrics=tuple(
            Metric(name=f"held-out {key}", value=value) for key, value in sorted(heads.metrics.items())
        ),
    )


@dataclass(frozen=True)
class Scored:
    """Scores of some tuples by every detector, computed once.

    Attributes:
        scores: Detector -> float64 ``[N]``.
        flags: boolean ``[N]``: over the threshold of the deciding detector.
    """

    scores: Mapping[str, Tensor]
    flags: Tensor

    @property
    def flagged(self) -> Metric:
        """The share of tuples over the threshold of the deciding detector."""
        return rate_metric(
            int(self.flags.sum()),
            len(self.flags),
            name="flagged",
            positive="flagged",
            direction="higher is more suspicious",
        )


class CalibratedDefences:
    """Detectors with calibrated thresholds, and a purifier, for one suspect.

    Attributes:
        deciding: Name of the detector that the verdict uses.
        thresholds: Calibrated thresholds, with the rate measured on clean test images.
        clean: Scores of the clean test images.
        calibration: Detector -> scores of the calibration images, float64 ``[N]``.
        not_applicable: Detector that was asked for -> why it cannot work here.
    """

    def __init__(
        self,
        heads: Heads,
        bank: FeatureTuples,
        calibration: FeatureTuples,
        test: FeatureTuples,
        config: AuditConfig,
        model: ModelAccess | None = None,
    ) -> None:
        self.deciding = DEFAULT_DETECTOR
        self._seed, self._heads = config.seed, heads
        names = tuple(dict.fromkeys((*config.detectors, self.deciding)))
        self._detectors, self.not_applicable = build_detectors(
            names, heads, bank, calibration, config.seed, model
        )
        self._purifier = make_purifier(config.purifier, heads, clean=bank, model=model, seed=config.seed)
        self._spent: dict[str, tuple[Cost, int]] = {}
        self.calibration = self._scores(calibration)
        self._values = {
            name: conformal_threshold(scores, config.false_positive_rate)
            for name, scores in self.calibration.items()
        }
        self.clean = self.score(test)
        self.thresholds = tuple(
            Threshold(
                detector=name,
                value=value,
                false_positive_rate=config.false_positive_rate,
                calibration=len(calibration),
                measured=rate_metric(
                    int((self.clean.scores[name] > value).sum()),
                    len(test),
                    name="false positive rate",
                    positive="clean",
                ),
            )
            for name, value in self._values.items()
        )

    def _scores(self, tuples: FeatureTuples) -> dict[str, Tensor]:
        """Score every component once: the deciding detector is made of others' scores."""
        components: dict[str, Tensor] = {}
        scores: dict[str, Tensor] = {}
        for name, detector in self._detectors.items():
            with measure_cost() as cost:
                if isinstance(detector, PlatonicDetector):
                    for member in MEMBERS:
                        if member not in components:
                            components[member] = COMPONENTS[member](self._heads, tuples)
                    scores[name] = detector.combine(components)
                else:
                    scores[name] = components[name] if name in components else detector.score(tuples)
            if name in COMPONENTS:
                components[name] = scores[name]
            spent, count = self._spent.get(name, (Cost(), 0))
            peak = max(spent.memory_mb, cost.memory_mb)
            self._spent[name] = Cost(spent.seconds + cost.seconds, peak), count + len(tuples)
        return scores

    def costs(self) -> dict[str, DefenceCost]:
        """Return detector -> what scoring cost so far, per 1000 samples."""
        return {
            name: DefenceCost(
                seconds=round(cost.per_thousand(count).seconds, 3), memory_mb=round(cost.memory_mb, 1)
            )
            for name, (cost, count) in self._spent.items()
        }

    def score(self, tuples: FeatureTuples) -> Scored:
        """Return the scores of tuples by every detector, and which of them raise the alarm."""
        scores = self._scores(tuples)
        return Scored(scores, scores[self.deciding] > self._values[self.deciding])

    def against_clean(self, scored: Scored, positive: str, name: str = "auroc") -> dict[str, Metric]:
        """Return detector -> AUROC of clean test images against ``scored``."""
        return {
            detector: auroc_metric(self.clean.scores[detector], scores, positive=positive, name=name)
            for detector, scores in scored.scores.items()
        }

    def purify(self, tuples: FeatureTuples) -> Tensor:
        """Return purified source features ``[N, D_s]``."""
        generator = torch.Generator().manual_seed(self._seed)
        return self._purifier.purify(tuples, generator=generator)

    def histograms(self, groups: Mapping[str, Scored], names: Sequence[str]) -> tuple[Histogram, ...]:
        """Return one histogram per detector in ``names`` over clean test images and the given groups."""
        return tuple(
            histogram(
                {
                    "clean": self.clean.scores[name],
                    **{group: scored.scores[name] for group, scored in groups.items()},
                },
                bins=36,
                name=name,
                threshold=self._values[name],
                stretch="clean",
            )
            for name in names
        )


BANK_MOST = 2000
"""Clean samples with images that detectors get at most: images are large."""


@dataclass(frozen=True)
class SuspectImages:
    """The images of an audit as the suspect sees them.

    Attributes:
        source: The images.
        geometry: Resize and crop of the suspect.
        variants: Name -> change, for all that are not clean.
    """

    source: ImageSource
    geometry: Geometry
    variants: Mapping[str, Variant]

    @classmethod
    def of(cls, source: ImageSource, geometry: Geometry, items: Sequence[BatteryItem]) -> "SuspectImages":
        """Return the images with the variants of a battery."""
        return cls(source, geometry, {item.variant.name: item.variant for item in items})

    def load(self, rows: Tensor, variant: str) -> Tensor:
        """Return uint8 ``[n, 3, H, W]`` of usable rows of the source ``[n]``, changed by a variant."""
        indices = rows.tolist()
        pixels = load_pixels(self.source, [self.geometry], indices)[self.geometry]
        if variant == CLEAN:
            return pixels
        return self.variants[variant](pixels, image_seeds([self.source.refs[row] for row in indices]))


def wants_images(config: AuditConfig) -> bool:
    """Return whether a detector or the purifier of an audit looks at images."""
    kinds = [*(DETECTORS.load(name) for name in config.detectors), PURIFIERS.load(config.purifier)]
    return any(Access.images in kind.needs for kind in kinds)
