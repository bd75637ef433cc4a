"""A report in the words of predicates that others read: test result, verification summary, simple result.

Sources: https://in-toto.io/attestation/test-result/v0.1, https://slsa.dev/verification_summary/v1 (1.1) and
https://in-toto.io/attestation/svr/v0.1. All are about the same subjects as the full report; only a pass says
that something was verified.
"""

import json
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Literal, get_args

from platodef_cli.attestation.statement import digest, statement_bytes, write_statement
from platodef_cli.errors import UsageError
from platodef_cli.records import AuditReport
from platodef_cli.report.escaping import plain
from platodef_cli.report.json import encodable
from platodef_cli.version import HOME

Kind = Literal["report", "test-result", "vsa", "svr"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
VERIFICATION_SUMMARY = "https://slsa.dev/verification_summary/v1"
SIMPLE_RESULT = "https://in-toto.io/attestation/svr/v0.1"
PASSED = "PLATODEF_AUDIT_PASSED"
"""The property that a pass verifies; it never begins with ``SLSA_``."""
SIGNED = "PLATODEF_PUBLISHER_SIGNATURE_TRUSTED"


def write_attestation(report: AuditReport, kind: Kind, root: str | None = None) -> bytes:
    """Return an unsigned statement about the files of a report's target.

    Args:
        report: The report.
        kind: ``report`` carries all of it, the others its outcome.
        root: Root digest of the whole folder (OpenSSF Model Signing).

    Raises:
        UsageError: The report names no files, or no time.
    """
    if kind == "report":
        return write_statement(report, root)
    made = {"test-result": _test_result, "vsa": _summary, "svr": _simple}[kind](report)
    return statement_bytes(report, made[0], encodable(made[1]), root)


def _time(report: AuditReport) -> str:
    """Return when the audit ended, as RFC 3339 in UTC.

    Raises:
        UsageError: The report does not say it.
    """
    try:
        time = datetime.fromisoformat(report.timing.finished)
    except ValueError:
        raise UsageError("the report does not say when the audit ended, which an attestation needs") from None
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _policy(report: AuditReport) -> dict[str, Any]:
    """Return the policy as a resource: its name, and the hash of its values as canonical JSON."""
    text = json.dumps(encodable(report.policy), sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return {
        "uri": f"{HOME}/policy#{plain(str(report.policy.get('name', 'default')), 100)}",
        "digest": {"sha256": sha256(text.encode()).hexdigest()},
    }


def _report(report: AuditReport) -> dict[str, Any]:
    return {"name": "platodef report", "digest": {"sha256": digest(report)}}


def _verifier(report: AuditReport) -> str:
    """Return who judged: limits and methods change with versions, and consumers may trust some of them."""
    return f"{HOME}/v{plain(report.tool_version, 50)}"


def _tests(report: AuditReport, outcomes: tuple[str, ...]) -> list[str]:
    names = [
        f"{reason.id}:{reason.subject}" if reason.subject else reason.id
        for reason in report.reasons
        if reason.outcome in outcomes and reason.decides
    ]
    return list(dict.fromkeys(names))


def _test_result(report: AuditReport) -> tuple[str, dict[str, Any]]:
    """Inconclusive is a warning; refused and not completed are failures: nothing was shown to be good."""
    result = {"pass": "PASSED", "inconclusive": "WARNED"}.get(report.verdict, "FAILED")
    predicate = {
        "result": result,
        "configuration": [{"name": "policy", **_policy(report)}, _report(report)],
        "passedTests": _tests(report, ("pass",)),
        "warnedTests": _tests(report, ("inconclusive",)),
        "failedTests": _tests(report, ("fail", "refused", "error")),
    }
    return TEST_RESULT, predicate


def _verified(report: AuditReport) -> list[str]:
    signature = None if report.context is None else report.context.signature
    signed = [SIGNED] if signature is not None and signature.status == "trusted" else []
    return [*([PASSED] if report.verdict == "pass" else []), *signed]


def _summary(report: AuditReport) -> tuple[str, dict[str, Any]]:
    target = report.target
    passed = report.verdict == "pass"
    predicate = {
        "verifier": {"id": _verifier(report)},
        "timeVerified": _time(report),
        "resourceUri": "" if target is None else target.uri,
        "policy": _policy(report),
        "inputAttestations": [{"uri": f"{HOME}/report", "digest": {"sha256": digest(report)}}],
        "verificationResult": "PASSED" if passed else "FAILED",
        "verifiedLevels": _verified(report) if passed else ["FAILED"],
        "slsaVersion": "1.1",
    }
    return VERIFICATION_SUMMARY, predicate


def _simple(report: AuditReport) -> tuple[str, dict[str, Any]]:
    predicate = {
        "verifier": {"id": _verifier(report), "policy": _policy(report)},
        "timeCreated": _time(report),
        "properties": _verified(report),
    }
    return SIMPLE_RESULT, predicate
