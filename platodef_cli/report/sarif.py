"""The report as SARIF 2.1.0, for code scanning: one result per check that did not pass.

Follows the OASIS standard and what GitHub asks for beyond it: an explicit location with a region, rules
with help, a fingerprint, and no result for what passed (a result of any kind would show as an alert).
"""

import re
from collections import Counter
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from urllib.parse import quote

from platodef_cli.records import AuditReport, Finding
from platodef_cli.report.checks import CHECKS, LEVELS, CheckDescription, check_of
from platodef_cli.report.escaping import plain
from platodef_cli.report.interface import RenderOptions
from platodef_cli.report.json import dumps
from platodef_cli.report.taxonomies import OF_CHECK, TAXA, TAXONOMIES, taxa_of
from platodef_cli.report.taxonomies import VERSION as TAXONOMY_VERSION
from platodef_cli.report.view import ReasonLine, reasons, target_name

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_SEVERITIES = {"high": "error", "medium": "warning", "low": "note", "info": "note"}
_COMPLETED = ("pass", "fail", "inconclusive")
_REVISION = re.compile(r"^((?:hf://)?[^/@]+/[^/@]+)@.*$")
_EVIDENCE = {"trigger": "battery", "search": "search"}
"""Check of a finding -> rule of the reason that says the same and is the alert."""
_UNSAFE_IN_ID = re.compile(r"[^A-Za-z0-9._-]+")


def _message(text: str) -> dict[str, str]:
    """Return a plain-text message; the blank keeps a viewer from making a link of ``[text](address)``."""
    return {"text": plain(text.strip(), 1000).replace("](", "] (") or "no message"}


def _descriptor(rule: CheckDescription) -> dict[str, Any]:
    properties: dict[str, Any] = {"tags": ["security", "machine-learning"], "precision": "medium"}
    if rule.severity is None:
        properties = {"tags": ["machine-learning"], "precision": "high", "problem.severity": "warning"}
    else:
        properties["security-severity"] = str(rule.severity)
    return {
        "id": rule.id,
        "name": "".join(word.capitalize() for word in rule.id.split("-")),
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.meaning},
        "help": {"text": rule.meaning, "markdown": f"**{rule.title}.** {rule.meaning}"},
        "defaultConfiguration": {"level": "error" if (rule.severity or 0) >= 7 else "warning"},
        "properties": properties,
        **({"relationships": relations} if (relations := _relations(rule)) else {}),
    }


def _relations(rule: CheckDescription) -> list[dict[str, Any]]:
    """Return where a rule stands in the taxonomies of the run."""
    return [
        {
            "target": {"id": entry, "toolComponent": _component(TAXA[entry].scheme)},
            "kinds": ["relevant"],
        }
        for entry in OF_CHECK.get(rule.id, ())
    ]


def _component(scheme: str) -> dict[str, Any]:
    index = next(place for place, taxonomy in enumerate(TAXONOMIES) if taxonomy.name == scheme)
    return {"name": scheme, "index": index}


def _taxonomies() -> list[dict[str, Any]]:
    """Return the public taxonomies with the entries that rules refer to."""
    return [
        {
            "name": taxonomy.name,
            "organization": taxonomy.organization,
            "version": taxonomy.release,
            "informationUri": taxonomy.uri,
            "isComprehensive": False,
            "taxa": [
                {
                    "id": taxon.id,
                    "name": taxon.name,
                    "helpUri": taxon.uri,
                    "shortDescription": {"text": taxon.name},
                }
                for taxon in TAXA.values()
                if taxon.scheme == taxonomy.name
            ],
        }
        for taxonomy in TAXONOMIES
    ]


def _taxa(name: str, message: str) -> list[dict[str, Any]]:
    """Return the entries of a result."""
    return [
        {"id": entry, "toolComponent": _component(TAXA[entry].scheme)} for entry in taxa_of(name, message)
    ]


def _location(report: AuditReport, anchor: str) -> dict[str, Any]:
    name = plain(target_name(report), 200)
    return {
        "physicalLocation": {
            "artifactLocation": {"uri": quote(anchor), "uriBaseId": "%SRCROOT%"},
            "region": {"startLine": 1, "startColumn": 1, "endLine": 1, "endColumn": 2},
        },
        "logicalLocations": [{"name": name, "kind": "resource"}],
    }


