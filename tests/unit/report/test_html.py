"""The HTML report: complete, escaped, self-contained, byte-stable."""

import base64
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from lxml import html

from platodef_cli.records import AuditReport
from platodef_cli.report.html import render
from platodef_cli.report.interface import RenderOptions
from platodef_cli.report.view import sections
from tests.unit.report.hostile import HOSTILES, poisoned

GOLDEN = Path(__file__).parents[2] / "golden"
_SVG = re.compile(r"(<svg[^>]*>)<title([^>]*)>(.*?)</title><desc([^>]*)>(.*?)</desc>.*?</svg>", re.DOTALL)


def parse(text: str) -> html.HtmlElement:
    return html.document_fromstring(text)


def shape(text: str) -> str:
    """Return a page without its style sheet and the strokes of its plots, which have tests of their own."""
    text = re.sub(r"<style>.*?</style>", "<style></style>", text, flags=re.DOTALL)
    return _SVG.sub(r"\1<title\2>\3</title><desc\4>\5</desc></svg>", text)


@pytest.fixture(scope="module")
def page(golden_report: AuditReport) -> str:
    return render(golden_report, RenderOptions())


def test_golden(page: str, check_golden: Callable[[str, str], None]) -> None:
    check_golden("report_v2.html", shape(page))


def test_every_section_and_every_sentence_of_the_terminal_is_there(
    page: str, golden_report: AuditReport
) -> None:
    root = parse(page)
    headings = [heading.text_content() for heading in root.iter("h2")]
    words = " ".join(root.text_content().split())
    for section in sections(golden_report, width=78, details=True):
        if section.key != "histogram":
            assert section.title in headings
        for block in section.blocks:
            for row in getattr(block, "rows", ()) or [getattr(block, "items", ())]:
                assert all(" ".join(cell.split()) in words for cell in row), row
    assert golden_report.summary in words


def test_pictures_and_plots_of_a_failing_audit(page: str, golden_report: AuditReport) -> None:
    root = parse(page)
    order = [section.get("id") for section in root.iter("section")]
    assert order[:7] == ["baseline", "error-rate", "found", "histogram", "roc", "triggers", "controls"]
    assert order[-1] == "provenance"
    names = [svg.findtext("title") for svg in root.iter("svg")]
    assert names == [
        "Histogram of energy",
        "ROC curves. Matched against mismatched tuples: validates the heads, says nothing about triggers",
        "ROC curves. Clean against triggered images: patch-white-0.31-bottom-right",
        "Collapse of the features under triggers and controls",
        "AUROC of platonic under triggers and controls",
        "Collapse that the trigger search reaches on the suspect and on the references",
        "Alignment, CKA",
        "Alignment, CKNNA, k = 10",
    ]
    sources = [image.get("src") for image in root.iter("img")]
    found = golden_report.found
    assert found is not None
    pairs = [png for pair in zip(found.originals, found.examples, strict=True) for png in pair]
    expected = [found.picture, *pairs, *(image.picture for image in golden_report.suspicious_images)]
    assert sources == [f"data:image/png;base64,{png}" for png in expected]
    assert all(image.get("alt") for image in root.iter("img"))
    captions = [caption.text_content() for caption in root.xpath("//section[@id='suspicious']//figcaption")]
    assert captions[0] == "row-001204, test: score -0.21, p 0.0014"


def test_provenance_holds_every_hash(page: str, golden_report: AuditReport) -> None:
    words = parse(page).get_element_by_id("provenance").text_content()
    for encoder in (golden_report.target, *golden_report.references):
        assert encoder.digest in words
        for file in encoder.files:
            assert file.sha256 in words
    assert golden_report.images.digest in words
    for name, value in golden_report.libraries.items():
        assert f"{name}{value}" in words
    for name in golden_report.configuration:
        assert name in words


def test_headings_ids_and_links(page: str) -> None:
    root = parse(page)
    assert len(list(root.iter("h1"))) == 1
    levels = [int(element.tag[1]) for element in root.iter("h1", "h2", "h3", "h4")]
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    ids = root.xpath("//@id")
    assert len(ids) == len(set(ids))
    for reference in root.xpath("//@href"):
        assert reference == "data:," or reference.removeprefix("#") in ids
    for names in root.xpath("//@aria-labelledby | //@aria-describedby"):
        assert set(names.split()) <= set(ids)


def test_options_do_not_change_it_and_neither_does_the_process(page: str, golden_report: AuditReport) -> None:
    assert render(golden_report, RenderOptions(width=40, color=True, unicode=False, details=True)) == page
    code = (
        "import sys; from pathlib import Path\n"
        "from platodef_cli.records import AuditReport; from platodef_cli.report.html import render\n"
        "from platodef_cli.report.interface import RenderOptions\n"
        "report = AuditReport.model_validate_json(Path(sys.argv[1]).read_bytes())\n"
        "sys.stdout.buffer.write(render(report, RenderOptions()).encode())"
    )
    root = str(GOLDEN.parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code, str(GOLDEN / "report_v2.json")],
        capture_output=True, check=True, cwd=root, env={"PYTHONHASHSEED": "7", "PATH": "", "HOME": "/none"},
    )  # fmt: skip
    assert done.stdout.decode() == page


def test_a_report_of_version_1_0_says_what_it_does_not_hold() -> None:
    report = AuditReport.model_validate_json((GOLDEN / "report_v1.0.json").read_text())
    root = parse(render(report, RenderOptions()))
    told = [element.text for element in root.iter("p") if element.get("class") == "absent"]
    assert told == [
        "Not recorded in this report (schema 1.0): the examples without the trigger.",
        "Not recorded in this report (schema 1.0): ROC curves.",
        "Not recorded in this report (schema 1.0): the most suspicious clean images.",
    ]


