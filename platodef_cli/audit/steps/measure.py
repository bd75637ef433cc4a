"""What an audit measures besides its probes: alignment, histograms, ROC curves, purified accuracies."""

from collections.abc import Sequence

import torch
from torch import Tensor

from platodef_cli.audit.state import AuditState
from platodef_cli.audit.steps.scoring import Scored
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.metrics.alignment import alignment_records
from platodef_cli.metrics.backdoor import concentration, probe_accuracy
from platodef_cli.metrics.detection import roc_curve
from platodef_cli.records import AlignmentRecord, Histogram, ProbeAccuracy, ProbeRecord, RocCurve

_ALIGNMENT_MOST = 2000  # images; the null needs no more


def alignment_of(run: AuditState) -> tuple[AlignmentRecord, ...]:
    """Return CKA and CKNNA of every pair of encoders on clean test images, with the permutation null."""
    few = run.test.select(torch.arange(min(len(run.test), _ALIGNMENT_MOST)))
    spaces = {run.features.suspect: few.source, **few.references}
    return alignment_records(spaces, seed=run.config.seed, progress=run.recorder)


def worst_of(probes: Sequence[ProbeRecord]) -> ProbeRecord:
    """Return the trigger with the strongest effect: suspicious ones first, known before found."""
    known = [probe for probe in probes if probe.kind == "trigger"]
    suspicious = [probe for probe in known if probe.suspicious] or [p for p in probes if p.suspicious]
    return max(suspicious or known, key=lambda probe: probe.collapse.value or 0.0)


def histograms_of(
    run: AuditState, wrong: Scored, worst: ProbeRecord, changed: Scored
) -> tuple[Histogram, ...]:
    """Return histograms of the energy and the deciding detector: clean, mismatched, worst trigger."""
    names = tuple(dict.fromkeys(name for name in ("energy", run.judge.deciding) if name in worst.auroc))
    return run.judge.histograms({"mismatched": wrong, worst.name: changed}, names)


def roc_curves(run: AuditState, wrong: Scored, worst: ProbeRecord, changed: Scored) -> tuple[RocCurve, ...]:
    """Return every detector's ROC curves: clean against mismatched tuples, and against the worst trigger."""
    groups = (("mismatched", wrong, "mismatched"), (worst.name, changed, "triggered"))
    return tuple(
        roc_curve(
            run.judge.clean.scores[name], scored.scores[name], detector=name, group=group, positive=positive
        )
        for group, scored, positive in groups
        for name in worst.auroc
    )


def accuracies(
    run: AuditState, worst: ProbeRecord, changed: FeatureTuples, scored: Scored, rows: Tensor
) -> tuple[ProbeAccuracy, ...]:
    """Return CA, PA and ASR under the worst trigger: no defence, flagged only purified, all purified.

    There are none without labels, nor where the probed images are all of the class that is predicted.
    """
    if run.labelled is None:
        return ()
    probe, labels = run.labelled.probe, run.labelled.labels
    # the class that the undefended features concentrate on is the target of all rows
    target = concentration(probe.predict(changed.source), labels[rows])[1]
    if target is None:
        return ()
    undefended = (run.test.source, changed.source)
    with run.recorder.step("purifying", len(run.test) + len(changed)) as task:
        repaired = []
        for tuples in (run.test, changed):
            repaired.append(run.judge.purify(tuples))
            task.advance(len(tuples))
    purified = (repaired[0], repaired[1])
    flags = (run.judge.clean.flags, scored.flags)
    flagged = tuple(
        torch.where(mask[:, None], clean, own)
        for mask, clean, own in zip(flags, purified, undefended, strict=True)
    )
    baseline = probe.predict(run.test.source)
    name = run.config.purifier
    ways = {"none": undefended, f"{name}, flagged only": flagged, f"{name}, all": purified}
    rows_of = []
    for defence, (clean, triggered) in ways.items():
        entry = probe_accuracy(
            defence=defence,
            trigger=worst.name,
            clean_predictions=probe.predict(clean),
            triggered_predictions=probe.predict(triggered),
            clean_labels=labels[run.rows],
            triggered_labels=labels[rows],
            target=target,
            baseline_predictions=baseline,
            class_names=run.labelled.classes,
        )
        rows_of.append(entry)
    return tuple(rows_of)
