"""Hostile text in every format: it is shown as text, it hides nothing, and it changes no structure."""

import json
import re
from collections.abc import Callable
from functools import cache

import cmarkgfm
import pytest
from lxml import etree, html

from platodef_cli.records import AuditReport
from platodef_cli.report import REPORTS
from platodef_cli.report.interface import RenderOptions
from tests.unit.report.hostile import TEXTS, poisoned
from tests.unit.report.test_junit import schema
from tests.unit.report.test_sarif import validator

FORMATS = REPORTS.names()
HIDDEN = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]"
)
LONE = re.compile(r"[\ud800-\udfff]")
STYLED = re.compile(r"\x1b\[[0-9;]*m")
GITHUB_COMMENT = 65_536


Written = Callable[[str, str], str]


def rendered(report: AuditReport, name: str, color: bool = False) -> str:
    text: str = REPORTS.load(name)(report, RenderOptions(width=100, color=color))
    return text


@pytest.fixture(scope="module")
def hostile(golden_report: AuditReport) -> Callable[[str], AuditReport]:
    """Kind of text -> the golden report full of it."""
    return cache(lambda kind: poisoned(golden_report, TEXTS[kind]))


@pytest.fixture(scope="module")
def written(hostile: Callable[[str], AuditReport]) -> Written:
    """Kind of text, format -> that report in it."""
    return cache(lambda kind, name: rendered(hostile(kind), name))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", TEXTS)
def test_nothing_hidden_gets_through(written: Written, name: str, kind: str) -> None:
    text = written(kind, name)
    assert not HIDDEN.search(text)
    assert not LONE.search(text)
    assert "\x1b" not in text


@pytest.mark.parametrize("kind", TEXTS)
def test_nothing_hidden_gets_through_in_colours(hostile: Callable[[str], AuditReport], kind: str) -> None:
    assert not HIDDEN.search(STYLED.sub("", rendered(hostile(kind), "terminal", color=True)))


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "terminal"])
def test_only_the_terminal_has_colours(golden_report: AuditReport, name: str) -> None:
    assert rendered(golden_report, name, color=True) == rendered(golden_report, name)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", ["long", "long-hostile"])
def test_long_text_is_cut_where_people_read(
    hostile: Callable[[str], AuditReport], written: Written, name: str, kind: str
) -> None:
    text = written(kind, name)
    if name == "json":  # data: nothing is lost
        assert AuditReport.model_validate_json(text) == hostile(kind)
        return
    assert TEXTS[kind][:10_000] not in text
    assert len(text.encode()) < 10 * 2**20


@pytest.mark.parametrize("kind", TEXTS)
def test_json_is_read_back(hostile: Callable[[str], AuditReport], written: Written, kind: str) -> None:
    text = written(kind, "json")
    assert text.isascii()
    read = AuditReport.model_validate_json(text)
    if kind == "surrogates":
        assert read.images is not None
        assert read.images.uri == r"\ud800 \udcff\udc00 a\udfff"
    else:
        assert read == hostile(kind)


@pytest.mark.parametrize("kind", TEXTS)
def test_sarif_is_valid_and_its_messages_are_plain(written: Written, kind: str) -> None:
    log = json.loads(written(kind, "sarif"))
    assert [error.message for error in validator().iter_errors(log)] == []
    for result in log["runs"][0]["results"]:
        assert result["message"]["text"].strip()
        assert not re.search(r"\]\(", result["message"]["text"])
        assert len(result["message"]["text"]) < 5000


@pytest.mark.parametrize("kind", TEXTS)
def test_junit_is_valid_and_keeps_its_structure(
    golden_report: AuditReport, written: Written, kind: str
) -> None:
    root = etree.fromstring(written(kind, "junit").encode())
    schema().assertValid(root)
    plain = etree.fromstring(rendered(golden_report, "junit").encode())
    assert [node.tag for node in root.iter()] == [node.tag for node in plain.iter()]


def github(markdown: str) -> html.HtmlElement:
    """Render with GitHub's own parser, its extensions included."""
    return html.fragment_fromstring(cmarkgfm.github_flavored_markdown_to_html(markdown), create_parent="div")


@pytest.mark.parametrize("kind", TEXTS)
def test_markdown_shows_text_and_nothing_else(written: Written, kind: str) -> None:
    text = written(kind, "markdown")
    assert len(text) <= GITHUB_COMMENT
    tree = github(text)
    for forbidden in (
        "a",
        "img",
        "input",
        "script",
        "svg",
        "iframe",
        "del",
        "em",
        "hr",
        "blockquote",
        "ol",
        "sup",
    ):
        found = [etree.tostring(node) for node in tree.iter(forbidden)]
        assert [node for node in found if b"sections did not fit" not in node] == []
    assert len(tree.findall(".//h1")) == 1
    outside_code = re.sub(r"<pre.*?</pre>", "", etree.tostring(tree, encoding="unicode"), flags=re.DOTALL)
    for live in (r"@\w", r"#\d", r"\bGH-\d"):
        assert not re.search(live, outside_code, re.IGNORECASE)


@pytest.mark.parametrize("kind", [kind for kind in TEXTS if not kind.startswith("long")])
def test_markdown_keeps_its_structure(golden_report: AuditReport, written: Written, kind: str) -> None:
    benign = github(rendered(poisoned(golden_report, "word"), "markdown"))
    tree = github(written(kind, "markdown"))
    structure = ("h1", "h2", "p", "table", "tr", "td", "ul", "li", "pre")
    shapes = [[node.tag for node in each.iter(*structure)] for each in (benign, tree)]
    assert shapes[0] == shapes[1]


def test_a_short_comment_is_whole_and_a_long_one_says_what_is_missing(
    golden_report: AuditReport, written: Written
) -> None:
    assert "did not fit" not in rendered(golden_report, "markdown")
    whole = written("long-hostile", "markdown")
    assert "more sections did not fit here; they are in the JSON report" in whole
    many = golden_report.model_copy(update={"reasons": golden_report.reasons * 500})
    text = rendered(many, "markdown")
    assert len(text) <= GITHUB_COMMENT
    assert "more reasons are in the JSON report" in text


def test_rich_markup_is_literal_in_the_terminal(written: Written) -> None:
    flat = re.sub(r"\s+", "", written("rich", "terminal"))
    assert "[red]x[/red][link=http://evil.example]x[/link][/]:boom:" in flat
