"""One suspect under one trigger: every detector and purifier that is registered."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from platodef_cli.bench.evaluation import Costs, Defended, EvaluationData, Method, kept_cosine, numbers_of
from platodef_cli.bench.feature_store import FeatureStore
from platodef_cli.bench.results import Plot
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
from platodef_cli.defences.zip import PipelineDiffusion
from platodef_cli.errors import NotApplicable
from platodef_cli.features.access import EncoderAccess
from platodef_cli.features.interface import Samples
from platodef_cli.heads.heads import Heads
from platodef_cli.metrics.costs import measure_cost
from platodef_cli.metrics.detection import auroc_metric, histogram, roc_curve
from platodef_cli.progress import SILENT, Progress

NONE, FLAGGED = "none", "flagged-only"
RATE = 0.05
CURVES = (DEFAULT_DETECTOR, "energy", "ridge", "mahalanobis", "knn")


def defend(
    feature_store: FeatureStore,
    suspect: str,
    evaluation: EvaluationData,
    heads: Heads,
    *,
    seed: int,
    detectors: Sequence[str] | None = None,
    purifiers: Sequence[str] | None = None,
    published: bool = False,
    diffusion: Path | None = None,
    title: str = "",
    progress: Progress = SILENT,
) -> Defended:
    """Try every method on one evaluation.

    The methods of the result are named ``none``, ``detector NAME``, ``detector NAME published``, ``purifier
    NAME`` and ``flagged-only``.

    Args:
        feature_store: Gives the suspect to methods that question it.
        suspect: Its name.
        evaluation: Its samples.
        heads: Fitted on ``evaluation.fit``.
        seed: Of methods that draw.
        detectors: Names; None: all that are registered.
        purifiers: Names; None: all that are registered.
        published: Try the published modes of the detectors as well, where they differ.
        diffusion: Folder of an unconditional diffusers pipeline for ``zip``; None: it trains a small one.
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
            if published and DETECTORS.load(name).published:
                methods[published_key(name)] = _detect_published(
                    name, heads, evaluation, access, seed, progress
                )
            task.advance(note=name)
        for name in cleaners:
            methods[f"purifier {name}"] = _purify(name, heads, evaluation, access, seed, diffusion, progress)
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
        parts = (evaluation.calibration, evaluation.test, evaluation.attacked)
        with measure_cost() as fitting:
            detector = make_detector(name, heads, bank, seed=seed, model=access, progress=progress)
        with measure_cost() as scoring:
            calibration, clean, attacked = (detector.score(part) for part in parts)
    except NotApplicable as error:
        return Method(numbers={}, note=str(error))
    scores[name] = (calibration, clean, attacked)
    return Method(
        numbers={"AUC": of_metric(auroc_metric(clean, attacked))},
        costs=Costs.of(fitting, scoring, sum(map(len, parts))),
    )


def published_key(detector: str) -> str:
    """Return the name of a detector's published mode among the methods."""
    return f"detector {detector} published"


def _detect_published(
    name: str,
    heads: Heads,
    evaluation: EvaluationData,
    access: EncoderAccess,
    seed: int,
    progress: Progress,
) -> Method:
    """Score clean and triggered test samples in one batch, mixed: some take the batch as their reference."""
    both = _joined(evaluation.test, evaluation.attacked)
    order = torch.randperm(len(both), generator=torch.Generator().manual_seed(seed))
    try:
        with measure_cost() as fitting:
            detector = make_detector(
                name, heads, evaluation.fit, mode="published", seed=seed, model=access, progress=progress
            )
        with measure_cost() as scoring:
            mixed = detector.score(both.select(order))
    except NotApplicable as error:
        return Method(numbers={}, note=str(error))
    scores = torch.empty_like(mixed)
    scores[order] = mixed
    clean, attacked = scores[: len(evaluation.test)], scores[len(evaluation.test) :]
    return Method(
        numbers={"AUC": of_metric(auroc_metric(clean, attacked))},
        costs=Costs.of(fitting, scoring, len(both)),
    )


def _joined(first: Samples, second: Samples) -> Samples:
    """Return both one after the other, without labels."""
    assert first.images is not None
    assert second.images is not None
    return Samples(
        torch.cat([first.source, second.source]),
        {name: torch.cat([first.references[name], second.references[name]]) for name in first.references},
        images=torch.cat([first.images, second.images]),
    )


def _wants_images(kind: object) -> bool:
    return any(access.value in ("images", "internals", "gradients") for access in getattr(kind, "needs", ()))


def _purify(
    name: str,
    heads: Heads,
    evaluation: EvaluationData,
    access: EncoderAccess,
    seed: int,
    diffusion: Path | None,
    progress: Progress,
) -> Method:
    try:
        with measure_cost() as fitting:
            purifier = make_purifier(
                name,
                heads,
                clean=evaluation.fit,
                model=access,
                seed=seed,
                diffusion=PipelineDiffusion(diffusion) if diffusion and name == "zip" else None,
                progress=progress,
            )
        with measure_cost() as purifying:
            clean, changed = cleaned(purifier, evaluation, seed)
    except NotApplicable as error:
        return Method(numbers={}, note=str(error))
    return Method(
        numbers={
            **numbers_of(evaluation, clean, changed),
            "CR": kept_cosine(changed, evaluation.test.source),
        },
        costs=Costs.of(fitting, purifying, len(evaluation.test) + len(evaluation.changed)),
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


def inapplicable(cells: Sequence[Defended]) -> tuple[str, ...]:
    """Return why methods have no number, one line per method and reason."""
    counts: dict[str, int] = {}
    for cell in cells:
        for name, method in cell.methods.items():
            if method.note:
                counts[f"{name}: {method.note}"] = counts.get(f"{name}: {method.note}", 0) + 1
    return tuple(f"not applicable in {count} of {len(cells)} cells: {text}" for text, count in counts.items())
