"""The report as JUnit XML (the schema of Jenkins' xunit plugin): one test case per check.

``failure`` means the verdict *fail* (exit code 1) and nothing else; an audit without an answer (3, 4, 5)
gives ``error``. What was not examined, was waived or did not decide is ``skipped``, never passed.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from xml.etree import ElementTree as ET

from platodef_cli.errors import EXIT_FAIL, EXIT_PASS
from platodef_cli.records import AuditReport, ContextRecord, Outcome
from platodef_cli.report.escaping import plain
from platodef_cli.report.interface import RenderOptions
from platodef_cli.report.quality import in_one_line
from platodef_cli.report.view import reasons, target_name

_Status = Literal["failure", "error", "skipped"]


@dataclass(frozen=True)
class _Case:
    name: str
    group: str
    text: str
    status: _Status | None = None
    kind: str = ""


def _status(report: AuditReport, outcome: Outcome) -> _Status | None:
    """Return the element of a reason: passed checks have none."""
    if outcome == "pass":
        return None
    if report.exit_code not in (EXIT_PASS, EXIT_FAIL):
        return "error"
    # under a verdict of pass or fail, whatever has another outcome did not decide
    return "failure" if outcome == "fail" and report.exit_code == EXIT_FAIL else "skipped"


def _cases(report: AuditReport) -> Iterator[_Case]:
    yield _Case("verdict", "audit", report.summary, _status(report, report.verdict), report.verdict)
    for line in reasons(report):
        status: _Status | None = (
            "skipped" if line.excuse or not line.examined else _status(report, line.outcome)
        )
        kind = line.outcome if line.examined else "not examined"
        yield _Case(line.id, "check", line.text, status, kind)
    for finding in report.findings:
        status = "skipped" if finding.waived else None
        yield _Case(finding.id, "finding", f"{finding.severity}: {finding.message}", status, "waived")
    for entry in report.not_examined:
        yield _Case(entry, "not-examined", entry, "skipped", "not examined")


def _element(case: _Case, name: str, target: str) -> ET.Element:
    element = ET.Element("testcase", name=name, classname=f"platodef.{case.group}.{target}", time="0")
    text = plain(case.text, 1000)
    if case.status is None:
        ET.SubElement(element, "system-out").text = text
    else:
        ET.SubElement(element, case.status, type=case.kind, message=text).text = text
    return element


def _properties(report: AuditReport, target: str) -> ET.Element:
    values = {
        "verdict": report.verdict,
        "exit_code": str(report.exit_code),
        "summary": report.summary,
        "target": target,
        "target_sha256": "" if report.target is None else report.target.digest,
        "target_commit": "" if report.target is None else report.target.commit or "",
        "policy": str(report.policy.get("name", "default")),
        "seed": str(report.seed),
        "tool_version": report.tool_version,
        **({} if report.context is None else _context(report.context)),
    }
    element = ET.Element("properties")
    for name, value in values.items():
        ET.SubElement(element, "property", name=plain(name, 150), value=plain(value, 1000))
    return element


def _context(context: ContextRecord) -> dict[str, str]:
    """Return what tells how much a result is worth, as properties."""
    values = {f"taxonomy:{name}": " ".join(taxa) for name, taxa in context.taxonomy.entries.items()}
    for quality in context.quality.measured:
        values[f"test_quality:{quality.benchmark}"] = in_one_line(quality)
    if context.quality.not_measured:
        values["test_quality:not_measured"] = "; ".join(context.quality.not_measured)
    if context.signature is not None:
        values["signature"] = context.signature.status
    return values


def _timestamp(stamp: str) -> dict[str, str]:
    """Return the attribute, in UTC without a zone as the format wants it, or nothing where it is unknown."""
    try:
        time = datetime.fromisoformat(stamp).astimezone(UTC)
    except ValueError:
        return {}
    return {"timestamp": time.strftime("%Y-%m-%dT%H:%M:%S")}


def render(report: AuditReport, options: RenderOptions) -> str:
    """Return one test suite; its property ``verdict`` and its first test case are the verdict."""
    target = plain(target_name(report), 100)
    cases = list(_cases(report))
    count = Counter(case.status for case in cases)
    totals = {"tests": str(len(cases)), "failures": str(count["failure"]), "errors": str(count["error"])}
    seconds = report.timing.seconds
    time = {"time": f"{max(0.0, seconds.get('total', sum(seconds.values()))):.3f}"}
    root = ET.Element("testsuites", {"name": "platodef", **totals, **time})
    suite = ET.SubElement(
        root,
        "testsuite",
        {
            "name": f"platodef audit of {target}",
            **totals,
            "skipped": str(count["skipped"]),
            **time,
            **_timestamp(report.timing.started),
        },
    )
    suite.append(_properties(report, target))
    seen: Counter[tuple[str, str]] = Counter()
    for case in cases:
        name = plain(case.name, 150)
        seen[case.group, name] += 1
        number = seen[case.group, name]
        suite.append(_element(case, name if number == 1 else f"{name} ({number})", target))
    if report.warnings:
        ET.SubElement(suite, "system-err").text = "\n".join(
            plain(warning, 1000) for warning in report.warnings
        )
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"
