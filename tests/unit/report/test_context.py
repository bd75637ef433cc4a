"""Taxonomies and the quality of the test: well-formed, complete, and in every result that machines read."""

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from platodef_cli.audit.context import context_of
from platodef_cli.audit.policy.limits import Policy
from platodef_cli.audit.verdict import Gate, judge_again
from platodef_cli.bench.attacks import PLANTED
from platodef_cli.records import AccusedRecord, AuditReport, Metric, SaidRecord
from platodef_cli.report import render
from platodef_cli.report.checks import CHECKS
from platodef_cli.report.interface import RenderOptions
from platodef_cli.report.quality import FAMILIES, in_one_line, quality_of, read_quality
from platodef_cli.report.taxonomies import FORMS, OF_CHECK, TAXA, TAXONOMIES, taxa_of, taxonomy_of
from platodef_cli.resources import benchmark_results
from tests.unit.report.endings import early_end
from tests.unit.report.test_sarif import run_of

GOLDEN = Path(__file__).parents[2] / "golden"
EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture
def report(golden_report: AuditReport) -> AuditReport:
    """A failing audit with its context."""
    context = context_of(
        golden_report.configuration,
        golden_report.policy,
        reasons=golden_report.reasons,
        findings=golden_report.findings,
    )
    return golden_report.model_copy(update={"context": context})


def test_every_id_is_well_formed_and_of_its_taxonomy() -> None:
    assert {taxonomy.name for taxonomy in TAXONOMIES} == set(FORMS)
    for identity, taxon in TAXA.items():
        assert FORMS[taxon.scheme].fullmatch(identity), identity
        assert taxon.name
        assert taxon.uri.startswith("https://")
        assert taxon.mitigation is identity.startswith("AML.M")
        if taxon.scheme == "ATLAS":
            assert taxon.uri.endswith(identity)
    assert not FORMS["ATLAS"].fullmatch("AML.T18.0")
    assert not FORMS["CWE"].fullmatch("CWE-0")


def test_every_check_maps_to_entries_that_exist() -> None:
    assert set(OF_CHECK) <= {check.id for check in CHECKS}
    assert {entry for entries in OF_CHECK.values() for entry in entries} == set(TAXA)
    # what accuses an encoder or refuses a file says so in the terms of others
    severe = {check.id for check in CHECKS if (check.severity or 0) >= 8}
    assert severe <= set(OF_CHECK)


@pytest.mark.parametrize(
    ("message", "weakness"),
    [
        ("x.bin: is a pickle, not safetensors; do not use this model", {"CWE-502"}),
        ("x: a link out of the model folder, to /etc/passwd", {"CWE-22"}),
        ("config.json: has 99 bytes, more than 10", {"CWE-400"}),
        ("x.bin: is a gzip archive, not safetensors; do not use this model", {"CWE-502", "CWE-409"}),
        ("m: its weights are only in w.bin, a format that can run code; ask the authors", {"CWE-502"}),
        ("config.json: auto_map would run Python code of the repository; this is never loaded", {"CWE-502"}),
        ("config.json names the hub kernel 'x'; this is never loaded", {"CWE-502"}),
        ("i.json: names the shard '../x'; only plain *.safetensors names are read", {"CWE-22"}),
        ("config.json: gguf_file would choose another weight file; this is never loaded", {"CWE-22"}),
        ("m: its configuration asks for giant buffers; do not use this model", {"CWE-400"}),
        ("w: its header is nested too deeply; do not use this model", {"CWE-400"}),
        ("w: not a safetensors file (its header is longer than the file)", {"CWE-400"}),
        ("m: weight 'a' is not finite (NaN or infinity); do not use this model", set()),
        ("w: the index and the shards disagree about tensor 'a'; download it again", set()),
        ("", {"CWE-502", "CWE-22", "CWE-400", "CWE-409"}),
    ],
)
def test_a_refusal_names_the_weakness_that_it_tells_of(message: str, weakness: set[str]) -> None:
    entries = taxa_of("refused", message)
    assert {entry for entry in entries if entry.startswith("CWE-")} == weakness
    assert "AML.T0018.002" in entries


def test_the_record_holds_what_did_not_pass(report: AuditReport) -> None:
    record = taxonomy_of(report.reasons, report.findings)
    assert record.entries["search-patch"][0] == "AML.T0018.000"
    passed = {reason.id for reason in report.reasons if reason.outcome == "pass"}
    assert not passed & set(record.entries)
    assert report.context is not None
    assert report.context.taxonomy == record


def test_sarif_names_the_taxonomies_and_relates_rules_and_results(report: AuditReport) -> None:
    run = run_of(report)
    known = [{taxon["id"] for taxon in taxonomy["taxa"]} for taxonomy in run["taxonomies"]]
    assert set().union(*known) == set(TAXA)

    def there(reference: dict[str, object]) -> bool:
        component = reference["toolComponent"]
        assert isinstance(component, dict)
        assert run["taxonomies"][component["index"]]["name"] == component["name"]
        return reference["id"] in known[component["index"]]

    related = [rule for rule in run["tool"]["driver"]["rules"] if "relationships" in rule]
    assert {rule["id"] for rule in related} == set(OF_CHECK)
    assert all(there(relation["target"]) for rule in related for relation in rule["relationships"])
    accused = next(result for result in run["results"] if result["ruleId"] == "search")
    assert {taxon["id"] for taxon in accused["taxa"]} >= {"AML.T0018.000", "ML10:2023", "LLM04:2025"}
    assert all(there(taxon) for taxon in accused["taxa"])


def test_html_says_the_taxonomies_and_the_rates_as_text(report: AuditReport) -> None:
    page = render(report, "html", RenderOptions())
    assert "AML.T0018.000 Manipulate AI Model: Poison AI Model" in page
    assert "How good this test is" in page
    assert "not measured: backdoors of the family composite" in page


