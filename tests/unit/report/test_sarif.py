"""SARIF: the public schema, what GitHub asks for beyond it, and the verdict."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from platodef_cli.audit.partial_report import ENDINGS
from platodef_cli.records import AuditReport, Finding, Reason, WaiverRecord
from platodef_cli.report.checks import CHECKS, FALLBACK, check_of
from platodef_cli.report.interface import RenderOptions
from platodef_cli.report.sarif import render
from tests.unit.report.endings import CODES, early_end, with_verdict

SCHEMAS = Path(__file__).parents[2] / "schemas"


@cache
def validator() -> Any:
    schema = json.loads((SCHEMAS / "sarif-2.1.0.json").read_text())
    return jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())


def run_of(report: AuditReport, **options: Any) -> dict[str, Any]:
    """Render, validate and return the only run."""
    log = json.loads(render(report, RenderOptions(**options)))
    assert [error.message for error in validator().iter_errors(log)] == []
    assert log["$schema"].endswith("sarif-schema-2.1.0.json")
    (run,) = log["runs"]
    return dict(run)


def test_the_schema_can_fail(golden_report: AuditReport) -> None:
    log = json.loads(render(golden_report, RenderOptions()))
    log["runs"][0]["results"][0]["level"] = "catastrophic"
    assert list(validator().iter_errors(log))


@pytest.mark.parametrize("verdict", CODES)
def test_every_verdict_is_said(golden_report: AuditReport, verdict: str) -> None:
    run = run_of(with_verdict(golden_report, verdict))
    assert run["properties"]["verdict"] == verdict
    (invocation,) = run["invocations"]
    assert invocation["exitCode"] == CODES[verdict]
    assert invocation["executionSuccessful"] is (verdict in ("pass", "fail", "inconclusive"))
    results = [result for result in run["results"] if result["properties"]["check"] == "deciding"]
    levels = {"fail": ["error"], "refused": ["error"], "error": ["error"], "inconclusive": ["warning"]}
    assert [result["level"] for result in results] == levels.get(verdict, [])


@pytest.mark.parametrize("code", ENDINGS)
@pytest.mark.parametrize("known", [True, False])
def test_an_audit_that_ended_early_is_an_alert_not_an_empty_list(code: int, known: bool) -> None:
    run = run_of(early_end(code, known=known))
    (result,) = run["results"]
    assert result["message"]["text"] == "org/name@main: the hub does not answer"
    assert run["properties"]["verdict"] == ENDINGS[code]
    assert run["properties"]["targetDigest"] is None
    notes = run["invocations"][0].get("toolExecutionNotifications", [])
    assert bool(notes) is (ENDINGS[code] != "inconclusive")


def test_what_github_requires(golden_report: AuditReport) -> None:
    run = run_of(golden_report)
    driver = run["tool"]["driver"]
    assert driver["name"] == "platodef"
    assert re.fullmatch(r"platodef/[\w.-]+/", run["automationDetails"]["id"])
    for rule in driver["rules"]:
        assert rule["id"]
        assert len(rule["name"]) <= 255
        for part in ("shortDescription", "fullDescription", "help"):
            assert 0 < len(rule[part]["text"]) <= 1024
        assert rule["defaultConfiguration"]["level"] in ("note", "warning", "error")
        if "security-severity" in rule["properties"]:
            assert 0 < float(rule["properties"]["security-severity"]) <= 10
            assert "security" in rule["properties"]["tags"]
    prints = []
    for result in run["results"]:
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("note", "warning", "error")
        assert result["message"]["text"].strip()
        (location,) = result["locations"]
        physical = location["physicalLocation"]
        assert physical["artifactLocation"]["uri"] == "platodef.toml"
        assert set(physical["region"]) == {"startLine", "startColumn", "endLine", "endColumn"}
        prints.append(result["partialFingerprints"]["primaryLocationLineHash"])
    assert len(set(prints)) == len(prints) == 4


def test_rules_do_not_depend_on_the_results(golden_report: AuditReport) -> None:
    rules = [run_of(report)["tool"]["driver"]["rules"] for report in (golden_report, early_end(3))]
    assert rules[0] == rules[1]
    assert len({rule["id"] for rule in rules[0]}) == len(rules[0])


def test_fingerprints_survive_an_update_of_the_model_and_tell_checks_apart(
    golden_report: AuditReport,
) -> None:
    def prints(revision: str, identity: str = "org/name") -> list[str]:
        report = golden_report.model_copy(update={"configuration": {"model": f"{identity}{revision}"}})
        return [
            result["partialFingerprints"]["primaryLocationLineHash"] for result in run_of(report)["results"]
        ]

    assert prints("@v1") == prints("@v2")
    assert not set(prints("@v1")) & set(prints("@v1", "org/other"))


def test_fingerprints_know_neither_messages_nor_what_else_failed(golden_report: AuditReport) -> None:
    failed = next(reason for reason in golden_report.reasons if reason.id == "search-patch")
    first, second, third = (
        failed.model_copy(update={"subject": name, "message": f"about {name}"}) for name in ("a", "b", "c")
    )

    def prints(*reasons: Reason) -> dict[str, str]:
        report = golden_report.model_copy(update={"reasons": reasons, "findings": ()})
        found = run_of(report)["results"]
        assert all(len(set(result["partialFingerprints"].values())) == 1 for result in found)
        marks = [result["partialFingerprints"]["primaryLocationLineHash"] for result in found]
        return dict(zip((str(reason.subject) for reason in reasons), marks, strict=True))

    every = prints(first, second, third)
    assert len(set(every.values())) == 3
    reworded = second.model_copy(update={"message": "other words", "value": 0.1, "limit": 0.2})
    assert prints(third, reworded) == {"c": every["c"], "b": every["b"]}


def test_a_folder_with_an_at_sign_is_no_revision(golden_report: AuditReport) -> None:
    hashes = []
    for model in ("/models/@a/x", "/models/@b/x"):
        report = golden_report.model_copy(update={"configuration": {"model": model}})
        hashes.append(run_of(report)["results"][0]["partialFingerprints"])
    assert hashes[0] != hashes[1]


def test_a_finding_that_repeats_a_reason_is_no_second_alert(golden_report: AuditReport) -> None:
    repeated = Finding(id="search-patch-5px", severity="high", message="found patch 5px")
    report = golden_report.model_copy(update={"findings": (repeated,)})
    checks = [result["properties"]["check"] for result in run_of(report)["results"]]
    assert checks == ["search-patch", "battery-patch"]
    passed = tuple(reason for reason in report.reasons if reason.outcome == "pass")
    alone = run_of(report.model_copy(update={"reasons": passed}))["results"]
    assert [result["properties"]["check"] for result in alone] == ["search-patch-5px"]


def test_two_reasons_of_one_kind_are_two_alerts(golden_report: AuditReport) -> None:
    failed = next(reason for reason in golden_report.reasons if reason.id == "search-patch")
    twice = golden_report.model_copy(update={"reasons": (failed, failed), "findings": ()})
    hashes = [r["partialFingerprints"]["primaryLocationLineHash"] for r in run_of(twice)["results"]]
    assert [entry[-2:] for entry in hashes] == [":1", ":2"]
    assert hashes[0][:-2] == hashes[1][:-2]


def test_a_waived_finding_stays_and_is_suppressed_with_its_reason(golden_report: AuditReport) -> None:
    finding = Finding(id="pickle", severity="low", message="holds pickles", waived=True)
    waiver = "pickle: the mirror keeps them for old tools (ada, until 2027-01-31)"
    report = golden_report.model_copy(update={"findings": (finding,), "waivers": (waiver,)})
    (result,) = [r for r in run_of(report)["results"] if r["ruleId"] == "pickle"]
    assert result["suppressions"] == [{"kind": "external", "status": "accepted", "justification": waiver}]
    others = [r for r in run_of(report)["results"] if r["ruleId"] != "pickle"]
    assert all("suppressions" not in result for result in others)


def test_a_waived_reason_is_suppressed_by_its_own_waiver(golden_report: AuditReport) -> None:
    waiver = WaiverRecord(
        id="search-patch:5px",
        model="0" * 64,
        reason="a logo",
        owner="ada",
        expires="2027-01-31",
        status="applied",
    )
    others = [
        waiver.model_copy(update={"id": "search-patch", "status": "expired", "reason": "late"}),
        waiver.model_copy(update={"id": "search-patchwork", "reason": "another check"}),
    ]
    reasons = tuple(
        reason.model_copy(update={"waived": reason.id == "search-patch"}) for reason in golden_report.reasons
    )
    report = golden_report.model_copy(update={"reasons": reasons, "waiver_records": (waiver, *others)})
    suppressed = [r for r in run_of(report)["results"] if "suppressions" in r]
    assert [r["properties"]["check"] for r in suppressed] == ["search-patch"]
    assert suppressed[0]["suppressions"][0]["justification"] == "a logo (ada, until 2027-01-31)"


def test_the_anchor_is_a_relative_uri(golden_report: AuditReport) -> None:
    run = run_of(golden_report, anchor="models/my policy#1.toml")
    uris = {r["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for r in run["results"]}
    assert uris == {"models/my%20policy%231.toml"}


def test_messages_hold_no_embedded_links(golden_report: AuditReport) -> None:
    hostile = golden_report.reasons[1].model_copy(update={"message": "see [here](http://evil.example) 1"})
    (first, *_) = run_of(golden_report.model_copy(update={"reasons": (hostile,)}))["results"]
    assert "[here] (http://evil.example)" in first["message"]["text"]


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("search-patch", "search"),
        ("battery-ctrl", "battery"),
        ("battery", "battery"),
        ("too-few-images", "too-few-images"),
        ("disguised-pickle", "disguised-pickle"),
        ("searching", FALLBACK.id),
        ("", FALLBACK.id),
    ],
)
def test_rules_by_the_longest_id(name: str, rule: str) -> None:
    assert check_of(name).id == rule


def test_every_check_of_an_audit_has_a_rule_of_its_own(golden_report: AuditReport) -> None:
    """Reasons and findings that the package makes are in the table, so that none falls back."""
    package = Path(__file__).parents[3] / "platodef_cli"
    pattern = re.compile(r'(?:Reason|Finding)\(\s*id=f?"([a-z-]+)')
    names = {
        match.rstrip("-")
        for path in package.rglob("*.py")
        for match in pattern.findall(path.read_text(encoding="utf-8"))
    }
    assert names >= {"battery", "search", "alignment", "matched", "no-commit", "pickle"}
    assert {name for name in names if check_of(name) is FALLBACK} == set()
    assert len(CHECKS) == len({rule.id for rule in CHECKS})
