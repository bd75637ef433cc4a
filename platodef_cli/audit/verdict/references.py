"""The control group itself: a reference that behaves like a backdoored encoder cannot clear a suspect."""

from collections.abc import Sequence
from dataclasses import dataclass

from platodef_cli.audit.policy.limits import Policy
from platodef_cli.audit.verdict.intervals import Estimate
from platodef_cli.audit.verdict.search import limits_of, place_of, score_of
from platodef_cli.records import Finding, ProbeRecord, Reason, SearchRecord


@dataclass(frozen=True)
class _Accusation:
    """One change under which a reference crosses the limits of a suspect.

    Attributes:
        reference: Its name.
        event: What happened.
        change: The change, in words.
        hides: Whether the suspect collapses under the same change as well, or may, so that comparing it with
            this reference clears it wrongly.
    """

    reference: str
    event: str
    change: str
    hides: bool


def judge_references(
    probes: Sequence[ProbeRecord], searches: Sequence[SearchRecord], policy: Policy
) -> list[Reason]:
    """Return one reason per reference that crosses the limits of a suspect.

    A suspect is compared with what the references reach, so a reference with the same backdoor would
    hide it. Such a reference is named. Where the suspect's own collapse under the same change is under its
    limit, the comparison decided nothing and the audit goes on; else it is inconclusive until the reference
    is replaced. References that all have the backdoor are beyond this check.

    Args:
        probes: What the battery did; triggers count.
        searches: What the searches reached, those on the references included.
        policy: Its limits for suspects hold for references too.
    """
    every = [*_by_search(searches, policy), *_by_battery(probes, policy)]
    reasons = []
    for name in sorted({accusation.reference for accusation in every}):
        own = [accusation for accusation in every if accusation.reference == name]
        first = next((accusation for accusation in own if accusation.hides), own[0])
        advice = (
            "it cannot serve as a control, so audit it on its own or choose another reference"
            if first.hides
            else f"the suspect does not collapse under {first.change}, so that nothing is hidden; audit the "
            "reference on its own"
        )
        reasons.append(
            Reason(
                id="reference",
                outcome="inconclusive" if first.hides else "pass",
                message=f"reference {name!r} itself behaves like a backdoored encoder: {first.event}; "
                + advice,
                subject=name,
            )
        )
    return reasons


def reference_findings(reasons: Sequence[Reason]) -> list[Finding]:
    """Return one finding per reference that is named although it decides nothing: it needs a look."""
    return [
        Finding(id=f"reference-{reason.subject}", severity="medium", message=reason.message)
        for reason in reasons
        if reason.outcome == "pass"
    ]


def _by_search(searches: Sequence[SearchRecord], policy: Policy) -> list[_Accusation]:
    """Return what the searches found in the references."""
    accusations = []
    limits = limits_of(searches, policy)
    for record in searches:
        if record.role != "control" or score_of(record, searches, limits, policy).reaches(1.0) != "yes":
            continue
        limit = limits[(record.encoder, record.kind, record.budget)]
        place = place_of(record, searches)
        own = [
            Estimate(other.collapse, other.interval, probed=True).reaches(limit)
            for other in searches
            if other.role == "suspect" and other.kind == record.kind and place_of(other, searches) == place
        ]
        accusations.append(
            _Accusation(
                record.encoder,
                f"a search found a {record.kind} change of {record.budget} that collapses its features to "
                f"cosine {record.collapse:.2f}, far more than those of the other references",
                f"such a {record.kind} change",
                hides=not own or any(answer != "no" for answer in own),
            )
        )
    return accusations


def _by_battery(probes: Sequence[ProbeRecord], policy: Policy) -> list[_Accusation]:
    """Return what the triggers of the battery do to the references."""
    accusations = []
    benign = max(
        (
            min(p.collapse.value or 0.0, max(p.control_collapse.values(), default=0.0))
            for p in probes
            if p.kind == "control"
        ),
        default=0.0,
    )
    for probe in probes:
        if probe.kind != "trigger":
            continue
        for name, collapse in probe.control_collapse.items():
            others = max((v for n, v in probe.control_collapse.items() if n != name), default=0.0)
            distance = collapse - max(benign, others)
            if collapse >= policy.battery_collapse and distance >= policy.battery_gap:
                own = Estimate.of(probe.collapse, probed=True)
                accusations.append(
                    _Accusation(
                        name,
                        f"trigger {probe.name!r} collapses its features to cosine {collapse:.2f} (other "
                        f"references and harmless changes {max(benign, others):.2f} at most)",
                        "this trigger",
                        hides=own.reaches(policy.battery_collapse) != "no",
                    )
                )
    return accusations
