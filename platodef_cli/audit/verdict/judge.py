"""One way from recorded measurements to a verdict: an audit and a gate both take it."""

from dataclasses import dataclass
from datetime import date

from platodef_cli.audit.policy.limits import Policy
from platodef_cli.audit.verdict.baseline import changes_between, check_comparable, record_of, tolerated
from platodef_cli.audit.verdict.battery import battery_findings, judge_battery
from platodef_cli.audit.verdict.complete import images_of, is_unfinished, target_of
from platodef_cli.audit.verdict.decide import decide
from platodef_cli.audit.verdict.evidence import evidence_of
from platodef_cli.audit.verdict.intervals import Sample
from platodef_cli.audit.verdict.references import judge_references, reference_findings
from platodef_cli.audit.verdict.rules import judge_rules
from platodef_cli.audit.verdict.search import judge_search, search_findings
from platodef_cli.audit.verdict.waivers import Waiver, Waivers, line
from platodef_cli.records import SCHEMA_VERSION, AuditReport, Finding

_DERIVED = ("trigger-", "search-", "reference-")


def sample_of(report: AuditReport) -> Sample:
    """Return how many images a report rests on."""
    probed = report.configuration.get("probe_images")
    return Sample(
        images_of(report).count, int(probed) if isinstance(probed, int | float) else images_of(report).test
    )


@dataclass(frozen=True)
class Gate:
    """What a report is judged by.

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


def judge(report: AuditReport, gate: Gate) -> AuditReport:
    """Return the report with the verdict of a gate: its recorded measurements, judged anew.

    Only verdict, exit code, summary, reasons, findings, policy, scores, marks of suspicion, waivers and
    changes are new; judging as the report was judged gives it back unchanged. Reports of
    audits that ended early (refused, error, too few images) hold nothing to judge, cannot be waived, and
    are returned as they are.

    Raises:
        UsageError: A rule of the policy is wrong, its limits do not fit the searches of the report, or
            the baseline cannot be compared.
    """
    if is_unfinished(report):
        return report
    judged = _measured(report, gate)
    waivers = Waivers(gate.waivers, target_of(report), gate.today)
    if gate.baseline is not None:
        check_comparable(report, gate.baseline)
        before = _measured(gate.baseline, Gate(gate.policy))
        judged = judged.model_copy(
            update={
                "reasons": tolerated(judged, before),
                "baseline": record_of(gate.baseline),
                "changes": changes_between(judged, before, gate.baseline),
            }
        )
    reasons = waivers.reasons(judged.reasons)
    records = waivers.records(reasons, judged.findings)
    outcome, code, summary = decide(reasons, gate.policy)
    return judged.model_copy(
        update={
            "verdict": outcome,
            "exit_code": code,
            "summary": summary,
            "reasons": reasons,
            "waivers": tuple(line(record) for record in records),
            "waiver_records": records,
        }
    )


def _measured(report: AuditReport, gate: Gate) -> AuditReport:
    """Return the report with reasons, findings, scores and marks by a policy; waivers count for findings."""
    policy, sample = gate.policy, sample_of(report)
    searches, about_search = judge_search(report.searches, policy, sample)
    found = tuple(probe for probe in report.probes if probe.kind == "found")
    battery, about_battery = judge_battery(
        tuple(probe for probe in report.probes if probe.kind != "found"), policy, report.deciding, sample
    )
    about_references = judge_references(battery, searches, policy)
    accused = {f"found {r.id.removeprefix('search-')}" for r in about_search if r.outcome == "fail"}
    found = tuple(probe.model_copy(update={"suspicious": probe.family in accused}) for probe in found)
    findings = (
        *(finding for finding in report.findings if not _is_derived(finding)),
        *battery_findings(battery),
        *search_findings(searches, about_search),
        *reference_findings(about_references),
        *_local(report),
    )
    topics = {f"trigger-{probe.name}": (f"battery-{probe.family}", probe.name) for probe in battery}
    topics |= {f"search-{r.kind}-{r.budget}": (f"search-{r.kind}", r.budget) for r in searches}
    judged = report.model_copy(
        update={
            "searches": searches,
            "probes": (*found, *battery),
            "findings": Waivers(gate.waivers, target_of(report), gate.today).findings(findings, topics),
            "policy": policy.to_json(),
            # an earlier version does not know some of these fields
            "schema_version": SCHEMA_VERSION,
            "baseline": None,
            "changes": (),
        }
    )
    reasons = (
        *about_battery,
        *about_search,
        *about_references,
        *evidence_of(report, policy, sample),
        *judge_rules(judged, policy, sample),
    )
    return judged.model_copy(update={"reasons": reasons})


def _is_derived(finding: Finding) -> bool:
    """Return whether a finding follows from the measurements, not from the files."""
    return finding.id.startswith(_DERIVED) or finding.id == "no-commit"


def _local(report: AuditReport) -> tuple[Finding, ...]:
    if target_of(report).commit is not None:
        return ()
    return (
        Finding(
            id="no-commit",
            severity="low",
            message="the target is a local folder: only the file hashes tie it to a published commit",
        ),
    )
