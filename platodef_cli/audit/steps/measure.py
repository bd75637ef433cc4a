"""What an audit measures besides its probes: alignment, histograms, ROC curves, purified accuracies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from platodef_cli.audit.state import AuditState
from platodef_cli.audit.steps.encoder_level import encoder_statistics
from platodef_cli.audit.steps.found import FoundTriggers
from platodef_cli.audit.steps.pictures import suspicious_images
from platodef_cli.audit.steps.scoring import Scored
from platodef_cli.audit.steps.slices import find_slices
from platodef_cli.audit.verdict.indicators import Indicators
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.metrics.alignment import alignment_records, alignment_share
from platodef_cli.metrics.backdoor import concentration, probe_accuracy
from platodef_cli.metrics.detection import roc_curve
from platodef_cli.metrics.guarantee import guarantee_metrics, mismatched
from platodef_cli.records import (
    AlignmentRecord,
    Histogram,
    Metric,
    ProbeAccuracy,
    ProbeRecord,
    RocCurve,
    SliceRecord,
    SuspiciousImage,
)

_ALIGNMENT_MOST = 2000  # images; the null needs no more


@dataclass(frozen=True)
class OtherMeasurements:
    """What an audit measures besides its probes.

    Attributes:
        metrics: Matched AUROCs, guarantees, encoder-level statistics.
        alignment: CKA and CKNNA of every pair of encoders.
        histograms: Of the energy and the deciding detector.
        roc: ROC curves of every detector.
        slices: Groups of clean images.
        suspicious_images: Clean images with the highest scores.
        accuracy: Accuracies under the worst trigger, where there are labels.
        not_applicable: Detector that was asked for -> why it does not apply.
    """

    metrics: tuple[Metric, ...]
    alignment: tuple[AlignmentRecord, ...]
    histograms: tuple[Histogram, ...]
    roc: tuple[RocCurve, ...]
    slices: tuple[SliceRecord, ...]
    suspicious_images: tuple[SuspiciousImage, ...]
    accuracy: tuple[ProbeAccuracy, ...]
    not_applicable: Mapping[str, str]


@dataclass(frozen=True)
class Alignment:
    """How the encoders agree on clean images.

    Attributes:
        pairs: CKA and CKNNA of every pair.
        share: CKNNA of the suspect as a share of the references' own; None where there is one reference.
    """

    pairs: tuple[AlignmentRecord, ...]
    share: Metric | None


def measure_others(
    state: AuditState, indicators: Indicators, found: FoundTriggers, alignment: Alignment
) -> OtherMeasurements:
    """Measure the heads, every detector under the worst trigger, and encoder-level statistics."""
    shares = () if alignment.share is None else (alignment.share,)
    with state.recorder.step("measuring heads", 2) as task:
        wrong = state.defences.score(mismatched(state.test, state.config.seed))
        task.advance()
        guarantees = guarantee_metrics(state.heads, state.test, state.config.seed)
        task.advance()
    matched = state.defences.against_clean(wrong, "mismatched", "matched against mismatched")
    named = [m.model_copy(update={"name": f"{name}: {m.name}"}) for name, m in matched.items()]
    about_encoders, not_applicable = encoder_statistics(state)
    worst = worst_of((*indicators.marked(found.probes), *indicators.triggers))
    features = found.features if worst.kind == "found" else state.features
    changed, rows = features.samples(None, worst.name)
    scored = state.defences.score(changed)
    return OtherMeasurements(
        metrics=(*named, *guarantees, *shares, *about_encoders),
        alignment=alignment.pairs,
        histograms=histograms_of(state, wrong, worst, scored),
        roc=roc_curves(state, wrong, worst, scored),
        slices=find_slices(state),
        suspicious_images=suspicious_images(state),
        accuracy=accuracies(state, worst, changed, scored, rows),
        not_applicable=not_applicable,
    )


def align(state: AuditState) -> Alignment:
    """Compare the encoders on clean test images."""
    few = state.test.select(torch.arange(min(len(state.test), _ALIGNMENT_MOST)))
    spaces = {state.features.suspect: few.source, **few.references}
    return Alignment(
        alignment_records(spaces, seed=state.config.seed, progress=state.recorder),
        # sentences agree with images coarsely only: they have no vote in whether the suspect is an encoder
        alignment_share(
            few.source, [few.references[name] for name in state.features.controls], seed=state.config.seed
        ),
    )


def worst_of(probes: Sequence[ProbeRecord]) -> ProbeRecord:
    """Return the trigger with the strongest effect: suspicious ones first, known before found."""
    known = [probe for probe in probes if probe.kind == "trigger"]
    suspicious = [probe for probe in known if probe.suspicious] or [p for p in probes if p.suspicious]
    return max(suspicious or known, key=lambda probe: probe.collapse.value or 0.0)


def histograms_of(
    state: AuditState, wrong: Scored, worst: ProbeRecord, changed: Scored
) -> tuple[Histogram, ...]:
    """Return histograms of the energy and the deciding detector: clean, mismatched, worst trigger."""
    names = tuple(dict.fromkeys(name for name in ("energy", state.defences.deciding) if name in worst.auroc))
    return state.defences.histograms({"mismatched": wrong, worst.name: changed}, names)


def roc_curves(state: AuditState, wrong: Scored, worst: ProbeRecord, changed: Scored) -> tuple[RocCurve, ...]:
    """Return every detector's ROC curves: clean against mismatched tuples, and against the worst trigger."""
    groups = (("mismatched", wrong, "mismatched"), (worst.name, changed, "triggered"))
    return tuple(
        roc_curve(
            state.defences.clean.scores[name],
            scored.scores[name],
            detector=name,
            group=group,
            positive=positive,
        )
        for group, scored, positive in groups
        for name in worst.auroc
    )


def accuracies(
    state: AuditState, worst: ProbeRecord, changed: FeatureTuples, scored: Scored, rows: Tensor
) -> tuple[ProbeAccuracy, ...]:
    """Return CA, PA and ASR under the worst trigger: no defence, flagged only purified, all purified.

    There are none without labels, nor where the probed images are all of the class that is predicted.
    """
    if state.labelled is None:
        return ()
    probe, labels = state.labelled.probe, state.labelled.labels
    # the class that the undefended features concentrate on is the target of all rows
    target = concentration(probe.predict(changed.source), labels[rows])[1]
    if target is None:
        return ()
    undefended = (state.test.source, changed.source)
    with state.recorder.step("purifying", len(state.test) + len(changed)) as task:
        repaired = []
        for tuples in (state.test, changed):
            repaired.append(state.defences.purify(tuples))
            task.advance(len(tuples))
    purified = (repaired[0], repaired[1])
    flags = (state.defences.clean.flags, scored.flags)
    flagged = tuple(
        torch.where(mask[:, None], clean, own)
        for mask, clean, own in zip(flags, purified, undefended, strict=True)
    )
    baseline = probe.predict(state.test.source)
    name = state.config.purifier
    ways = {"none": undefended, f"{name}, flagged only": flagged, f"{name}, all": purified}
    rows_of = []
    for defence, (clean, triggered) in ways.items():
        entry = probe_accuracy(
            defence=defence,
            trigger=worst.name,
            clean_predictions=probe.predict(clean),
            triggered_predictions=probe.predict(triggered),
            clean_labels=labels[state.rows],
            triggered_labels=labels[rows],
            target=target,
            baseline_predictions=baseline,
            class_names=state.labelled.classes,
        )
        rows_of.append(entry)
    return tuple(rows_of)
