"""CycloneDX 1.7, by the validator of the library of its makers."""

import json
from typing import Any

import pytest

from platodef_cli.audit.context import context_of
from platodef_cli.audit.partial_report import ENDINGS
from platodef_cli.records import AuditReport, CardRecord
from platodef_cli.report import render
from platodef_cli.report.interface import RenderOptions
from tests.unit.report.endings import CODES, early_end, with_verdict


def document(report: AuditReport) -> dict[str, Any]:
    pytest.importorskip("cyclonedx", reason="needs the package cyclonedx-python-lib")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = render(report, "cyclonedx", RenderOptions())
    assert JsonStrictValidator(SchemaVersion.V1_7).validate_str(text) is None
    value: dict[str, Any] = json.loads(text)
    broken = json.dumps({**value, "bomFormat": "SPDX"})
    assert JsonStrictValidator(SchemaVersion.V1_7).validate_str(broken) is not None
    return value


@pytest.fixture
def report(golden_report: AuditReport) -> AuditReport:
    context = context_of(golden_report.configuration, golden_report.policy)
    card = CardRecord(license="apache-2.0")
    return golden_report.model_copy(update={"context": context.model_copy(update={"card": card})})


@pytest.mark.parametrize("verdict", CODES)
def test_every_verdict_is_a_declaration(golden_report: AuditReport, verdict: str) -> None:
    value = document(with_verdict(golden_report, verdict))
    declarations = value["declarations"]
    (claim,) = declarations["claims"]
    assert claim["predicate"].startswith(f"verdict: {verdict} ")
    assert claim["target"] == value["metadata"]["component"]["bom-ref"]
    ((entry,),) = [attestation["map"] for attestation in declarations["attestations"]]
    score = {"pass": 1, "fail": 0, "refused": 0}.get(verdict)
    assert entry["conformance"].get("score") == score
    assert ("claims" in entry) is (verdict == "pass")


def test_every_reference_inside_leads_somewhere(report: AuditReport) -> None:
    found: list[str] = []
    used: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            found.extend([value["bom-ref"]] if "bom-ref" in value else [])
            for key in ("target", "requirement", "assessor"):
                used.extend([value[key]] if isinstance(value.get(key), str) else [])
            for key in ("claims", "counterClaims", "evidence"):
                used.extend(entry for entry in value.get(key, ()) if isinstance(entry, str))
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)

    walk(document(report))
    assert len(found) == len(set(found))
    assert used
    assert set(used) <= set(found)


def test_the_model_its_files_and_its_measurements(report: AuditReport) -> None:
    value = document(report)
    suspect = value["metadata"]["component"]
    assert suspect["type"] == "machine-learning-model"
    assert suspect["licenses"] == [{"license": {"name": "apache-2.0"}}]
    assert report.target is not None
    assert {file["hashes"][0]["content"] for file in suspect["components"]} == {
        file.sha256 for file in report.target.files
    }
    metrics = suspect["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    slices = {metric.get("slice") for metric in metrics}
    assert {f"{probe.kind}: {probe.name}" for probe in report.probes} <= slices
    assert "benchmark small: ctrl" in slices
    assert any("confidenceInterval" in metric for metric in metrics)
    limits = suspect["modelCard"]["considerations"]["technicalLimitations"]
    assert any("not measured" in entry for entry in limits)
    assert [component["name"] for component in value["components"]] == [r.name for r in report.references]


def test_equal_reports_give_equal_bytes_and_others_another_number(report: AuditReport) -> None:
    assert render(report, "cyclonedx", RenderOptions()) == render(report, "cyclonedx", RenderOptions(width=9))
    other = report.model_copy(update={"seed": 99})
    assert document(report)["serialNumber"] != document(other)["serialNumber"]


@pytest.mark.parametrize("code", ENDINGS)
@pytest.mark.parametrize("known", [True, False])
def test_an_audit_that_ended_early(code: int, known: bool) -> None:
    value = document(early_end(code, known=known))
    assert value["metadata"]["component"]["name"] == "org/name@main"


@pytest.mark.parametrize(
    ("uri", "commit", "purl"),
    [
        ("org/name@main", "A" * 40, f"pkg:huggingface/org/name@{'a' * 40}"),
        ("hf://org/na%me", "b" * 40, f"pkg:huggingface/org/na%25me@{'b' * 40}"),
        ("org/name/sub", "c" * 40, f"pkg:huggingface/org/name@{'c' * 40}#sub"),
        ("/a/folder", None, None),
    ],
)
def test_package_urls(golden_report: AuditReport, uri: str, commit: str | None, purl: str | None) -> None:
    assert golden_report.target is not None
    target = golden_report.target.model_copy(update={"uri": uri, "commit": commit})
    value = document(golden_report.model_copy(update={"target": target}))
    assert value["metadata"]["component"].get("purl") == purl
