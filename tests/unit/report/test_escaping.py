"""Foreign text: nothing hidden, nothing interpreted, in any format."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platodef_cli.records import AuditReport, EncoderRecord
from platodef_cli.report import REPORTS
from platodef_cli.report.escaping import ascii_only, plain, wrap
from platodef_cli.report.interface import RenderOptions
from platodef_cli.report.markdown import escape, fenced

HOSTILE = (
    "[red]markup[/red] [link=http://evil.example]x[/link] \x1b[2J\x1b]8;;http://evil.example\x07click"
    "\x1b]8;;\x07 \u009b31m \u202egnp.exe \u200bzero \r\noverwritten | pipe <script>alert(1)</script> `code` "
    "**bold** [text](javascript:alert(1)) ![img](http://evil.example/x.png) @everyone :boom: www.evil.example"
)


def poison(value: object) -> object:
    """Put the hostile text into every free string of a JSON-like report."""
    keep = {
        "verdict", "outcome", "severity", "status", "role", "kind", "measure", "direction", "positive",
        "origin", "schema_version", "picture", "fit", "crop", "part", "space",
    }  # fmt: skip
    if isinstance(value, dict):
        return {key: item if key in keep else poison(item) for key, item in value.items()}
    if isinstance(value, list):
        return [poison(item) for item in value]
    return HOSTILE if isinstance(value, str) else value


@pytest.fixture(scope="module")
def hostile_report(golden_report: AuditReport) -> AuditReport:
    poisoned = poison(golden_report.model_dump(mode="json"))
    assert isinstance(poisoned, dict)
    histogram = poisoned["histograms"][0]
    histogram["counts"] = {HOSTILE: next(iter(histogram["counts"].values()))}
    return AuditReport.model_validate(poisoned)


def test_the_poison_reaches_every_part(hostile_report: AuditReport) -> None:
    assert isinstance(hostile_report.target, EncoderRecord)
    for text in (
        hostile_report.target.name,
        hostile_report.images.uri,
        hostile_report.reasons[0].message,
        hostile_report.probes[0].name,
        hostile_report.searches[0].encoder,
        hostile_report.not_examined[0],
    ):
        assert text == HOSTILE


@pytest.mark.parametrize("format_name", REPORTS.names())
@pytest.mark.parametrize("color", [False, True])
def test_no_format_passes_control_characters_on(
    hostile_report: AuditReport, format_name: str, color: bool
) -> None:
    text = REPORTS.load(format_name)(hostile_report, RenderOptions(width=80, color=color))
    styled = re.compile(r"\x1b\[[0-9;]*m")  # what rich itself writes for bold and colours
    rest = styled.sub("", text) if color else text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069]", rest)


def test_terminal_shows_markup_literally(hostile_report: AuditReport) -> None:
    text = REPORTS.load("terminal")(hostile_report, RenderOptions(width=120, details=True))
    flat = re.sub(r"\s+", "", text)
    assert "[red]markup[/red]" in flat
    assert ":boom:" in flat
    assert r"\x1b[2J" in flat
    assert r"\u202egnp.exe" in flat


def test_terminal_colours_cannot_be_set_by_a_model(hostile_report: AuditReport) -> None:
    text = REPORTS.load("terminal")(hostile_report, RenderOptions(width=80, color=False))
    assert "\x1b" not in text


def test_markdown_has_no_live_html_links_images_or_mentions(hostile_report: AuditReport) -> None:
    text = REPORTS.load("markdown")(hostile_report, RenderOptions())
    outside_code = re.sub(r"```text\n.*?\n```", "", text, flags=re.DOTALL)
    assert "<script" not in outside_code
    assert re.findall(r"<(?!br>|!-- -->)", outside_code) == []
    assert not re.search(r"(?<!\\)\]\(", outside_code)
    assert "http://" not in outside_code
    assert "www." not in outside_code
    assert "@everyone" not in outside_code


def test_markdown_tables_keep_their_columns(hostile_report: AuditReport) -> None:
    text = REPORTS.load("markdown")(hostile_report, RenderOptions())
    tables = re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE)
    assert tables
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1. list", r"1\. list"),
        ("0.97", "0.97"),
        ("# heading", r"\# heading"),
        ("- item", r"\- item"),
        ("a-b 2. c", "a-b 2. c"),
        ("a|b", r"a\|b"),
        ("<b>&amp;", "&lt;b&gt;&amp;amp;"),
        ("https://x", "https&#58;//x"),
        ("note: fine", "note: fine"),
        ("\\", "\\\\"),
    ],
)
def test_markdown_escape(text: str, expected: str) -> None:
    assert escape(text) == expected


def test_code_fence_is_longer_than_any_inside() -> None:
    block = fenced(("````", "text"))
    assert block.startswith("`````text\n")
    assert block.endswith("\n`````")


def test_plain_spells_out_and_cuts() -> None:
    assert plain("a\x1b[0m\tb\x7f") == r"a\x1b[0m\tb\x7f"
    assert plain("ä€漢🙂") == "ä€漢🙂"
    assert plain("x" * 12, limit=10) == "x" * 10 + " [2 more characters]"


@given(st.text(max_size=80))
def test_plain_is_always_one_visible_line(text: str) -> None:
    shown = plain(text)
    assert shown.isprintable() or any(char.isspace() for char in shown)
    assert len(shown.splitlines()) <= 1
    assert plain(shown) == shown or "\\" in shown


@given(st.text(alphabet="ab-_/ .", max_size=60), st.integers(1, 20))
def test_wrap_keeps_every_character_and_the_width(text: str, width: int) -> None:
    folded = wrap(text, width)
    assert all(len(line) <= width for line in folded.split("\n"))
    assert folded.replace("\n", "").replace(" ", "") == text.replace(" ", "")


def test_wrap_breaks_after_separators() -> None:
    assert wrap("patch-white-0.31-bottom-right", 18) == "patch-white-0.31-\nbottom-right"
    assert wrap("abcdefgh", 3) == "abc\ndef\ngh"


def test_ascii_only_keeps_the_width() -> None:
    drawing = "▁▂▃▄▅▆▇█┊─┴✗✓–·"
    shown = ascii_only(drawing)
    assert shown.isascii()
    assert len(shown) == len(drawing)
    assert ascii_only("漢") == r"\u6f22"
