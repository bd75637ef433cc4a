"""The battery: under which known changes the suspect forgets what it sees, or sees what no reference sees."""

from collections.abc import Callable, Sequence

from platodef_cli.audit.policy.limits import Policy
from platodef_cli.audit.verdict.intervals import POWER, Estimate, SampleSize, compare
from platodef_cli.records import Finding, ProbeRecord, Reason

_FEW = 100  # images: with fewer the intervals alone may leave a trigger without power
Question = tuple[str, Estimate, float]
"""What was measured, in words; the number; its limit."""

Words = Callable[[ProbeRecord, Sequence[ProbeRecord], bool], str]
"""Says what a change did, given all changes, and whether that is certain."""


def judge_battery(
    probes: Sequence[ProbeRecord], policy: Policy, detector: str, sample: SampleSize
) -> tuple[tuple[ProbeRecord, ...], list[Reason]]:
    """Return the probes with ``suspicious`` set, and one reason per suspicious or undecided change.

    A change is suspicious if it has two of three symptoms. *Collapse*: the suspect forgets the image under
    it, over the limit, and over what any reference reaches, and over what any encoder reaches under other
    benign changes; or its features lose their variance, at whatever point they gather, the mean included.
    *Shift*: the features move as far as those of another image, and farther than any reference's, as they do
    for a target that depends on the image. *Detection*: the deciding detector tells clean from changed
    images. A benign change accuses too, since an attacker may use it, but only by collapse and shift
    together: a strong blur takes from some clean encoders more than from others. Each limit is compared with
    an interval: one that holds its limit leaves the change undecided, unless another limit clears it.

    A trigger under which references or benign changes leave no room for the distance that is asked for was
    not examined; one more reason names these.
    """
    judged, reasons = [], []
    triggers = [probe for probe in probes if probe.kind == "trigger"]
    for probe in probes:
        reason = _judge(probe, probes, policy, detector, sample)
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
    accused = {reason.subject for reason in reasons}
    blind = [
        probe
        for probe in triggers
        if is_saturated(probe, probes, policy) or (is_powerless(probe) and probe.name not in accused)
    ]
    if not reasons and len(blind) < len(triggers):
        reasons.append(
            Reason(
                id="battery",
                outcome="pass",
                message=f"none of {len(triggers) - len(blind)} known triggers collapses the "
                "suspect more than the references and the benign controls"
                + _power_of([probe for probe in triggers if probe not in blind]),
            )
        )
    if blind:
        reasons.append(_not_examined(blind, triggers, policy))
    return tuple(judged), reasons


def _judge(
    probe: ProbeRecord, probes: Sequence[ProbeRecord], policy: Policy, detector: str, sample: SampleSize
) -> Reason | None:
    """Return why a change accuses the suspect, or cannot be decided; None if it is cleared."""
    if probe.kind == "control" and probe.gap is None:
        return None  # in reports before version 1.2 benign changes were no tests
    auroc = _auroc(probe, detector)
    found = [
        (words, compare(questions, sample)) for words, questions in symptoms(probe, probes, policy, detector)
    ]
    for answer in ("yes", "unsure"):
        for words, comparison in found:
            if comparison.answer == answer:
                certain = answer == "yes"
                clear = f"AUROC {auroc.format()} > {policy.auroc:.2f}"
                if auroc.reaches(policy.auroc) != "yes":
                    clear = (
                        f"its features move by {Estimate.of(probe.effect).format()}, as far as other images"
                    )
                return Reason(
                    id=f"battery-{probe.family}",
                    outcome="fail" if certain else "inconclusive",
                    message=f"{words(probe, probes, certain)}; "
                    + (clear if certain else comparison.undecided),
                    metric="auroc",
                    value=auroc.value,
                    limit=policy.auroc,
                    subject=probe.name,
                    interval=auroc.interval,
                    needed=comparison.needed,
                )
    return None


def would_accuse(probe: ProbeRecord, policy: Policy, detector: str) -> bool:
    """Return whether another sample like that of a probe would accuse with probability ``POWER`` or more."""
    return any(
        all(measured.clears(limit) for _, measured, limit in questions)
        for _, questions in symptoms(probe, [probe], policy, detector)
    )


def symptoms(
    probe: ProbeRecord, probes: Sequence[ProbeRecord], policy: Policy, detector: str
) -> list[tuple[Words, list[Question]]]:
    """Return the pairs of symptoms that accuse, each with the words of a message and all its questions."""
    seen = [("AUROC", _auroc(probe, detector), policy.auroc)]
    forgets, moves = _collapse(probe, probes, policy), _shift(probe, policy)
    pairs: list[tuple[Words, list[Question]]] = []
    empties = _lost(probe, policy)
    if empties and probe.kind == "trigger":
        pairs.append((_emptied, [*empties, *seen]))
    if probe.kind == "trigger":
        pairs.append((_collapsed, [*forgets, *seen]))
    if moves:
        pairs.append((_collapsed, [*forgets, *moves]))
    if moves and probe.kind == "trigger":
        pairs.append((_displaced, [*moves, *seen]))
    return pairs


def _auroc(probe: ProbeRecord, detector: str) -> Estimate:
    return Estimate.of(probe.auroc.get(detector), "logit", probed=True)


