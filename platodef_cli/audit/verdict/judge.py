"""One way from measurements to a report with its verdict: an audit and a gate both take it."""

from dataclasses import dataclass, replace
from datetime import date

from platodef_cli.audit.context import in_taxonomies
from platodef_cli.audit.policy.limits import Policy
from platodef_cli.audit.verdict.advice import useful_advice
from platodef_cli.audit.verdict.baseline import changes_between, check_comparable, record_of, tolerated
from platodef_cli.audit.verdict.case import Case
from platodef_cli.audit.verdict.complete import is_unfinished
from platodef_cli.audit.verdict.decide import decide
from platodef_cli.audit.verdict.error_rate import doubted, error_rate
from platodef_cli.audit.verdict.evidence import evidence_of
from platodef_cli.audit.verdict.indicators import Indicators, judge_indicators
from platodef_cli.audit.verdict.intervals import SampleSize
from platodef_cli.audit.verdict.measurements import Measurements
from platodef_cli.audit.verdict.power import missed_lines
from platodef_cli.audit.verdict.rules import judge_rules
from platodef_cli.audit.verdict.signature import signed
from platodef_cli.audit.verdict.waivers import Waiver, Waivers, line
from platodef_cli.records import AuditReport, BaselineRecord, Change


@dataclass(frozen=True)
class Gate:
    """What measurements are judged by.

    Attributes:
        policy: Limits and rules.
        waivers: What shall not decide.
        today: The day on which waivers must hold.
        baseline: A report of the same images and references; only what is worse than there decides.
    """

    policy: Policy
    waivers: tuple[Waiver, ...] = ()
    today: date = date.min
    baseline: AuditReport | None = None


def judge(measurements: Measurements, gate: Gate, indicators: Indicators | None = None) -> AuditReport:
    """Return the report of an audit: its measurements, and the verdict of a gate on them.

    Args:
        measurements: What was measured.
        gate: What it is judged by.
        indicators: Battery and searches where they were judged by the policy of the gate already.

    Raises:
        UsageError: A rule of the policy is wrong, its limits do not fit the searches, or the baseline cannot
            be compared.
    """
    waivers = Waivers(gate.waivers, measurements.target, gate.today)
    case = _examine(measurements, gate.policy, waivers, indicators)
    reasons = case.reasons
    baseline: BaselineRecord | None = None
    changes: tuple[Change, ...] = ()
    if gate.baseline is not None:
        check_comparable(case, gate.baseline)
        recorded = Measurements.of(gate.baseline)
        before = _examine(recorded, gate.policy, Waivers((), recorded.target, gate.today))
        reasons = tolerated(case, before)
        baseline = record_of(gate.baseline)
        changes = changes_between(case, before, gate.baseline)
    # no waiver and no baseline makes up for a signature
    reasons = (*signed(measurements.context, gate.policy), *useful_advice(waivers.reasons(reasons)))
    records = waivers.records(reasons, case.findings)
    outcome, code, summary = decide(reasons, gate.policy)
    return AuditReport(
        **measurements.recorded(),
        verdict=outcome,
        exit_code=code,
        summary=summary,
        reasons=reasons,
        error_rate=case.error_rate,
        findings=case.findings,
        waivers=tuple(line(record) for record in records),
        waiver_records=records,
        baseline=baseline,
        changes=changes,
        policy=case.policy,
        probes=case.probes,
        searches=case.searches,
        search_power=case.search_power,
        not_examined=(*case.not_examined, *missed_lines(case.search_power, case.searches)),
        context=in_taxonomies(measurements.context, reasons, case.findings),
    )


def judge_again(report: AuditReport, gate: Gate) -> AuditReport:
    """Return a report with the verdict of a gate on its recorded measurements.

    Judging as the report was judged gives it back unchanged. Reports of audits that ended early (refused,
    error, too few images) hold nothing to judge, cannot be waived, and are returned as they are.

    Raises:
        UsageError: As for :func:`judge`, or the report is damaged.
    """
    return report if is_unfinished(report) else judge(Measurements.of(report), gate)


def sample_of(measurements: Measurements) -> SampleSize:
    """Return how many images an audit rests on."""
    images, given = measurements.images, measurements.configuration
    probed, sample = given.get("probe_images"), given.get("sample")
    count = min(images.count, int(sample)) if isinstance(sample, int | float) else images.count
    return SampleSize(count, int(probed) if isinstance(probed, int | float) else images.test)


def _examine(
    measurements: Measurements, policy: Policy, waivers: Waivers, indicators: Indicators | None = None
) -> Case:
    """Return the measurements with every reason that a policy gives for or against the suspect."""
    sample = sample_of(measurements)
    if indicators is None:
        indicators = judge_indicators(
            measurements.triggers,
            measurements.searches,
            policy,
            deciding=measurements.deciding,
            sample=sample,
            power=measurements.search_power,
        )
    assert indicators.policy == policy
    case = Case.made_of(measurements, indicators, policy, waivers)
    evidence, rules = evidence_of(case, policy, sample), judge_rules(case, policy, sample)
    rate = error_rate(case, policy)
    reasons = (*doubted(indicators.reasons, rate), *evidence, *rules)
    return replace(case, reasons=reasons, error_rate=rate)
