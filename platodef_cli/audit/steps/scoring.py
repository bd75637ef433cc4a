"""Detectors with calibrated thresholds, and a purifier: everything that only needs samples and heads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from platodef_cli.audit.config import AuditConfig
from platodef_cli.defences import DEFAULT_DETECTOR, DETECTORS, make_detector, make_purifier
from platodef_cli.defences.calibrate import conformal_threshold
from platodef_cli.defences.interface import Detector
from platodef_cli.defences.platonic import PlatonicDetector
from platodef_cli.errors import NotApplicable
from platodef_cli.features.access import Access, ModelAccess
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.evaluate import COMPONENTS, scores_of
from platodef_cli.heads.heads import Heads
from platodef_cli.metrics.binomial import rate_metric
from platodef_cli.metrics.costs import Cost, measure_cost
from platodef_cli.metrics.detection import auroc_metric, histogram
from platodef_cli.metrics.paired import PairedScores, paired_auroc_metric
from platodef_cli.records import DefenceCost, Histogram, Metric, Threshold


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


@dataclass(frozen=True)
class Scored:
    """Scores of some tuples by every detector, computed once.

    Attributes:
        scores: Detector -> float64 ``[N]``.
        flags: boolean ``[N]``: over the threshold of the deciding detector.
    """

    scores: Mapping[str, Tensor]
    flags: Tensor

    def where(self, rows: Tensor, others: "Scored", detector: str) -> "Scored":
        """Return one detector's scores, those of ``others`` in some rows (boolean ``[N]``)."""
        scores = torch.where(rows, others.scores[detector], self.scores[detector])
        return Scored({detector: scores}, torch.where(rows, others.flags, self.flags))

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
        rows: Tensor | None = None,
    ) -> None:
        self.deciding = DEFAULT_DETECTOR
        self._rows = torch.arange(len(test)) if rows is None else rows
        self._seed, self._heads = config.seed, heads
        names = tuple(dict.fromkeys((*config.sample_detectors, self.deciding)))
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

    def _scores(self, tuples: FeatureTuples, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Score by all or some detectors, each component once: the deciding one is made of others."""
        components: dict[str, Tensor] = {}
        scores: dict[str, Tensor] = {}
        for name in names or self._detectors:
            detector = self._detectors[name]
            with measure_cost() as cost:
                if isinstance(detector, PlatonicDetector):
                    missing = [member for member in detector.members if member not in components]
                    components |= scores_of(self._heads, tuples, missing)
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

    def score(self, tuples: FeatureTuples, names: Sequence[str] | None = None) -> Scored:
        """Return the scores of tuples, and which of them raise the alarm.

        Args:
            tuples: With images where one of the detectors looks at them.
            names: Detectors, the deciding one among them; all by default.
        """
        scores = self._scores(tuples, names)
        return Scored(scores, scores[self.deciding] > self._values[self.deciding])

    def against_clean(self, scored: Scored, positive: str, name: str = "auroc") -> dict[str, Metric]:
        """Return detector -> AUROC of clean test images against ``scored``."""
        return {
            detector: auroc_metric(self.clean.scores[detector], scores, positive=positive, name=name)
            for detector, scores in scored.scores.items()
        }

    def paired(self, scored: Scored, rows: Tensor, detector: str) -> PairedScores:
        """Return one detector's scores of clean test images beside those of some of them changed.

        Args:
            scored: Of the changed images.
            rows: Of the changed images in the source, ``[m]``.
            detector: Its name.
        """
        return PairedScores.of(self.clean.scores[detector], self._rows, scored.scores[detector], rows)

    def against_themselves(self, scored: Scored, rows: Tensor, positive: str) -> dict[str, Metric]:
        """Return detector -> AUROC of clean test images against some of them changed.

        Args:
            scored: Of the changed images.
            rows: Of the changed images in the source, ``[m]``.
            positive: What they are called.
        """
        return {
            detector: paired_auroc_metric(self.paired(scored, rows, detector), positive=positive)
            for detector in scored.scores
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
