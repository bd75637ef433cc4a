"""The sections of a report about what was tried on the suspect: triggers, controls, and what they did."""

from collections.abc import Iterable, Sequence

from platodef_cli.records import AuditReport, Metric, ProbeRecord
from platodef_cli.report.blocks import Block, Bullets, Column, Grid, Section
from platodef_cli.report.numbers import number, percent, short_interval

_MAX_DETECTORS_WITH_INTERVAL = 3


def _auroc_level(metrics: Iterable[Metric]) -> str:
    level = next((metric.interval.level for metric in metrics if metric.interval), 0.95)
    return f"{100 * level:.0f} %"


def _detectors(probes: Sequence[ProbeRecord]) -> list[str]:
    return list(dict.fromkeys(name for probe in probes for name in probe.auroc))


def _strength(probe: ProbeRecord) -> tuple[bool, float, float]:
    """Order probes of a family: suspicious first, then by the share flagged, then by AUROC."""
    best = max((metric.value or 0.0 for metric in probe.auroc.values()), default=0.0)
    return probe.suspicious, probe.flagged.value or 0.0, best


def worst_of_each_family(probes: Sequence[ProbeRecord]) -> list[tuple[ProbeRecord, int]]:
    """Return every suspicious probe and the strongest of each other family, with the family's size."""
    families: dict[str, list[ProbeRecord]] = {}
    for probe in probes:
        families.setdefault(probe.family, []).append(probe)
    strongest = []
    for family in families.values():
        ranked = sorted(family, key=_strength, reverse=True)
        keep = [probe for probe in ranked if probe.suspicious] or ranked[:1]
        strongest += [(probe, len(family)) for probe in keep]
    return strongest


def _probe_grids(
    probes: Sequence[ProbeRecord], detectors: Sequence[str], *, details: bool
) -> tuple[Block, ...]:
    chosen = [(probe, 1) for probe in probes] if details else worst_of_each_family(probes)
    if not chosen:
        return ()
    names = [
        probe.name if details or tried == 1 or probe.suspicious else f"{probe.name} (worst of {tried})"
        for probe, tried in chosen
    ]
    alarms = frozenset(row for row, (probe, _) in enumerate(chosen) if probe.suspicious)
    with_interval = len(detectors) <= _MAX_DETECTORS_WITH_INTERVAL
    detection = Grid(
        (Column("change", numeric=False), *(Column(name) for name in detectors), Column("flagged")),
        tuple(
            (
                name,
                *(
                    short_interval(probe.auroc.get(detector))
                    if with_interval
                    else number(probe.auroc[detector].value if detector in probe.auroc else None)
                    for detector in detectors
                ),
                percent(probe.flagged.value),
            )
            for name, (probe, _) in zip(names, chosen, strict=True)
        ),
        alarms,
    )
    return detection, _effect_grid(names, [probe for probe, _ in chosen], alarms, details=details)


def _effect_grid(
    names: Sequence[str], probes: Sequence[ProbeRecord], alarms: frozenset[int], *, details: bool
) -> Grid:
    """What the changes do to the features themselves; the columns about labels only where there are any."""
    labelled = any(probe.concentration is not None for probe in probes)
    columns = [
        Column("change", numeric=False),
        Column("shift"),
        Column("collapse"),
        Column("refs"),
    ]
    powered = details and any(probe.detectable is not None for probe in probes)
    if powered:
        columns.append(Column("found from"))
    if labelled:
        columns += [Column("one class"), Column("PA"), Column("purified")]
    rows = []
    for name, probe in zip(names, probes, strict=True):
        row = [
            name,
            number(probe.effect.value),
            number(probe.collapse.value),
            number(max(probe.control_collapse.values(), default=None)),
        ]
        if powered:
            row.append("–" if probe.detectable is None else percent(probe.detectable.value))
        if labelled:
            share = "–" if probe.concentration is None else percent(probe.concentration.value)
            row += [
                f"{share} {probe.concentration_class or ''}".rstrip(),
                "–" if probe.poisoned_accuracy is None else percent(probe.poisoned_accuracy.value),
                "–" if probe.purified_accuracy is None else percent(probe.purified_accuracy.value),
            ]
        rows.append(tuple(row))
    return Grid(tuple(columns), tuple(rows), alarms)


def detection(report: AuditReport, *, details: bool) -> list[Section]:
    """Return triggers and controls: two sections, never mixed."""
    detectors = _detectors(report.probes)
    level = _auroc_level(metric for probe in report.probes for metric in probe.auroc.values())
    by_kind = {
        kind: [probe for probe in report.probes if probe.kind == kind]
        for kind in ("found", "trigger", "control")
    }
    legend = (
        "shift: distance moved, in clean standard deviations. collapse: mean pairwise cosine of the "
        "changed features, 0 when clean. refs: the largest collapse among the references."
    )
    if details and any(probe.detectable is not None for probe in report.probes):
        legend += (
            " found from: the smallest share of images that an attack under this trigger must send to one "
            "place to be accused with probability 0.9."
        )
    if any(probe.concentration is not None for probe in report.probes):
        legend += " one class: share of images sent to it. PA: accuracy on changed images, then purified."
    triggers = _probe_grids([*by_kind["found"], *by_kind["trigger"]], detectors, details=details)
    controls = _probe_grids(by_kind["control"], detectors, details=details)
    return [
        Section(
            "Triggers: clean against triggered test images",
            f"AUROC with its {level} interval, higher is more suspicious; flagged: share over the threshold.",
            (*triggers, Bullets((legend,))) if triggers else (),
            key="triggers",
        ),
        Section(
            "Benign controls: clean against harmless changes of equal strength",
            "A detector that also fires here has found nothing.",
            controls,
            key="controls",
        ),
    ]
