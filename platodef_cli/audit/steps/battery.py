"""What the changes of a battery do to the suspect, and to the references."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from platodef_cli.audit.state import AuditState
from platodef_cli.audit.steps.samples import Features, Labelled
from platodef_cli.audit.steps.scoring import CalibratedDefences
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.metrics.backdoor import accuracy, concentration
from platodef_cli.progress import SILENT, Progress
from platodef_cli.records import Metric, ProbeRecord
from platodef_cli.search.resampling import collapse_draws, interval_of, mean_draws
from platodef_cli.search.statistics import CleanStatistics, Effect, effect, shifts_of
from platodef_cli.triggers.battery import BatteryItem, battery


@dataclass(frozen=True)
class _Collapses:
    """What one change does to every encoder.

    Attributes:
        own: Effect on the suspect.
        draws: Resampled collapses of the suspect, float64 ``[R]``.
        shifts: Resampled mean shifts of the suspect, float64 ``[R]``.
        references: Collapse of every reference.
        reference_draws: Their resampled collapses, ``[M, R]``.
        reference_shifts: Mean shift of every reference.
        reference_shift_draws: Their resampled mean shifts, ``[M, R]``.
        count: Number of images.
    """

    own: Effect
    draws: Tensor
    shifts: Tensor
    references: dict[str, float]
    reference_draws: Tensor
    reference_shifts: dict[str, float]
    reference_shift_draws: Tensor
    count: int


def try_battery(state: AuditState) -> tuple[ProbeRecord, ...]:
    """Return what every known trigger and control does to the suspect and to the references."""
    return tuple(
        try_changes(
            battery(state.config.battery, state.config.plugins),
            state.features,
            state.statistics,
            state.defences,
            state.labelled,
            progress=state.recorder,
        )
    )


def try_changes(
    items: Sequence[BatteryItem],
    features: Features,
    statistics: Mapping[str, CleanStatistics],
    defences: CalibratedDefences,
    labelled: Labelled | None,
    kind: Literal["found"] | None = None,
    progress: Progress = SILENT,
) -> list[ProbeRecord]:
    """Return what every item did; ``kind`` overrides the items' kinds (``found``).

    Collapses have bootstrap intervals over the images, resampled alike for every encoder and change, so
    that their distances have paired ones.
    """
    with progress.step("judging triggers", 2 * len(items)) as task:
        effects = []
        for item in items:
            effects.append(_collapses(item, features, statistics))
            task.advance(note=item.variant.name)
        controls = [entry for item, entry in zip(items, effects, strict=True) if item.kind == "control"]
        records = []
        for item, entry in zip(items, effects, strict=True):
            gap = _gap(entry, [other for other in controls if other is not entry]) if kind is None else None
            records.append(_record(item, entry, gap, features, defences, labelled, kind))
            task.advance(note=item.variant.name)
    return records


def _record(
    item: BatteryItem,
    entry: _Collapses,
    gap: Metric | None,
    features: Features,
    defences: CalibratedDefences,
    labelled: Labelled | None,
    kind: Literal["found"] | None,
) -> ProbeRecord:
    changed, rows = features.samples(None, item.variant.name)
    scored = defences.score(changed)
    return ProbeRecord(
        name=item.variant.name,
        family=item.family,
        kind=kind or item.kind,
        parameters=item.parameters,
        auroc=defences.against_themselves(scored, rows, "triggered" if item.kind == "trigger" else "changed"),
        flagged=scored.flagged,
        collapse=collapse_metric(entry.own.collapse, len(rows), entry.draws),
        control_collapse=entry.references,
        gap=gap,
        effect=_shift(entry),
        control_shift=entry.reference_shifts,
        shift_gap=_shift_gap(entry),
        suspicious=False,
        **_with_labels(changed, rows, defences, labelled),
    )


def _collapses(
    item: BatteryItem, features: Features, statistics: Mapping[str, CleanStatistics]
) -> _Collapses:
    changed, rows = features.tuples(None, item.variant.name)
    clean, _ = features.tuples(tuple(rows.tolist()))
    suspect = statistics[features.suspect]
    names = features.controls
    effects = {
        name: effect(statistics[name], clean.references[name], changed.references[name]) for name in names
    }
    shifts = [shifts_of(statistics[name], clean.references[name], changed.references[name]) for name in names]
    return _Collapses(
        own=effect(suspect, clean.source, changed.source),
        draws=collapse_draws(suspect.standardise(changed.source)),
        shifts=mean_draws(shifts_of(suspect, clean.source, changed.source)),
        references={name: found.collapse for name, found in effects.items()},
        reference_draws=torch.stack(
            [collapse_draws(statistics[name].standardise(changed.references[name])) for name in names]
        ),
        reference_shifts={name: found.shift for name, found in effects.items()},
        reference_shift_draws=torch.stack([mean_draws(values) for values in shifts]),
        count=len(rows),
    )


def _gap(entry: _Collapses, controls: Sequence[_Collapses]) -> Metric:
    """Return the collapse beyond what any reference, and any encoder under another benign change, reaches.

    A benign change that collapses the suspect and no reference may be its trigger, so that a control counts
    only as far as a reference collapses under it too.
    """
    shared = [min(control.own.collapse, max(control.references.values())) for control in controls]
    others = max((*entry.references.values(), *shared), default=0.0)
    rows = torch.cat(
        [
            entry.reference_draws,
            *(torch.minimum(c.draws, c.reference_draws.amax(dim=0))[None] for c in controls),
        ]
    )
    value = entry.own.collapse - others
    return Metric(
        name="collapse beyond references and controls",
        value=value,
        interval=interval_of(entry.draws - rows.amax(dim=0), value),
        direction="higher is more suspicious",
        n_positive=entry.count,
        unit="cosine",
    )


def _shift(entry: _Collapses) -> Metric:
    """Return how far the suspect's features move from those of the clean images."""
    return Metric(
        name="shift",
        value=entry.own.shift,
        interval=interval_of(entry.shifts, entry.own.shift),
        direction="higher is more suspicious",
        n_positive=entry.count,
    )


def _shift_gap(entry: _Collapses) -> Metric:
    """Return how much farther than those of any reference."""
    value = entry.own.shift - max(entry.reference_shifts.values(), default=0.0)
    return Metric(
        name="shift beyond the references",
        value=value,
        interval=interval_of(entry.shifts - entry.reference_shift_draws.amax(dim=0), value),
        direction="higher is more suspicious",
        n_positive=entry.count,
    )


def collapse_metric(value: float, count: int, draws: Tensor) -> Metric:
    """Return a collapse as a metric, with the interval of its resampled values ``[R]``."""
    return Metric(
        name="collapse",
        value=value,
        interval=interval_of(draws, value),
        direction="higher is more suspicious",
        n_positive=count,
        unit="cosine",
    )


def _with_labels(
    changed: FeatureTuples, rows: Tensor, defences: CalibratedDefences, labelled: Labelled | None
) -> dict[str, Any]:
    if labelled is None:
        return {}
    labels = labelled.labels[rows]
    predicted = labelled.probe.predict(changed.source)
    share, target = concentration(predicted, labels)
    purified = labelled.probe.predict(defences.purify(changed))
    return {
        "concentration": share,
        "concentration_class": labelled.name(target),
        "poisoned_accuracy": accuracy(predicted, labels, name="poisoned_accuracy"),
        "purified_accuracy": accuracy(purified, labels, name="purified_accuracy"),
    }
