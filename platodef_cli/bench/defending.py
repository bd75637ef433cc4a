"""One suspect under one trigger: every detector and purifier that is registered."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from pydantic import Field
from torch import Tensor

from platodef_cli.bench.feature_store import FeatureStore
from platodef_cli.bench.results import Plot, Value
from platodef_cli.bench.statistics import of_metric
from platodef_cli.defences import (
    DEFAULT_DETECTOR,
    DEFAULT_PURIFIER,
    DETECTORS,
    PURIFIERS,
    make_detector,
    make_purifier,
    purify_flagged,
)
from platodef_cli.defences.calibrate import conformal_threshold
from platodef_cli.defences.interface import Purifier
from platodef_cli.errors import NotApplicable
from platodef_cli.features.access import EncoderAccess
from platodef_cli.features.interface import Samples
from platodef_cli.heads.heads import Heads
from platodef_cli.metrics.backdoor import accuracy, attack_success
from platodef_cli.metrics.detection import auroc_metric, histogram, roc_curve
from platodef_cli.progress import SILENT, Progress
from platodef_cli.records import Record

NONE, FLAGGED = "none", "flagged-only"
RATE = 0.05
CURVES = (DEFAULT_DETECTOR, "energy", "ridge", "mahalanobis", "knn")


class Method(Record):
    """What one method reaches; a number is missing where the method does not give it."""

    numbers: dict[str, Value] = Field(description="CA, PA, AUC, ASR, CR")
    note: str = Field("", description="why it does not apply")


class Defended(Record):
    """All methods on one suspect under one trigger."""

    methods: dict[str, Method]
    plot: Plot


class Classifier(Protocol):
    """What tells the class of a feature."""

    def predict(self, features: Tensor) -> Tensor:
        """Return the label ``[N]`` of each of ``features [N, D]``."""


@dataclass(frozen=True, eq=False)
class ZeroShot:
    """Names the class whose prompt is nearest by cosine.

    Attributes:
        prompts: Unit vectors ``[C, D]`` of the classes, in label order.
    """

    prompts: Tensor

    def predict(self, features: Tensor) -> Tensor:
        """Return the label ``[N]`` of each of ``features [N, D]``."""
        return (torch.nn.functional.normalize(features.float(), dim=1) @ self.prompts.T).argmax(1)


@dataclass(frozen=True, eq=False)
class EvaluationData:
    """The samples of one suspect.

    Attributes:
        fit: Clean samples that heads, probe and banks are fitted on.
        calibration: Clean samples that thresholds are calibrated on.
        test: Clean samples that are measured.
        changed: The test samples with the trigger, every class.
        target: Class of the backdoor; None for untargeted attacks, whose ASR is 1 - PA.
        probe: Classifier of features: a linear probe on the undefended ones, or for image-text attacks the
            class prompts, which is what these attacks lead astray.
    """

    fit: Samples
    calibration: Samples
    test: Samples
    changed: Samples
    target: int | None
    probe: Classifier

    @property
    def attacked(self) -> Samples:
        """The triggered samples that the backdoor has to move: those of other classes."""
        if self.target is None:
            return self.changed
        assert self.changed.labels is not None
        return self.changed.select(self.changed.labels != self.target)


def numbers_of(evaluation: EvaluationData, clean: Tensor, changed: Tensor) -> dict[str, Value]:
    """Return CA, PA and ASR of source features ``[N, D]`` of the test images and ``[T, D]`` triggered."""
    assert evaluation.test.labels is not None
    assert evaluation.changed.labels is not None
    predicted = evaluation.probe.predict(changed)
    pa = of_metric(accuracy(predicted, evaluation.changed.labels))
    if evaluation.target is None:
        asr = Value(
            value=None if pa.value is None else 1 - pa.value,
            low=None if pa.high is None else 1 - pa.high,
            high=None if pa.low is None else 1 - pa.low,
        )
    else:
        asr = of_metric(attack_success(predicted, evaluation.changed.labels, evaluation.target))
    return {
        "CA": of_metric(accuracy(evaluation.probe.predict(clean), evaluation.test.labels)),
        "PA": pa,
        "ASR": asr,
    }


def kept_cosine(purified: Tensor, clean: Tensor) -> Value:
    """Return CR: the mean cosine of purified features ``[N, D]`` to the clean ones of the same images."""
    cosines = torch.nn.functional.cosine_similarity(purified, clean, dim=1).double()
    mean, half = float(cosines.mean()), 1.96 * float(cosines.std()) / len(cosines) ** 0.5
    return Value(value=mean, low=mean - half, high=mean + half)


def defend(
    feature_store: FeatureStore,
    suspect: str,
    evaluation: EvaluationData,
    heads: Heads,
    *,
    seed: int,
    detectors: Sequence[str] | None = None,
    purifiers: Sequence[str] | None = None,
    title: str = "",
    progress: Progress = SILENT,
) -> Defended:
    """Try every method on one evaluation.

    Args:
        feature_store: Gives the suspect to methods that question it.
        suspect: Its name.
        evaluation: Its samples.
        heads: Fitted on ``evaluation.fit``.
        seed: Of methods that draw.
        detectors: Names; None: all that are registered.
        purifiers: Names; None: all that are registered.
        title: Of the plot.
        progress: Receives one advance per method.
    """
    names = DETECTORS.names() if detectors is None else tuple(detectors)
    cleaners = PURIFIERS.names() if purifiers is None else tuple(purifiers)
    access = EncoderAccess(feature_store.encoder(suspect))
    methods = {
        NONE: Method(numbers=numbers_of(evaluation, evaluation.test.source, evaluation.changed.source))
    }
    scores: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    with progress.step(f"defending {suspect}", len(names) + len(cleaners)) as task:
        for name in names:
            methods[f"detector {name}"] = _detect(name, heads, evaluation, access, seed, scores, progress)
            task.advance(note=name)
        for name in cleaners:
            methods[f"purifier {name}"] = _purify(name, heads, evaluation, access, seed, scores, progress)
            if name == DEFAULT_PURIFIER and DEFAULT_DETECTOR in scores:
                methods[FLAGGED] = _flagged(heads, evaluation, scores[DEFAULT_DETECTOR], seed)
            task.advance(note=name)
    return Defended(methods=methods, plot=_plot(title or suspect, scores))


def _detect(
    name: str,
    heads: Heads,
    evaluation: EvaluationData,
    access: EncoderAccess,
    seed: int,
    scores: dict[str, tuple[Tensor, Tensor, Tensor]],
    progress: Progress,
) -> Method:
    try:
        bank = evaluation.fit if DETECTORS.load(name).bank or _wants_images(DETECTORS.load(name)) else None
        detector = make_detector(name, heads, bank, seed=seed, model=access, progress=progress)
        scores[name] = (
            detector.score(evaluation.calibration),
            detector.score(evaluation.test),
            detector.score(evaluation.attacked),
        )
    except NotApplicable as error:
        return Method(numbers={}, note=str(error))
    _, clean, attacked = scores[name]
    return Method(numbers={"AUC": of_metric(auroc_metric(clean, attacked))})


def _wants_images(kind: object) -> bool:
    return any(access.value in ("images", "internals", "gradients") for access in getattr(kind, "needs", ()))


def _purify(
    name: str,
    heads: Heads,
    evaluation: EvaluationData,
    access: EncoderAccess,
    seed: int,
    scores: dict[str, tuple[Tensor, Tensor, Tensor]],
    progress: Progress,
) -> Method:
    try:
        purifier = make_purifier(
            name, heads, clean=evaluation.fit, model=access, seed=seed, progress=progress
        )
        clean, changed = cleaned(purifier, evaluation, seed)
    except NotApplicable as error:
        return Method(numbers={}, note=str(error))
    return Method(
        numbers={**numbers_of(evaluation, clean, changed), "CR": kept_cosine(changed, evaluation.test.source)}
    )


def cleaned(purifier: Purifier, evaluation: EvaluationData, seed: int) -> tuple[Tensor, Tensor]:
    """Return the purified features of the clean and of the triggered test images."""
    generator = torch.Generator().manual_seed(seed)
    clean = purifier.purify(evaluation.test, generator=generator)
    return clean, purifier.purify(evaluation.changed, generator=generator)


def _flagged(
    heads: Heads, evaluation: EvaluationData, scores: tuple[Tensor, Tensor, Tensor], seed: int
) -> Method:
    """Purify what the default detector flags at a false positive rate of 5 %."""
    threshold = conformal_threshold(scores[0], RATE)
    detector = make_detector(DEFAULT_DETECTOR, heads)
    purifier = make_purifier(DEFAULT_PURIFIER, heads)
    generator = torch.Generator().manual_seed(seed)
    clean = purify_flagged(purifier, evaluation.test, scores[1] > threshold, generator)
    changed = purify_flagged(
        purifier, evaluation.changed, detector.score(evaluation.changed) > threshold, generator
    )
    return Method(numbers=numbers_of(evaluation, clean, changed))


def _plot(title: str, scores: dict[str, tuple[Tensor, Tensor, Tensor]]) -> Plot:
    curves, histograms = [], []
    for name in CURVES:
        if name in scores:
            _, clean, attacked = scores[name]
            curves.append(roc_curve(clean, attacked, detector=name, group="triggered", most=40))
    for name in (DEFAULT_DETECTOR, "energy"):
        if name in scores:
            calibration, clean, attacked = scores[name]
            groups = {"clean": clean, "triggered": attacked}
            threshold = conformal_threshold(calibration, RATE)
            histograms.append(histogram(groups, bins=30, name=name, threshold=threshold, stretch="clean"))
    return Plot(title=title, histograms=tuple(histograms), curves=tuple(curves))