def test_a_report_with_nothing_measured(golden_report: AuditReport) -> None:
    bare = AuditReport.model_validate(
        {
            **{key: value for key, value in golden_report.model_dump().items()
               if AuditReport.model_fields[key].is_required()},
            "verdict": "refused", "exit_code": 5, "reasons": (), "references": (),
        }
    )  # fmt: skip
    root = parse(render(bare, RenderOptions()))
    assert "REFUSED (5)" in root.findtext(".//h1/strong")
    assert list(root.iter("svg")) == []
    assert "not-examined" in [section.get("id") for section in root.iter("section")]


def test_waived_findings_are_marked(golden_report: AuditReport) -> None:
    finding = golden_report.findings[0].model_copy(update={"waived": True})
    report = golden_report.model_copy(update={"findings": (finding,)})
    words = parse(render(report, RenderOptions())).get_element_by_id("findings").text_content()
    assert "high (waived): a patch of 31%" in words


@pytest.mark.parametrize("text", HOSTILES, ids=range(len(HOSTILES)))
def test_hostile_text_is_shown_and_never_interpreted(
    page: str, golden_report: AuditReport, text: str
) -> None:
    report = poisoned(golden_report, text)
    shown = render(report, RenderOptions())
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069\ufeff]", shown)
    clean = parse(page)
    root = parse(shown)
    allowed = {element.tag for element in clean.iter() if isinstance(element.tag, str)}
    assert {element.tag for element in root.iter() if isinstance(element.tag, str)} <= allowed
    assert not [element for element in root.iter() if not isinstance(element.tag, str)]  # no comments
    attributes = {name for element in clean.iter() for name in element.attrib}
    assert {name for element in root.iter() for name in element.attrib} <= attributes
    assert [link for link in root.xpath("//@href | //@src") if not link.startswith(("#", "data:"))] == []
    assert len(list(root.iter("style"))) == 1
    assert root.findtext(".//title").startswith("FAIL (1) ")
    # foreign text never becomes an id or a class
    for name in ("id", "class"):
        values, known = (
            # matplotlib names clipping areas by a hash of their place
            {re.sub(r"-[pm][0-9a-f]{10}$", "", value) for value in tree.xpath(f"//@{name}")}
            for tree in (root, clean)
        )
        assert values <= known | {"absent"}


def test_damaged_pictures_are_said(golden_report: AuditReport) -> None:
    svg = base64.b64encode(b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>" * 3).decode()
    value = json.loads(golden_report.model_dump_json())
    value["found"]["picture"] = svg
    value["suspicious_images"][0]["picture"] = "javascript:alert(1)"
    text = render(AuditReport.model_validate(value), RenderOptions())
    assert svg not in text
    assert "javascript:" not in text
    assert text.count("the picture in the report is damaged") == 2


NUMBERS = (math.nan, math.inf, 1e308, -1.0)


@pytest.mark.parametrize("number", NUMBERS)
def test_impossible_numbers_end_in_a_page(golden_report: AuditReport, number: float) -> None:
    def replaced(value: object) -> object:
        if isinstance(value, dict):
            return {key: replaced(item) for key, item in value.items()}
        if isinstance(value, list):
            return [replaced(item) for item in value]
        return number if isinstance(value, float) else value

    value = replaced(golden_report.model_dump(mode="json"))
    root = parse(render(AuditReport.model_validate(value), RenderOptions()))
    told = [element.text_content() for element in root.find_class("absent")]
    assert any(line.startswith("Not drawn: the histogram 'energy' has no groups, or edges") for line in told)
    assert len(list(root.iter("svg"))) >= 4  # bars and matrices leave out what they cannot show


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        ("histograms", {"counts": {"clean": [1, 2]}}, "does not count one number from 0 on per bin"),
        ("histograms", {"counts": {"clean": [-1] * 40}}, "does not count one number from 0 on per bin"),
        ("histograms", {"counts": {"clean": [10**400] * 40}}, "does not count one number from 0 on per bin"),
        ("roc", {"tpr": [0.5]}, "is no list of pairs of rates"),
        ("roc", {"tpr": [2.0, 3.0], "fpr": [0.0, 1.0]}, "is no list of pairs of rates"),
    ],
)
def test_contradictory_numbers_are_said(
    golden_report: AuditReport, field: str, change: dict[str, object], message: str
) -> None:
    value = golden_report.model_dump(mode="json")
    value[field][0].update(change)
    assert message in parse(render(AuditReport.model_validate(value), RenderOptions())).text_content()


def test_a_huge_report_is_cut_where_it_cannot_be_read(golden_report: AuditReport) -> None:
    value = golden_report.model_dump(mode="json")
    probe, record, histogram = value["probes"][2], value["alignment"][0], value["histograms"][0]
    value["probes"] = [{**probe, "name": f"p{n}", "family": f"f{n}"} for n in range(300)]
    value["searches"] = [{**value["searches"][0], "budget": f"b{n}"} for n in range(300)]
    value["alignment"] = [{**record, "second": f"e{n}"} for n in range(300)]
    value["histograms"] = [histogram] * 100
    value["roc"] = [{**value["roc"][0], "detector": f"d{n}"} for n in range(100)]
    text = render(AuditReport.model_validate(value), RenderOptions())
    assert text.count("<svg") < 60
    assert "(88 more are in the JSON report)" in text


@pytest.mark.parametrize("limit", [10**400, math.nan, True, "0.45", -math.inf])
def test_limits_that_are_no_numbers_are_not_drawn(golden_report: AuditReport, limit: object) -> None:
    report = golden_report.model_copy(update={"policy": {"battery_collapse": limit, "auroc": limit}})
    words = parse(render(report, RenderOptions())).get_element_by_id("triggers").text_content()
    assert "Line: limit" not in words
