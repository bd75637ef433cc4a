"""The report as a CycloneDX 1.7 bill of material: the encoder, its files, its measurements and the verdict.

Written by hand, since ``cyclonedx-python-lib`` has no model cards; its validator checks it in the tests.
Equal reports give equal bytes: the serial number follows from the report.
Source: https://cyclonedx.org/docs/1.7/json/
"""

import json
import re
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid5

from platodef_cli.records import AuditReport, EncoderRecord, Metric, ProbeRecord
from platodef_cli.report.escaping import plain
from platodef_cli.report.interface import RenderOptions
from platodef_cli.report.json import dumps, encodable
from platodef_cli.report.taxonomies import TAXA, taxa_of
from platodef_cli.report.view import MEANING, target_name
from platodef_cli.version import HOME, PLACEHOLDER

SCHEMA = "http://cyclonedx.org/schema/bom-1.7.schema.json"
_COMMIT = re.compile(r"[0-9a-fA-F]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SPACE = UUID("6f0a6d0e-9a3b-5c1e-8f57-2b1d0c7a4e11")
"""Of the serial numbers; any fixed one does."""
_SUSPECT, _REQUIREMENT, _CLAIM, _EVIDENCE, _ASSESSOR = (
    "suspect", "requirement:audit", "claim:verdict", "evidence:report", "assessor:platodef",
)  # fmt: skip


def _text(value: object, limit: int = 500) -> str:
    return plain(str(value), limit)


def _properties(values: dict[str, object]) -> list[dict[str, str]]:
    return [
        {"name": f"platodef:{_text(name, 200)}", "value": _text(value, 2000)}
        for name, value in values.items()
    ]


def _purl(encoder: EncoderRecord) -> dict[str, str]:
    """Return the package URL of an encoder of the Hub (type huggingface); a folder has none."""
    name = encodable(encoder.uri).removeprefix("hf://").partition("@")[0]
    parts = [quote(part, safe="") for part in name.split("/")]
    if encoder.commit is None or not _COMMIT.fullmatch(encoder.commit) or not all(parts) or len(name) > 500:
        return {}
    below = f"#{'/'.join(parts[2:])}" if parts[2:] else ""
    return {"purl": f"pkg:huggingface/{'/'.join(parts[:2])}@{encoder.commit.lower()}{below}"}


def _component(encoder: EncoderRecord, reference: str) -> dict[str, Any]:
    files = [
        {
            "type": "file",
            "bom-ref": f"{reference}:file:{place}",
            "name": _text(file.path),
            **(
                {"hashes": [{"alg": "SHA-256", "content": file.sha256}]}
                if _SHA256.fullmatch(file.sha256)
                else {}
            ),
        }
        for place, file in enumerate({file.path: file for file in encoder.files}.values())
    ]
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": reference,
        "name": _text(encoder.name),
        "version": _text(encoder.commit or encoder.digest),
        "description": f"vision encoder, {_text(encoder.backend)} {_text(encoder.architecture)}, "
        f"{encoder.dim} features, {encoder.parameters} parameters",
        **_purl(encoder),
        "properties": _properties({"uri": encoder.uri, "digest": encoder.digest, "dtype": encoder.dtype}),
    }
    # a hash of the component is one of a file; several files have theirs below
    if len(files) == 1 and "hashes" in files[0]:
        component["hashes"] = files[0]["hashes"]
    if files:
        component["components"] = files
    return component


def _number(value: float) -> str:
    return f"{value:.6g}"


