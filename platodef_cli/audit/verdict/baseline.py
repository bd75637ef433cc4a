"""Comparison with an earlier report of the same images and references: what got worse, and what did not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from platodef_cli.audit.verdict.case import Case
from platodef_cli.audit.verdict.complete import images_of, is_unfinished, target_of
from platodef_cli.audit.verdict.decide import is_indicator
from platodef_cli.audit.verdict.intervals import Estimate
from platodef_cli.audit.verdict.metric_names import METRICS
from platodef_cli.audit.verdict.search import search_gap
from platodef_cli.errors import UsageError
from platodef_cli.records import AuditReport, BaselineRecord, Change, ProbeRecord, Reason

# with intervals: without one every difference would count
_OVERALL = {"matched-auroc": -1, "clean-accuracy": -1, "false-positive-rate": 1}
_LOWER_IS_WORSE = ("<", "<=")


@dataclass(frozen=True)
class _Entry:
    """A measured value that both reports may hold.

    Attributes:
        what: Its name for people.
        measured: The value.
        direction: 1 where higher is worse, -1 where lower is.
        topic: (id prefix, subject) of the reason that rests on it.
    """

    what: str
    measured: Estimate
    direction: int
    topic: tuple[str, str | None]


def check_comparable(report: Case, baseline: AuditReport) -> None:
    """Refuse a baseline that measured something else.

    Raises:
        UsageError: Other images, references or deciding detector, or nothing was measured.
    """
    if is_unfinished(baseline):
        raise UsageError(
            f"the baseline is of an audit that ended early ({baseline.verdict}): it holds no measurements"
        )
    differences = []
    if report.images.digest != images_of(baseline).digest:
        differences.append(
            f"other images ({report.images.count}, sha256 {report.images.digest[:12]} here; "
            f"{images_of(baseline).count}, sha256 {images_of(baseline).digest[:12]} in the baseline)"
        )
    ours, theirs = ({ref.digest: ref.name for ref in r.references} for r in (report, baseline))
    if set(ours) != set(theirs):
        only = [name for digest, name in ours.items() if digest not in theirs]
        lost = [name for digest, name in theirs.items() if digest not in ours]
        differences.append(
            f"other references (only here: {', '.join(only) or 'none'}; "
            f"only in the baseline: {', '.join(lost) or 'none'})"
        )
    if report.deciding != baseline.deciding:
        differences.append(f"another deciding detector ({report.deciding} here, {baseline.deciding} there)")
    if differences:
        raise UsageError(f"the baseline cannot be compared: {'; '.join(differences)}")


def record_of(baseline: AuditReport) -> BaselineRecord:
    """Return what is kept of a baseline."""
    return BaselineRecord(
        verdict=baseline.verdict,
        target=target_of(baseline).digest,
        tool_version=baseline.tool_version,
        policy=str(baseline.policy.get("name", "unknown")),
        started=baseline.timing.started,
    )


def changes_between(report: Case, baseline: Case, recorded: AuditReport) -> tuple[Change, ...]:
    """Return what differs beyond the intervals, worst first.

    Args:
        report: The report, judged.
        baseline: The baseline, judged by the same policy.
        recorded: The baseline as it was recorded, for its own policy.
    """
    now, before = _entries(report), _entries(baseline)
    changes = []
    for key, entry in now.items():
        other = before.get(key)
        if other is None:
            continue
        kind = _trend(entry, other)
        if kind is not None:
            changes.append(
                Change(
                    id=key,
                    kind=kind,
                    message=f"{entry.what} {entry.measured.format(3)}, was {other.measured.format(3)}",
                    before=other.measured.value,
                    after=entry.measured.value,
                )
            )
    changes += _appeared(report, baseline)
    order = ("worse", "new", "other", "gone", "better")
    return tuple(sorted((*changes, *_other(report, recorded)), key=lambda change: order.index(change.kind)))


def tolerated(report: Case, baseline: Case) -> tuple[Reason, ...]:
    """Return the reasons of a report; ``known`` is set on indicators no worse than in the baseline.

    Evidence that cannot carry a verdict is never tolerated.
    """
    now, before = _entries(report), _entries(baseline)
    # what is no longer measured may be anything
    worse = {
        entry.topic
        for key, entry in now.items()
        if key in before
        and (
            _trend(entry, before[key]) == "worse"
            or (entry.measured.value is None and before[key].measured.value is not None)
        )
    }
    earlier = {(r.id, r.subject): r for r in baseline.reasons if r.outcome in ("fail", "inconclusive")}
    marked = []
    for reason in report.reasons:
        old = earlier.get((reason.id, reason.subject))
        known = (
            reason.outcome in ("fail", "inconclusive")
            and is_indicator(reason)
            and reason.subject is not None
            and old is not None
            and not (reason.outcome == "fail" and old.outcome == "inconclusive")
            and (reason.id, reason.subject) not in worse
            and not _rule_got_worse(reason, old)
        )
        marked.append(reason.model_copy(update={"known": known}))
    return tuple(marked)


def _rule_got_worse(reason: Reason, old: Reason) -> bool:
    """Return whether the value that a rule is about moved in the direction of the rule."""
    if not reason.id.startswith("fail-if-") or reason.subject is None:
        return False
    now, before = Estimate(reason.value, reason.interval), Estimate(old.value, old.interval)
    if now.value is None or before.value is None:
        return now.value is not before.value
    operator = reason.subject.split(" ")[1]
    direction = -1 if operator in _LOWER_IS_WORSE else 1
    trend = _trend(_Entry("", now, direction, ("", None)), _Entry("", before, direction, ("", None)))
    return trend == "worse" or (operator == "==" and trend is not None)


def _trend(now: _Entry, before: _Entry) -> Literal["better", "worse"] | None:
    """Return how a value moved, if the intervals do not overlap."""
    if now.measured.value is None or before.measured.value is None:
        return None
    if now.measured.low > before.measured.high:
        return "worse" if now.direction > 0 else "better"
    if now.measured.high < before.measured.low:
        return "better" if now.direction > 0 else "worse"
    return None


def _entries(report: Case) -> dict[str, _Entry]:
    entries = {}
    for probe in report.probes:
        if probe.kind == "trigger":
            topic = (f"battery-{probe.family}", probe.name)
            for name, measured in _of_probe(probe, report.deciding).items():
                entries[f"{probe.name}.{name}"] = _Entry(f"trigger {probe.name}: {name}", measured, 1, topic)
    for record in report.searches:
        if record.role == "suspect":
            topic, what = (f"search-{record.kind}", record.budget), f"search {record.kind} {record.budget}"
            values = {
                "collapse": Estimate(record.collapse, record.interval),
                "gap": search_gap(record, report.searches),
            }
            for name, measured in values.items():
                entries[f"search-{record.kind}-{record.budget}.{name}"] = _Entry(
                    f"{what}: {name}", measured, 1, topic
                )
    for name, direction in _OVERALL.items():
        entries[name] = _Entry(name, METRICS[name].read(report), direction, (name, None))
    return entries


def _of_probe(probe: ProbeRecord, detector: str) -> dict[str, Estimate]:
    return {
        "collapse": Estimate.of(probe.collapse),
        "AUROC": Estimate.of(probe.auroc.get(detector), "logit"),
    }


def _appeared(report: Case, baseline: Case) -> list[Change]:
    """Return reasons and findings that only one of the reports has."""
    ours, theirs = _open_points(report), _open_points(baseline)
    changes = [Change(id=key, kind="new", message=text) for key, text in ours.items() if key not in theirs]
    return changes + [
        Change(id=key, kind="gone", message=text) for key, text in theirs.items() if key not in ours
    ]


def _open_points(report: Case) -> dict[str, str]:
    points = {
        reason.id if reason.subject is None else f"{reason.id}:{reason.subject}": reason.message
        for reason in report.reasons
        if reason.outcome != "pass"
    }
    derived = ("trigger-", "search-")  # these repeat a reason
    points.update({f.id: f.message for f in report.findings if not f.id.startswith(derived)})
    return points


def _other(report: Case, baseline: AuditReport) -> list[Change]:
    """Return what else differs and may explain a change."""
    facts = {
        "target": ("model", report.target.digest[:12], target_of(baseline).digest[:12]),
        "policy": ("policy", report.policy.get("name"), baseline.policy.get("name")),
        "tool": ("platodef", report.tool_version, baseline.tool_version),
        "seed": ("seed", report.seed, baseline.seed),
        "head": ("heads", _head(report), _head(baseline)),
    }
    changes = [
        Change(id=key, kind="other", message=f"{what} {now} here, {before} in the baseline")
        for key, (what, now, before) in facts.items()
        if now != before
    ]
    if report.policy != baseline.policy and report.policy.get("name") == baseline.policy.get("name"):
        differing = sorted(
            key
            for key in {*report.policy, *baseline.policy}
            if report.policy.get(key) != baseline.policy.get(key)
        )
        changes.append(
            Change(id="policy", kind="other", message=f"the policies differ in {', '.join(differing)}")
        )
    return [*changes, *_tried(report.probes, baseline.probes)]


def _head(report: Case | AuditReport) -> str:
    return report.head.digest[:12] if report.head else "none"


def _tried(ours: Sequence[ProbeRecord], theirs: Sequence[ProbeRecord]) -> list[Change]:
    mine, other = ({p.name for p in probes if p.kind == "trigger"} for probes in (ours, theirs))
    if mine == other:
        return []
    return [
        Change(
            id="battery",
            kind="other",
            message=f"{len(mine - other)} triggers tried here only, {len(other - mine)} in the baseline only",
        )
    ]
