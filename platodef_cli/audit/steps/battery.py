"""What the changes of a battery do to the suspect, and to the references."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from platodef_cli.audit.policy.limits import Policy
from platodef_cli.audit.state import AuditState
from platodef_cli.audit.steps.power import attacked, smallest_share
from platodef_cli.audit.steps.samples import Features, Labelled
from platodef_cli.audit.steps.scoring import CalibratedDefences, Scored
from platodef_cli.audit.verdict.battery import would_accuse
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.metrics.backdoor import accuracy, concentration
from platodef_cli.progress import SILENT, Progress
from platodef_cli.records import Metric, ProbeRecord
from platodef_cli.search.resampling import collapse_draws, interval_of, mean_draws, variance_draws
from platodef_cli.search.statistics import CleanStatistics, Effect, effect, shifts_of
from platodef_cli.triggers.battery import BatteryItem, battery


@dataclass(frozen=True)
class _Collapses:
    """What one change does to every encoder.

    Attributes:
        own: Effect on the suspect.
        draws: Resampled collapses of the suspect, float64 ``[R]``.
        lost: Resampled shares of its variance that are lost, float64 ``[R]``.
        shifts: Resampled mean shifts of the suspect, float64 ``[R]``.
        references: Collapse of every reference.
        reference_draws: Their resampled collapses, ``[M, R]``.
        reference_lost: Share of variance that every reference loses.
        reference_lost_draws: Their resampled shares, ``[M, R]``.
        reference_shifts: Mean shift of every reference.
        reference_shift_draws: Their resampled mean shifts, ``[M, R]``.
        count: Number of images.
    """

    own: Effect
    draws: Tensor
    lost: Tensor
    shifts: Tensor
    references: dict[str, float]
    reference_draws: Tensor
    reference_lost: dict[str, float]
    reference_lost_draws: Tensor
    reference_shifts: dict[str, float]
    reference_shift_draws: Tensor
    count: int

    def of(self, suspect: CleanStatistics, clean: Tensor, changed: Tensor) -> "_Collapses":
        """Return the same for another suspect with features ``[n, D]``; the references stay."""
        return replace(
            self,
            own=effect(suspect, clean, changed),
            draws=collapse_draws(suspect.standardise(changed)),
            lost=_lost_draws(suspect, changed),
            shifts=mean_draws(shifts_of(suspect, clean, changed)),
        )


@dataclass(frozen=True)
class _Surroundings:
    """What a suspect under one change has to stand out from.

    Attributes:
        collapse: Largest collapse of references and controls, which counts as their own.
        collapse_draws: The same, resampled, float64 ``[R]``.
        shift: Largest mean shift of the references.
        shift_draws: The same, resampled, float64 ``[R]``.
    """

    collapse: float
    collapse_draws: Tensor
    shift: float
    shift_draws: Tensor


def try_battery(state: AuditState) -> tuple[ProbeRecord, ...]:
    """Return what every known trigger and control does to the suspect and to the references."""
    return tuple(
        try_changes(
            battery(state.config.battery, state.config.plugins),
            state.features,
            state.statistics,
            state.defences,
            state.labelled,
            state.config.limits,
            progress=state.recorder,
        )
    )


def try_changes(
    items: Sequence[BatteryItem],
    features: Features,
    statistics: Mapping[str, CleanStatistics],
    defences: CalibratedDefences,
    labelled: Labelled | None,
    policy: Policy,
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
            others = _surroundings(entry, [other for other in controls if other is not entry])
            changed, rows = features.samples(None, item.variant.name)
            scored = defences.score(changed)
            record = _record(item, entry, others, scored, rows, defences, kind)
            more = _with_labels(changed, rows, defences, labelled)
            if record.kind == "trigger":
                clean, _ = features.tuples(tuple(rows.tolist()))
                suspect = statistics[features.suspect]
                more["detectable"] = _power(
                    item, entry, others, clean, changed, scored, rows, suspect, defences, policy
                )
            records.append(record.model_copy(update=more))
            task.advance(note=item.variant.name)
    return records


def _record(
    item: BatteryItem,
    entry: _Collapses,
    others: _Surroundings,
    scored: Scored,
    rows: Tensor,
    defences: CalibratedDefences,
    kind: Literal["found"] | None = None,
) -> ProbeRecord:
    return ProbeRecord(
        name=item.variant.name,
        family=item.family,
        kind=kind or item.kind,
        parameters=item.parameters,
        auroc=defences.against_themselves(scored, rows, "triggered" if item.kind == "trigger" else "changed"),
        flagged=scored.flagged,
        collapse=_drawn("collapse", entry.own.collapse, entry.draws, len(rows), "cosine"),
        control_collapse=entry.references,
        gap=_gap(entry, others) if kind is None else None,
        lost=_lost(entry),
        control_lost=entry.reference_lost,
        lost_gap=_lost_gap(entry),
        effect=_shift(entry),
        control_shift=entry.reference_shifts,
        shift_gap=_shift_gap(entry, others),
        suspicious=False,
    )


def _power(
    item: BatteryItem,
    entry: _Collapses,
    others: _Surroundings,
    clean: FeatureTuples,
    changed: FeatureTuples,
    scored: Scored,
    rows: Tensor,
    suspect: CleanStatistics,
    defences: CalibratedDefences,
    policy: Policy,
) -> Metric:
    """Return the weakest attack under a trigger that the rules would accuse."""
    decides = defences.deciding
    # only the deciding detector: it never looks at images, and an attack made on features has none
    on_target = defences.score(attacked(clean.source, changed, 1.0)[0], (decides,))

    def found(share: float) -> bool:
        tuples, hit = attacked(clean.source, changed, share)
        effects = entry.of(suspect, clean.source, tuples.source)
        # every image is scored by itself, so that the scores of a smaller attack are among those
        probe = _record(item, effects, others, scored.where(hit, on_target, decides), rows, defences)
        return would_accuse(probe, policy, decides)

    return Metric(
        name="smallest attack success that would be found",
        value=smallest_share(found),
        n_positive=len(rows),
        unit="fraction",
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
        lost=_lost_draws(suspect, changed.source),
        shifts=mean_draws(shifts_of(suspect, clean.source, changed.source)),
        references={name: found.collapse for name, found in effects.items()},
        reference_draws=torch.stack(
            [collapse_draws(statistics[name].standardise(changed.references[name])) for name in names]
        ),
        reference_lost={name: 1 - found.retained for name, found in effects.items()},
        reference_lost_draws=torch.stack(
            [_lost_draws(statistics[name], changed.references[name]) for name in names]
        ),
        reference_shifts={name: found.shift for name, found in effects.items()},
        reference_shift_draws=torch.stack([mean_draws(values) for values in shifts]),
        count=len(rows),
    )


def _surroundings(entry: _Collapses, controls: Sequence[_Collapses]) -> _Surroundings:
    """Return what an attack under a change has to stand out from.

    A benign change that collapses the suspect and no reference may be its trigger, so that a control counts
    only as far as a reference collapses under it too.
    """
    shared = [min(control.own.collapse, max(control.references.values())) for control in controls]
    rows = torch.cat(
        [
            entry.reference_draws,
            *(torch.minimum(c.draws, c.reference_draws.amax(dim=0))[None] for c in controls),
        ]
    )
    return _Surroundings(
        collapse=max((*entry.references.values(), *shared), default=0.0),
        collapse_draws=rows.amax(dim=0),
        shift=max(entry.reference_shifts.values(), default=0.0),
        shift_draws=entry.reference_shift_draws.amax(dim=0),
    )


def _gap(entry: _Collapses, others: _Surroundings) -> Metric:
    """Return the collapse beyond what any reference, and any encoder under another benign change, reaches."""
    value, draws = entry.own.collapse - others.collapse, entry.draws - others.collapse_draws
    return _drawn("collapse beyond references and controls", value, draws, entry.count, "cosine")


def _lost_draws(statistics: CleanStatistics, changed: Tensor) -> Tensor:
    return 1 - variance_draws(statistics.standardise(changed)) / statistics.variance


def _lost(entry: _Collapses) -> Metric:
    """Return the share of the clean variance of the suspect's features that is lost under a change."""
    return _drawn("lost variance", 1 - entry.own.retained, entry.lost, entry.count, "fraction")


def _lost_gap(entry: _Collapses) -> Metric:
    """Return how much more of it than any reference loses."""
    value = 1 - entry.own.retained - max(entry.reference_lost.values())
    draws = entry.lost - entry.reference_lost_draws.amax(dim=0)
    return _drawn("lost variance beyond the references", value, draws, entry.count, "fraction")


def _shift(entry: _Collapses) -> Metric:
    """Return how far the suspect's features move from those of the clean images."""
    return _drawn("shift", entry.own.shift, entry.shifts, entry.count)


def _shift_gap(entry: _Collapses, others: _Surroundings) -> Metric:
    """Return how much farther than those of any reference."""
    value, draws = entry.own.shift - others.shift, entry.shifts - others.shift_draws
    return _drawn("shift beyond the references", value, draws, entry.count)


def _drawn(name: str, value: float, draws: Tensor, count: int, unit: str | None = None) -> Metric:
    """Return a metric with the interval of its resampled values ``[R]``."""
    return Metric(
        name=name,
        value=value,
        interval=interval_of(draws, value),
        direction="higher is more suspicious",
        n_positive=count,
        unit=unit,
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
