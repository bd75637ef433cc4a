"""The battery: which known triggers make the suspect forget what it sees."""

from collections.abc import Sequence

from platodef_cli.audit.policy.limits import Policy
from platodef_cli.audit.verdict.intervals import Estimate, SampleSize, compare
from platodef_cli.records import Finding, ProbeRecord, Reason


def judge_battery(
    probes: Sequence[ProbeRecord], policy: Policy, detector: str, sample: SampleSize
) -> tuple[tuple[ProbeRecord, ...], list[Reason]]:
    """Return the probes with ``suspicious`` set, and one reason per suspicious or undecided trigger.

    A trigger is suspicious if the suspect forgets the image under it (collapse over the limit, and over
    what any reference and any benign control reach), and the deciding detector tells clean from
    triggered images. Each limit is compared with an interval: one that holds its limit leaves the
    trigger undecided, unless another limit clears it.
    """
    judged, reasons = [], []
    triggers = [probe for probe in probes if probe.kind == "trigger"]
    for probe in probes:
        reason = None if probe.kind != "trigger" else _judge(probe, probes, policy, detector, sample)
        suspicious = reason is not None and reason.outcome == "fail"
        judged.append(probe.model_copy(update={"suspicious": suspicious}))
        reasons += [] if reason is None else [reason]
    if not triggers:
        reasons.append(
            Reason(
                id="battery",
                outcome="inconclusive",
                message="no known trigger was tried: there is nothing to judge the suspect by",
            )
        )
    if not reasons:
        reasons.append(
            Reason(
                id="battery",
                outcome="pass",
                message=f"none of {len(triggers)} known triggers collapses the "
                "suspect more than the references and the benign controls",
            )
        )
    return tuple(judged), reasons


def _judge(
    probe: ProbeRecord, probes: Sequence[ProbeRecord], policy: Policy, detector: str, sample: SampleSize
) -> Reason | None:
    """Return why a trigger accuses the suspect, or cannot be decided; None if it is cleared."""
    collapse = Estimate.of(probe.collapse, probed=True)
    distance = gap_of(probe, probes)
    auroc = Estimate.of(probe.auroc.get(detector), "logit", probed=True)
    questions = (
        ("collapse", collapse, policy.battery_collapse),
        ("collapse beyond references and controls", distance, policy.battery_gap),
        ("AUROC", auroc, policy.auroc),
    )
    comparison = compare(questions, sample)
    if comparison.answer == "no":
        return None
    certain = comparison.answer == "yes"
    sent = ""
    if probe.concentration is not None and probe.concentration.value is not None:
        share = f"{probe.concentration.value:.0%}"
        sent = f", and sends {share} of other images to {probe.concentration_class!r}"
    found = "collapses" if certain else "may collapse"
    others = (collapse.value or 0.0) - (distance.value or 0.0)
    return Reason(
        id=f"battery-{probe.family}",
        outcome="fail" if certain else "inconclusive",
        message=(
            f"trigger {probe.name!r} {found} the suspect's features to cosine {collapse.value or 0.0:.2f} "
            f"(references and controls {others:.2f} at most){sent}; "
            + (f"AUROC {auroc.format()} > {policy.auroc:.2f}" if certain else comparison.undecided)
        ),
        metric="auroc",
        value=auroc.value,
        limit=policy.auroc,
        subject=probe.name,
        interval=auroc.interval,
        needed=comparison.needed,
    )


def gap_of(probe: ProbeRecord, probes: Sequence[ProbeRecord]) -> Estimate:
    """Return how much more a change collapses the suspect than the references and the benign controls.

    Reports before version 1.1 do not record it; there it is computed, without an interval.
    """
    if probe.gap is not None:
        return Estimate.of(probe.gap, probed=True)
    if probe.collapse.value is None:
        return Estimate(None)
    benign = [p.collapse.value for p in probes if p.kind == "control" and p.collapse.value is not None]
    return Estimate(probe.collapse.value - max((*benign, *probe.control_collapse.values()), default=0.0))


def battery_findings(probes: Sequence[ProbeRecord]) -> list[Finding]:
    """Return one finding per suspicious trigger."""
    return [
        Finding(
            id=f"trigger-{probe.name}",
            severity="high",
            message=f"{probe.name} puts {probe.flagged.value or 0:.0%} of the images over the threshold",
        )
        for probe in probes
        if probe.suspicious and probe.kind == "trigger"
    ]