def _fingerprint(report: AuditReport, name: str) -> str:
    """Return what stays the same when the same check of the same model fails again after an update."""
    asked = _REVISION.sub(r"\1", str(report.configuration.get("model", target_name(report))))
    return sha256(f"{asked}\0{name}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _results(report: AuditReport, anchor: str) -> list[dict[str, Any]]:
    entries: list[tuple[str, str, str, dict[str, str] | None]] = [
        (line.id, LEVELS[line.outcome], line.text, _excuse(report, line))
        for line in reasons(report)
        if line.outcome in LEVELS
    ]
    alerted = {check_of(name).id for name, *_ in entries}
    entries += [
        (finding.id, _SEVERITIES[finding.severity], finding.message, _suppression(report, finding))
        for finding in report.findings
        if _EVIDENCE.get(check_of(finding.id).id) not in alerted
    ]
    seen: Counter[str] = Counter()
    results = []
    for name, level, text, suppression in entries:
        seen[name] += 1
        rule = check_of(name)
        result: dict[str, Any] = {
            "ruleId": rule.id,
            "ruleIndex": CHECKS.index(rule),
            "level": level,
            "message": _message(f"{target_name(report)}: {text}"),
            "locations": [_location(report, anchor)],
            "partialFingerprints": {"primaryLocationLineHash": f"{_fingerprint(report, name)}:{seen[name]}"},
            "properties": {"check": plain(name, 100)},
        }
        taxa = _taxa(name, text)
        if taxa:
            result["taxa"] = taxa
        if suppression is not None:
            result["suppressions"] = [suppression]
        results.append(result)
    return results


def _suppression(report: AuditReport, finding: Finding) -> dict[str, str] | None:
    return _accepted(_justification(report, finding.id)) if finding.waived else None


def _excuse(report: AuditReport, line: ReasonLine) -> dict[str, str] | None:
    if not line.excuse:
        return None
    return _accepted(_justification(report, line.id) if line.excuse == "waived" else line.excuse)


def _justification(report: AuditReport, name: str) -> str:
    """Return who answers for something until when, and why."""
    applied = [
        f"{waiver.reason} ({waiver.owner}, until {waiver.expires})"
        for waiver in report.waiver_records
        if waiver.status == "applied" and waiver.id.partition(":")[0] == name
    ]
    return "; ".join(applied or [line for line in report.waivers if line.startswith(f"{name}:")]) or "waived"


def _accepted(why: str) -> dict[str, str]:
    return {"kind": "external", "status": "accepted", "justification": plain(why, 1000)}


def _time(stamp: str) -> str | None:
    """Return a time as SARIF wants it, ``2026-01-31T12:00:00Z``, or None where there is none."""
    try:
        return datetime.fromisoformat(stamp).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        return None


def _invocation(report: AuditReport) -> dict[str, Any]:
    times = {"startTimeUtc": _time(report.timing.started), "endTimeUtc": _time(report.timing.finished)}
    invocation: dict[str, Any] = {
        "executionSuccessful": report.verdict in _COMPLETED,
        "exitCode": report.exit_code,
        "exitCodeDescription": plain(report.summary, 1000),
        **{name: time for name, time in times.items() if time is not None},
    }
    notes = [{"level": "warning", "message": _message(warning)} for warning in report.warnings]
    if report.verdict not in _COMPLETED:
        notes.insert(0, {"level": "error", "message": _message(report.summary)})
    if notes:
        invocation["toolExecutionNotifications"] = notes
    return invocation


def _properties(report: AuditReport) -> dict[str, Any]:
    target = report.target
    return {
        "verdict": report.verdict,
        "exitCode": report.exit_code,
        "summary": plain(report.summary, 1000),
        "target": plain(target_name(report), 200),
        "targetCommit": None if target is None else target.commit,
        "targetDigest": None if target is None else plain(target.digest, 100),
        "policy": plain(str(report.policy.get("name", "default")), 200),
        "passed": [plain(reason.id, 100) for reason in report.reasons if reason.outcome == "pass"],
        "notExamined": [plain(entry, 500) for entry in report.not_examined],
        "reportSchemaVersion": plain(report.schema_version, 20),
        "taxonomyVersion": TAXONOMY_VERSION,
        "testQuality": None if report.context is None else report.context.quality.model_dump(mode="json"),
    }


def render(report: AuditReport, options: RenderOptions) -> str:
    """Return a SARIF 2.1.0 log with one run; ``properties.verdict`` of the run is the verdict."""
    category = _UNSAFE_IN_ID.sub("-", target_name(report))[:100].strip("-") or "model"
    run = {
        "tool": {
            "driver": {
                "name": "platodef",
                "version": plain(report.tool_version, 50),
                "rules": [_descriptor(rule) for rule in CHECKS],
                "supportedTaxonomies": [_component(taxonomy.name) for taxonomy in TAXONOMIES],
            }
        },
        "taxonomies": _taxonomies(),
        "automationDetails": {"id": f"platodef/{category}/"},
        "originalUriBaseIds": {"%SRCROOT%": {"description": {"text": "root of the repository"}}},
        "invocations": [_invocation(report)],
        "results": _results(report, options.anchor),
        "columnKind": "unicodeCodePoints",
        "properties": _properties(report),
    }
    return dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]})
