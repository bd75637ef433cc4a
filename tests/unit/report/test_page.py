"""The pieces of an HTML page: escaped, accessible, with enough contrast."""

import base64
import re
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError
from lxml import html

from platodef_cli.report import page
from platodef_cli.report.blocks import Bullets, Column, Drawing, Grid, KeyValueTable

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + struct.pack(">II", 3, 2) + b"rest").decode()


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.1."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_contrast_formula_itself() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("palette", [page.LIGHT, page.DARK])
def test_contrast_of_both_schemes(palette: dict[str, str]) -> None:
    for ground in ("bg", "surface"):
        for name, colour in palette.items():
            if name in ("bg", "surface", "line"):
                continue
            assert contrast(colour, palette[ground]) >= 4.5, (name, ground)
    assert page.LIGHT.keys() == page.DARK.keys()


@given(st.text(max_size=200))
def test_escaped_text_is_text(text: str) -> None:
    shown = html.fragment_fromstring(f"<p title='{page.escape(text)}'>{page.escape(text)}</p>")
    assert len(shown) == 0
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b]", shown.text or "")
    assert shown.get("title") == (shown.text or "")


@given(st.text(max_size=200))
def test_what_a_template_prints_is_escaped_unless_it_is_markup(text: str) -> None:
    shown = page.absent(text)
    assert shown == f'<p class="absent">{page.escape(text)}</p>'
    assert page.join([page.Html("<b>"), page.absent(text)], "").startswith("<b><p")


def test_templates_refuse_what_was_forgotten() -> None:
    with pytest.raises(UndefinedError, match="'header' is undefined"):
        page.from_template("page.html", title="x", body="", footer="", style="")


def test_a_row_has_a_cell_for_every_column() -> None:
    with pytest.raises(ValueError, match="zip"):
        page.table(Grid((Column("a"), Column("b")), (("1",),)), "label")


def test_a_page_is_self_contained() -> None:
    text = page.document("<b>", page.Html("<h1>x</h1>"), page.section("A & B", page.NOTHING, identity="a"))
    root = html.document_fromstring(text)
    assert root.findtext("head/title") == "<b>"
    (policy,) = root.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
    assert policy.startswith("default-src 'none';")
    assert "script" not in policy
    assert not root.xpath("//script | //link[@rel!='icon'] | //iframe | //*[@onclick or @onerror or @onload]")
    assert [part for part in root.xpath("//@href | //@src") if not part.startswith(("#", "data:"))] == []
    assert "url(" not in text
    assert "@import" not in text
    assert text.endswith("</html>\n")
    assert root.get("lang") == "en"


def test_tables_are_accessible_and_say_alarms() -> None:
    grid = Grid((Column("name", numeric=False), Column("value")), (("<a>", "1"), ("b", "2")), frozenset({1}))
    box = html.fragment_fromstring(page.table(grid, 'label "x"'))
    assert box.get("tabindex") == "0"
    assert box.get("aria-label") == 'label "x"'
    assert box.xpath(".//th[@scope='col']/text()") == ["name", "value"]
    assert [row.text_content().strip() for row in box.xpath(".//th[@scope='row']")] == ["<a>", "\u2717 b"]
    assert box.xpath("//tr[@class='alarm']//*[@role='img']/@aria-label") == ["suspicious"]


def test_blocks() -> None:
    assert "&lt;i&gt;" in page.block(Bullets(("<i>",)), "l")
    drawing = html.fragment_fromstring(page.block(Drawing(("a  <b>", "c")), "l"))
    assert drawing.text == "a  <b>\nc"
    shown = html.fragment_fromstring(
        page.facts(KeyValueTable((("k", "v"), ("", "more"), ("", "again"), ("k2", "v2"))))
    )
    assert [term.text for term in shown.iter("dt")] == ["k", "k2"]
    assert [term.text for term in shown.iter("dd")] == ["v", "more", "again", "v2"]


def test_pictures_are_png_or_said_to_be_damaged() -> None:
    image = html.fragment_fromstring(page.picture(PNG, 'a "b"'))
    assert (image.get("width"), image.get("height"), image.get("alt")) == ("3", "2", 'a "b"')
    assert image.get("src") == f"data:image/png;base64,{PNG}"
    huge = base64.b64encode(base64.b64decode(PNG)[:16] + struct.pack(">II", 100_000, 2)).decode()
    assert "too large" in page.picture(huge, "d")
    for bad in (
        "",
        "x",
        '"><script>',
        base64.b64encode(b"<svg onload=alert(1)>" * 9).decode(),
        PNG + "\u00e9",
        PNG[:20],
    ):
        shown = page.picture(bad, "d")
        assert "damaged" in shown
        assert "<img" not in shown
