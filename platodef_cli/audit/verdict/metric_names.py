"""The metrics that rules and comparisons may name: stable names, each one number of an audit."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from platodef_cli.audit.policy.limits import Policy
from platodef_cli.audit.verdict.battery import gap_of
from platodef_cli.audit.verdict.case import Case
from platodef_cli.audit.verdict.evidence import matched_auroc, share_of
from platodef_cli.audit.verdict.intervals import Estimate, Scale
from platodef_cli.audit.verdict.search import limits_of, score_of, search_gap
from platodef_cli.errors import UnknownNameError
from platodef_cli.records import Interval, Metric, ProbeRecord

SEVERITIES = ("high", "medium", "low", "info")


@dataclass(frozen=True)
class NamedMetric:
    """A metric with a stable name.

    Attributes:
        meaning: One line for people.
        read: Takes it from a report; its value is None where the report does not hold it.
        needs: What a report without it lacks.
    """

    meaning: str
    read: Callable[[Case], Estimate]
    needs: str = ""


def largest(values: Iterable[Estimate]) -> Estimate:
    """Return the largest of several values, with the interval from the largest low to the largest high end.

    A limit is below the interval exactly where one of the values is surely above it.
    """
    return _extreme(values, max)


def smallest(values: Iterable[Estimate]) -> Estimate:
    """Return the smallest of several values, with its interval as in :func:`largest`."""
    return _extreme(values, min)


def _extreme(values: Iterable[Estimate], choose: Callable[..., float]) -> Estimate:
    known = [entry for entry in values if entry.value is not None]
    if not known:
        return Estimate(None)
    value = choose(entry.value for entry in known)
    first = next(entry for entry in known if entry.value == value)
    if all(entry.interval is None for entry in known):
        return first
    level = next(entry.interval.level for entry in known if entry.interval is not None)
    interval = Interval(
        low=choose(entry.low for entry in known), high=choose(entry.high for entry in known), level=level
    )
    return Estimate(value, interval, first.n, first.scale, first.probed)


def _triggers(case: Case) -> list[ProbeRecord]:
    return [probe for probe in case.probes if probe.kind == "trigger"]


def _over_triggers(
    choose: Callable[[Iterable[Estimate]], Estimate],
    pick: Callable[[Case, ProbeRecord], Metric | None],
    scale: Scale,
    kind: str = "trigger",
) -> Callable[[Case], Estimate]:
    def read(case: Case) -> Estimate:
        return choose(
            Estimate.of(pick(case, probe), scale, probed=True) for probe in case.probes if probe.kind == kind
        )

    return read


def _battery_gap(case: Case) -> Estimate:
    others = [probe for probe in case.probes if probe.kind != "found"]
    return largest(gap_of(probe, others) for probe in _triggers(case))


def _search(pick: str) -> Callable[[Case], Estimate]:
    def read(case: Case) -> Estimate:
        values = []
        for record in case.searches:
            if record.role != "suspect":
                continue
            if pick == "gap":
                gap = search_gap(record, case.searches)
                most = Estimate(record.collapse, record.interval, probed=True)
                values.append(_at_most(most, -1.0) if gap.value is None else gap)
            else:
                values.append(Estimate(record.collapse, record.interval, probed=True))
        return largest(values)

    return read


def _search_score(case: Case) -> Estimate:
    policy = Policy.from_json(case.policy)
    limits = limits_of(case.searches, policy)
    values = []
    for record in case.searches:
        if record.role == "suspect":
            score = score_of(record, case.searches, limits, policy)
            known = search_gap(record, case.searches).value is not None
            values.append(score if known else _at_most(score, 0.0))
    return largest(values)


def _at_most(measured: Estimate, least: float) -> Estimate:
    """Return a number that is only known to lie between ``least`` and another one: nothing was compared."""
    level = measured.interval.level if measured.interval else 0.95
    return replace(measured, interval=Interval(low=least, high=measured.high, level=level))


def _cknna(case: Case) -> Estimate:
    name = case.target.name
    pairs = [r.value for r in case.alignment if r.measure == "cknna" and name in (r.first, r.second)]
    return Estimate(max(pairs)) if pairs else Estimate(None)


def _alignment_share(case: Case) -> Estimate:
    share = share_of(case)
    return Estimate(None) if share is None else Estimate.of(share)


def _accuracy(defence: Callable[[str], bool], field: str) -> Callable[[Case], Estimate]:
    def read(case: Case) -> Estimate:
        for row in case.accuracy:
            if defence(row.defence):
                probed = field in ("poisoned_accuracy", "attack_success")
                return Estimate.of(getattr(row, field), "rate", probed=probed)
        return Estimate(None)

    return read


def _false_positives(case: Case) -> Estimate:
    rates = [entry.measured for entry in case.thresholds if entry.detector == case.deciding]
    return Estimate.of(rates[0], "rate") if rates else Estimate(None)


def _findings(severity: str | None) -> Callable[[Case], Estimate]:
    def read(case: Case) -> Estimate:
        return Estimate(
            sum(not f.waived and (severity is None or f.severity == severity) for f in case.findings)
        )

    return read


_LABELS = "images with labels"
_NONE: Callable[[str], bool] = lambda defence: defence == "none"  # noqa: E731
_FLAGGED: Callable[[str], bool] = lambda defence: defence.endswith("flagged only")  # noqa: E731

METRICS: dict[str, NamedMetric] = {
    "auroc": NamedMetric(
        "largest AUROC, clean against triggered images",
        _over_triggers(largest, lambda case, probe: probe.auroc.get(case.deciding), "logit"),
        "known triggers",
    ),
    "control-auroc": NamedMetric(
        "largest AUROC, clean against benign changes",
        _over_triggers(largest, lambda case, probe: probe.auroc.get(case.deciding), "logit", "control"),
        "benign controls",
    ),
    "matched-auroc": NamedMetric(
        "AUROC, matched against mismatched tuples",
        lambda case: Estimate.of(matched_auroc(case), "logit"),
    ),
    "battery-collapse": NamedMetric(
        "largest collapse under a known trigger",
        _over_triggers(largest, lambda case, probe: probe.collapse, "linear"),
        "known triggers",
    ),
    "battery-gap": NamedMetric(
        "largest collapse beyond references and controls", _battery_gap, "known triggers"
    ),
    "search-score": NamedMetric(
        "largest score of the trigger search, 1 is the limit",
        _search_score,
        "a trigger search",
    ),
    "search-collapse": NamedMetric(
        "largest collapse that the trigger search reaches", _search("collapse"), "a search"
    ),
    "search-gap": NamedMetric("largest collapse of the search beyond references", _search("gap"), "a search"),
    "flagged-share": NamedMetric(
        "largest share flagged under a known trigger",
        _over_triggers(largest, lambda case, probe: probe.flagged, "rate"),
        "known triggers",
    ),
    "control-flagged-share": NamedMetric(
        "largest share flagged under a benign change",
        _over_triggers(largest, lambda case, probe: probe.flagged, "rate", "control"),
        "benign controls",
    ),
    "false-positive-rate": NamedMetric("share of clean test images that is flagged", _false_positives),
    "concentration": NamedMetric(
        "largest share that a trigger sends to one class",
        _over_triggers(largest, lambda case, probe: probe.concentration, "rate"),
        _LABELS,
    ),
    "clean-accuracy": NamedMetric(
        "linear-probe accuracy on clean images", _accuracy(_NONE, "clean_accuracy"), _LABELS
    ),
    "poisoned-accuracy": NamedMetric(
        "smallest linear-probe accuracy under a trigger",
        _over_triggers(smallest, lambda case, probe: probe.poisoned_accuracy, "rate"),
        _LABELS,
    ),
    "purified-accuracy": NamedMetric(
        "smallest accuracy under a trigger, all purified",
        _over_triggers(smallest, lambda case, probe: probe.purified_accuracy, "rate"),
        _LABELS,
    ),
    "attack-success": NamedMetric(
        "share that the worst trigger sends to its class",
        _accuracy(_NONE, "attack_success"),
        _LABELS,
    ),
    "purified-attack-success": NamedMetric(
        "the same share where flagged images are purified", _accuracy(_FLAGGED, "attack_success"), _LABELS
    ),
    "cknna": NamedMetric("largest CKNNA of the suspect with a reference", _cknna, "the alignment"),
    "alignment-share": NamedMetric(
        "CKNNA with a reference over that of two references", _alignment_share, "two references"
    ),
    "slices": NamedMetric(
        "groups of images where only the suspect departs",
        lambda case: Estimate(sum(entry.departs for entry in case.slices)),
        "two references",
    ),
    "skipped-share": NamedMetric(
        "share of images that could not be used",
        lambda case: Estimate(
            len(case.images.skipped) / max(1, case.images.count + len(case.images.skipped))
        ),
    ),
    "images": NamedMetric("images that were given", lambda case: Estimate(case.images.count)),
    "test-images": NamedMetric("clean test images", lambda case: Estimate(case.images.test)),
    "findings": NamedMetric("findings of any severity, not waived", _findings(None)),
    **{
        f"findings.{severity}": NamedMetric(
            f"findings of severity {severity}, not waived", _findings(severity)
        )
        for severity in SEVERITIES
    },
}


def named(name: str) -> NamedMetric:
    """Return a metric by its name.

    Raises:
        UnknownNameError: There is none of that name; the message lists the choices.
    """
    if name not in METRICS:
        raise UnknownNameError("metric", name, METRICS)
    return METRICS[name]
