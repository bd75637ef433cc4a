"""Reports of every verdict, made of the golden one and of partials."""

from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.partial_report import ENDINGS, PartialReport
from platodef_cli.records import AuditReport

CODES = {"pass": 0, "fail": 1, "error": 3, "inconclusive": 4, "refused": 5}


def with_verdict(report: AuditReport, verdict: str) -> AuditReport:
    """Return a report whose reasons fit the verdict."""
    code = CODES[verdict]
    kept = [reason for reason in report.reasons if reason.outcome == "pass"]
    deciding = report.reasons[0].model_copy(
        update={"id": "deciding", "outcome": verdict, "message": f"because of {verdict}"}
    )
    return report.model_copy(
        update={
            "verdict": verdict,
            "exit_code": code,
            "summary": f"{verdict.upper()} ({code}): because",
            "reasons": (*kept, deciding),
        }
    )


def early_end(code: int, *, known: bool = True) -> AuditReport:
    """Return the report of an audit that ended before anything was loaded."""
    partial = PartialReport("org/name@main", config=AuditConfig("org/name@main", seed=3) if known else None)
    outcome = ENDINGS[code]
    return partial.unfinished(
        code, outcome, "the hub does not answer", f"{outcome.upper()} ({code}): no answer"
    )