def _metric(metric: Metric, part: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": _text(metric.name, 200), "value": _number(metric.value or 0.0)}
    if part:
        entry["slice"] = _text(part, 200)
    if metric.interval is not None:
        entry["confidenceInterval"] = {
            "lowerBound": _number(metric.interval.low),
            "upperBound": _number(metric.interval.high),
        }
    return entry


def _probe(probe: ProbeRecord, deciding: str) -> list[dict[str, Any]]:
    metrics = [probe.collapse, probe.flagged, probe.effect]
    metrics += [metric for metric in (probe.gap, probe.auroc.get(deciding)) if metric is not None]
    return [_metric(metric, f"{probe.kind}: {probe.name}") for metric in metrics if metric.value is not None]


def _model_card(report: AuditReport) -> dict[str, Any]:
    metrics = [_metric(metric, "") for metric in report.metrics if metric.value is not None]
    for probe in report.probes:
        metrics += _probe(probe, report.deciding)
    limitations = [_text(entry) for entry in (*MEANING, *report.not_examined)]
    if report.context is not None:
        for quality in report.context.quality.measured:
            part = f"benchmark {quality.benchmark}"
            metrics += [_metric(metric, part) for metric in (quality.detected, quality.false_alarms)]
            metrics += [_metric(rate.detected, f"{part}: {rate.family}") for rate in quality.families]
        limitations += [f"not measured: {_text(entry)}" for entry in report.context.quality.not_measured]
    card: dict[str, Any] = {"bom-ref": "model-card"}
    if report.target is not None:
        card["modelParameters"] = {
            "task": "feature extraction",
            "modelArchitecture": _text(report.target.architecture),
            "inputs": [{"format": "image"}],
            "outputs": [{"format": "feature vector"}],
        }
    if metrics:
        card["quantitativeAnalysis"] = {"performanceMetrics": metrics}
    card["considerations"] = {"technicalLimitations": limitations}
    return card


def _declarations(report: AuditReport) -> dict[str, Any]:
    """Return the verdict: whether the encoder conforms to the requirement, and how that was found."""
    passed = report.verdict == "pass"
    accused = {
        entry
        for reason in report.reasons
        if reason.outcome not in ("pass", "inconclusive")
        for entry in taxa_of(reason.id, reason.message)
        if not TAXA[entry].mitigation
    }
    claim = {
        "bom-ref": _CLAIM,
        "target": _SUSPECT,
        "predicate": f"verdict: {report.verdict} (exit code {report.exit_code})",
        "reasoning": _text(
            "; ".join([report.summary, *(f"{r.id}: {r.message}" for r in report.reasons)]), 4000
        ),
        "evidence": [_EVIDENCE],
    }
    evidence = {
        "bom-ref": _EVIDENCE,
        "propertyName": "platodef:report",
        "description": _text(f"report of an audit on {report.images.uri}" if report.images else "report"),
        "data": [
            {
                "name": "report",
                "contents": {
                    "attachment": {"contentType": "text/plain", "content": f"sha256 {_digest(report)}"}
                },
            }
        ],
    }
    if accused:
        evidence["description"] = _text(f"{evidence['description']}; {', '.join(sorted(accused))}")
    conformance: dict[str, Any] = {"rationale": _text(report.summary, 1000)}
    # an audit without an answer says nothing about conformance, neither 0 nor 1
    if report.verdict in ("pass", "fail", "refused"):
        conformance["score"] = 1 if passed else 0
    mapped: dict[str, Any] = {"requirement": _REQUIREMENT, "conformance": conformance}
    mapped["claims" if passed else "counterClaims"] = [_CLAIM]
    return {
        "assessors": [{"bom-ref": _ASSESSOR, "thirdParty": True, "organization": {"name": "platodef"}}],
        "attestations": [
            {"summary": _text(report.summary, 1000), "assessor": _ASSESSOR, "map": [mapped]},
        ],
        "claims": [claim],
        "evidence": [evidence],
    }


def _standard(report: AuditReport) -> dict[str, Any]:
    policy = _text(report.policy.get("name", "default"), 100)
    requirement = {
        "bom-ref": _REQUIREMENT,
        "identifier": f"policy {policy}",
        "title": "No tested indicator of a backdoor crosses its limit",
        "properties": _properties({f"policy:{name}": value for name, value in report.policy.items()}),
    }
    return {
        "bom-ref": "standard:platodef",
        "name": "platodef audit",
        "version": _text(report.tool_version, 50),
        "requirements": [requirement],
    }


def _digest(report: AuditReport) -> str:
    text = json.dumps(encodable(report.model_dump(mode="json")), sort_keys=True, allow_nan=False)
    return sha256(text.encode("ascii")).hexdigest()


def _timestamp(report: AuditReport) -> dict[str, str]:
    try:
        time = datetime.fromisoformat(report.timing.finished).astimezone(UTC)
    except ValueError:
        return {}
    return {"timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ")}


def render(report: AuditReport, options: RenderOptions) -> str:
    """Return a CycloneDX 1.7 document; ``declarations`` holds the verdict, for the suspect's ``bom-ref``."""
    if report.target is None:
        suspect: dict[str, Any] = {
            "type": "machine-learning-model",
            "bom-ref": _SUSPECT,
            "name": _text(target_name(report)),
        }
    else:
        suspect = _component(report.target, _SUSPECT)
    card = None if report.context is None else report.context.card
    if card is not None and card.license:
        suspect["licenses"] = [{"license": {"name": _text(card.license, 100)}}]
    suspect["modelCard"] = _model_card(report)
    references = [
        _component(encoder, f"reference:{place}") for place, encoder in enumerate(report.references)
    ]
    tool: dict[str, Any] = {
        "type": "application",
        "bom-ref": "platodef",
        "name": "platodef",
        "version": _text(report.tool_version, 50),
    }
    if HOME != PLACEHOLDER:
        tool["externalReferences"] = [{"type": "website", "url": HOME}]
    document = {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.7",
        "serialNumber": f"urn:uuid:{uuid5(_SPACE, _digest(report))}",
        "version": 1,
        "metadata": {
            **_timestamp(report),
            "tools": {"components": [tool]},
            "component": suspect,
            "properties": _properties(
                {"verdict": report.verdict, "exitCode": report.exit_code, "summary": report.summary}
            ),
        },
        "components": references,
        "declarations": _declarations(report),
        "definitions": {"standards": [_standard(report)]},
    }
    return dumps(document)