def _collapse(probe: ProbeRecord, probes: Sequence[ProbeRecord], policy: Policy) -> list[Question]:
    return [
        ("collapse", Estimate.of(probe.collapse, probed=True), policy.battery_collapse),
        ("collapse beyond references and controls", gap_of(probe, probes), policy.battery_gap),
    ]


def _lost(probe: ProbeRecord, policy: Policy) -> list[Question]:
    """Return what is asked of the variance; nothing of reports that do not record it."""
    if probe.lost is None or probe.lost_gap is None:
        return []
    return [
        ("lost variance", Estimate.of(probe.lost, probed=True), policy.battery_lost),
        (
            "lost variance beyond the references",
            Estimate.of(probe.lost_gap, probed=True),
            policy.battery_lost_gap,
        ),
    ]


def _shift(probe: ProbeRecord, policy: Policy) -> list[Question]:
    """Return what is asked of the shift; nothing of reports before version 1.2, which do not record it."""
    if probe.shift_gap is None:
        return []
    return [
        ("shift", Estimate.of(probe.effect, probed=True), policy.battery_shift),
        ("shift beyond the references", Estimate.of(probe.shift_gap, probed=True), policy.battery_shift_gap),
    ]


def _collapsed(probe: ProbeRecord, probes: Sequence[ProbeRecord], certain: bool) -> str:
    collapse = probe.collapse.value or 0.0
    others = collapse - (gap_of(probe, probes).value or 0.0)
    sent = ""
    if probe.concentration is not None and probe.concentration.value is not None:
        share = f"{probe.concentration.value:.0%}"
        sent = f", and sends {share} of other images to {probe.concentration_class!r}"
    found = "collapses" if certain else "may collapse"
    what = "trigger" if probe.kind == "trigger" else "the otherwise harmless change"
    return (
        f"{what} {probe.name!r} {found} the suspect's features to cosine {collapse:.2f} "
        f"(references and controls {others:.2f} at most){sent}"
    )


def _emptied(probe: ProbeRecord, probes: Sequence[ProbeRecord], certain: bool) -> str:
    most = max(probe.control_lost.values(), default=0.0)
    lost = 0.0 if probe.lost is None else probe.lost.value or 0.0
    found = "takes" if certain else "may take"
    return (
        f"trigger {probe.name!r} {found} {lost:.0%} of the variance of the suspect's features (references "
        f"{most:.0%} at most), as a target that is no image does"
    )


def _displaced(probe: ProbeRecord, probes: Sequence[ProbeRecord], certain: bool) -> str:
    most = max(probe.control_shift.values(), default=0.0)
    found = "makes" if certain else "may make"
    what = "trigger" if probe.kind == "trigger" else "the otherwise harmless change"
    return (
        f"{what} {probe.name!r} {found} the suspect see another image: its features move by "
        f"{Estimate.of(probe.effect).format()} (different images lie 1.41 apart; references {most:.2f} at "
        "most) without collapsing, as with several targets"
    )


def is_saturated(probe: ProbeRecord, probes: Sequence[ProbeRecord], policy: Policy) -> bool:
    """Return whether a suspect that collapses could not stand out, since others collapse nearly as far."""
    collapse = Estimate.of(probe.collapse, probed=True)
    distance = gap_of(probe, probes)
    if collapse.value is None or distance.value is None:
        return False
    if collapse.reaches(policy.battery_collapse) == "no" or distance.reaches(policy.battery_gap) == "yes":
        return False
    return 1 - (collapse.value - distance.value) < policy.battery_gap


def is_powerless(probe: ProbeRecord) -> bool:
    """Return whether not even an attack that succeeds on every image would have been accused."""
    return probe.detectable is not None and probe.detectable.value is None


def _power_of(probes: Sequence[ProbeRecord]) -> str:
    """Return what the triggers would have found, as the end of a message; nothing for reports without it."""
    rates = [probe.detectable.value for probe in probes if probe.detectable is not None]
    known = [rate for rate in rates if rate is not None]
    if not known:
        return ""
    return (
        f"; under each of them, an attack that sends {max(known):.0%} of the images to one place would have "
        f"been found with probability {POWER} or more"
    )


def _not_examined(blind: Sequence[ProbeRecord], triggers: Sequence[ProbeRecord], policy: Policy) -> Reason:
    names = ", ".join(probe.name for probe in blind)
    most = 2 * len(blind) > len(triggers)
    counts = [probe.collapse.n_positive for probe in blind if probe.collapse.n_positive is not None]
    few = min(counts, default=_FEW) < _FEW
    why = f"{min(counts, default=0)} images are few, or " if few else ""
    advice = "try them on more images (--probe-images), or " if few else ""
    return Reason(
        id="battery-saturated",
        outcome="inconclusive" if most else "pass",
        message=f"not examined, {len(blind)} of {len(triggers)} known triggers: {why}references or harmless "
        f"changes do nearly the same, so that not even an attack on every image would stand out ({names})"
        + (f"; {advice}use references of the suspect's kind and input size" if most else ""),
        metric="triggers not examined",
        value=len(blind),
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
    """Return one finding per suspicious trigger or benign change."""
    return [
        Finding(
            id=f"trigger-{probe.name}",
            severity="high",
            message=f"{probe.name} puts {probe.flagged.value or 0:.0%} of the images over the threshold",
        )
        for probe in probes
        if probe.suspicious and probe.kind != "found"
    ]