@pytest.mark.parametrize("form", ["terminal", "markdown"])
def test_people_read_them_in_details(report: AuditReport, form: str) -> None:
    text = render(report, form, RenderOptions(width=120, details=True))
    assert "AML.T0058" in text
    assert "ssl-backdoor" in text


def test_junit_has_them_as_properties(report: AuditReport) -> None:
    root = ET.fromstring(render(report, "junit", RenderOptions()))
    values = {item.get("name"): item.get("value") or "" for item in root.iter("property")}
    assert "AML.T0018.000" in values["taxonomy:search-patch"]
    assert "9 of 9" in values["test_quality:small"]
    assert "composite" in values["test_quality:not_measured"]


def test_the_families_are_those_that_can_be_planted() -> None:
    assert set(FAMILIES) == set(PLANTED.built_in())


def test_the_rates_are_those_of_the_committed_benchmark() -> None:
    paths = benchmark_results()
    assert [path.parent.name for path in paths] == ["bench-small", "bench-standard"]
    small, standard = (read_quality(path.read_bytes()) for path in paths)
    assert small is not None
    assert standard is not None
    result = json.loads((EXAMPLES / "bench-standard" / "encoder.json").read_text())
    every = result["grids"][0]["rows"][0]["values"]
    assert standard.detected.value == every["true"]["value"]
    assert standard.detected.n_positive == every["planted"]["value"]
    assert standard.false_alarms.interval is not None
    assert standard.false_alarms.interval.high == every["false"]["high"]
    assert len(small.families) == 9
    assert {rate.family for rate in standard.families} <= set(FAMILIES)
    assert "9 of 9" in in_one_line(small)


@pytest.mark.parametrize(
    "data", [b"[]", b"{}", b'{"grids": 3}', b'{"grids": [{"rows": []}]}',
             b'{"grids": [{"rows": [{"label": "all", "values": {"true": {"value": null}}}]}]}'],
)  # fmt: skip
def test_a_file_without_rates_gives_none(data: bytes) -> None:
    assert read_quality(data) is None


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    bare = quality_of({}, {}, paths=[tmp_path / "absent.json"])
    assert bare.measured == ()
    assert bare.not_measured[0].startswith("any rate")
    (tmp_path / "broken.json").write_bytes(b"{")
    assert quality_of({}, {}, paths=[tmp_path / "broken.json"]).measured == ()
    other = quality_of({"battery": "quick", "dtype": "float32"}, {"name": "mine"})
    assert "audits with battery = quick" in other.not_measured
    assert "the policy mine" in other.not_measured
    assert not any("dtype" in entry for entry in other.not_measured)


def test_an_early_end_has_its_context_too() -> None:
    refused = early_end(5)
    assert refused.context is not None
    assert "AML.T0018.002" in refused.context.taxonomy.entries["refused"]
    assert refused.context.quality.measured


def test_a_gate_keeps_the_context_and_renews_the_taxonomy() -> None:
    recorded = AuditReport.model_validate_json((GOLDEN / "gate" / "backdoored.json").read_text())
    gate = Gate(Policy.from_json(recorded.policy))
    recorded = recorded.model_copy(update={"context": None})
    assert judge_again(recorded, gate).context is None
    context = context_of(recorded.configuration, recorded.policy)
    judged = judge_again(recorded.model_copy(update={"context": context}), gate)
    assert judged.context is not None
    assert judged.context.quality == context.quality
    assert judged.context.taxonomy == taxonomy_of(judged.reasons, judged.findings)
    assert judged.context.taxonomy.entries


def accusing(report: AuditReport) -> AuditReport:
    """Return a report with an accused change on images."""
    assert report.context is not None
    assert report.found is not None
    said = [
        SaidRecord(
            encoder=name,
            role=role,
            kept=Metric(name="kept", value=value),
            collapse=0.9,
            examples=(value, value),
            classes=classes,
        )
        for name, role, value, classes in (
            ("suspect-a", "suspect", 0.01, (("cat", "truck"), ("dog", "truck"))),
            ("ref-vit", "reference", 0.95, ()),
        )
    ]
    pictures = (report.found.picture,) * 2
    record = AccusedRecord(
        name="patch-white", kind="trigger", originals=pictures, examples=pictures, said=tuple(said)
    )
    return report.model_copy(update={"context": report.context.model_copy(update={"accused": record})})


def test_the_accused_change_stands_first_in_html(report: AuditReport) -> None:
    page = render(accusing(report), "html", RenderOptions())
    first = page[page.index("<section") :]
    assert first.startswith('<section id="accused"')
    section = first[: first.index("</section>")]
    assert section.count("<img") == 4
    assert "suspect-a keeps 0.01 (cat → truck); ref-vit keeps 0.95" in section
    assert "another image" in section
    assert "the same image" in section


@pytest.mark.parametrize("form", ["terminal", "markdown"])
def test_people_without_pictures_read_what_encoders_say(report: AuditReport, form: str) -> None:
    text = render(accusing(report), form, RenderOptions(width=120, details=True))
    assert "The accused change: patch-white" in text.replace("\\", "")
    assert "example 1: cat without, truck with the change" in text


def test_an_accused_change_with_odd_parts_is_still_a_page(report: AuditReport) -> None:
    whole = accusing(report)
    assert whole.context is not None
    assert whole.context.accused is not None
    record = whole.context.accused.model_copy(
        update={"originals": (), "examples": ("no picture",), "said": ()}
    )
    context = whole.context.model_copy(update={"accused": record})
    assert "<html" in render(whole.model_copy(update={"context": context}), "html", RenderOptions())
