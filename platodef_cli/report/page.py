"""The skeleton of an HTML page and its pieces: self-contained, without scripts, without network.

Whatever is foreign goes through :func:`escape`; the type :data:`Html` marks what has been through it, so
that a type checker finds text that has not.
"""

import base64
import binascii
import html
import struct
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import NewType

from platodef_cli.report.blocks import Block, Bullets, Drawing, Grid, KeyValueTable
from platodef_cli.report.escaping import plain

Html = NewType("Html", str)
"""Markup that is safe to put into a page."""

NOTHING = Html("")

# Contrast against bg and surface: at least 4.5 for text, 3 for the marks of plots; a test measures it.
LIGHT: Mapping[str, str] = {
    "bg": "#ffffff", "surface": "#f5f7f9", "ink": "#1b1f24", "muted": "#57606a", "line": "#d0d7de",
    "pass": "#116329", "fail": "#a40e26", "warn": "#7d4e00",
    "s1": "#0550ae", "s2": "#a85400", "s3": "#a40e26", "s4": "#0f766e", "s5": "#8250df", "s6": "#57606a",
}  # fmt: skip
DARK: Mapping[str, str] = {
    "bg": "#0d1117", "surface": "#161b22", "ink": "#e6edf3", "muted": "#9aa4ae", "line": "#3a424c",
    "pass": "#3fb950", "fail": "#ff8078", "warn": "#d9a02b",
    "s1": "#6cb0ff", "s2": "#ffa657", "s3": "#ff8078", "s4": "#4fd1c0", "s5": "#d2a8ff", "s6": "#9aa4ae",
}  # fmt: skip

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)
_PNG = b"\x89PNG\r\n\x1a\n"
_LARGEST_SIDE = 4096  # pixels of a picture that a browser is asked to decode


def escape(text: str, limit: int = 2000) -> Html:
    """Return foreign text as one line of markup that shows it literally, hidden characters spelled out."""
    return Html(html.escape(plain(text, limit), quote=True))


def join(parts: Iterable[Html], separator: str = "\n") -> Html:
    """Return markup put together."""
    return Html(separator.join(parts))


def _colours(palette: Mapping[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in palette.items())


def _style() -> str:
    sheet = (files("platodef_cli.report") / "page.css").read_text(encoding="utf-8")
    light, dark = _colours(LIGHT), _colours(DARK)
    return (
        f":root{{color-scheme:light dark;{light}}}\n"
        f"@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
        f":root:has(#scheme-light:checked){{color-scheme:light;{light}}}\n"
        f":root:has(#scheme-dark:checked){{color-scheme:dark;{dark}}}\n"
        f"@media print{{:root,:root:has(#scheme-dark:checked){{color-scheme:light;{light}}}}}\n{sheet}"
    )


_SCHEME = Html(
    '<fieldset class="scheme"><legend>Colours</legend>'
    + "".join(
        f'<label><input type="radio" name="scheme" id="scheme-{name}"{checked}> {name}</label>'
        for name, checked in (("system", " checked"), ("light", ""), ("dark", ""))
    )
    + "</fieldset>"
)


def document(title: str, header: Html, body: Html, footer: Html = NOTHING, style: str = "") -> str:
    """Return a whole page, ending in one newline.

    Args:
        title: Title of the window; foreign text is welcome.
        header: What stands on top, with the only ``h1``.
        body: Sections, from :func:`section`.
        footer: Last lines.
        style: Rules of this kind of page, after those of all pages; never foreign text.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_SECURITY_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title, 200)}</title>\n<style>\n{_style()}{style}</style>\n</head>\n<body>\n"
        f"<header>\n{_SCHEME}\n{header}\n</header>\n<main>\n{body}\n</main>\n"
        f"<footer>\n{footer}\n</footer>\n</body>\n</html>\n"
    )


def section(title: str, content: Html, *, identity: str, note: str = "") -> Html:
    """Return a section under an ``h2``.

    Args:
        title: The heading.
        content: Markup.
        identity: Unique name inside the page, letters, digits and hyphens; :func:`contents` links to it.
        note: A sentence under the heading.
    """
    text = f'<p class="note">{escape(note)}</p>\n' if note else ""
    return Html(
        f'<section id="{escape(identity)}" aria-labelledby="{escape(identity)}-title">\n'
        f'<h2 id="{escape(identity)}-title">{escape(title)}</h2>\n{text}{content}\n</section>'
    )


def contents(entries: Iterable[tuple[str, str]]) -> Html:
    """Return links to the sections of the page, from (identity, title)."""
    links = "".join(
        f'<li><a href="#{escape(identity)}">{escape(title)}</a></li>' for identity, title in entries
    )
    return Html(f'<nav aria-label="Contents"><ul>{links}</ul></nav>')


def table(grid: Grid, label: str) -> Html:
    """Return a table that scrolls inside its own box; rows that crossed a limit are marked and said so.

    Args:
        grid: Columns and rows.
        label: What the table shows, for those who cannot see where it stands.
    """
    head = "".join(
        f'<th scope="col"{_numeric(column.numeric)}>{escape(column.title)}</th>' for column in grid.columns
    )
    rows = []
    for number, row in enumerate(grid.rows):
        alarm = number in grid.alarms
        cells = []
        for place, (column, cell) in enumerate(zip(grid.columns, row, strict=True)):
            shown = escape(cell)
            if place == 0:
                sign = '<span class="sign" role="img" aria-label="suspicious">✗</span> ' if alarm else ""
                cells.append(f'<th scope="row"{_numeric(column.numeric)}>{sign}{shown}</th>')
            else:
                cells.append(f"<td{_numeric(column.numeric)}>{shown}</td>")
        opening = '<tr class="alarm">' if alarm else "<tr>"
        rows.append(f"{opening}{''.join(cells)}</tr>")
    body = "\n".join(rows)
    return Html(
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label, 200)}">\n<table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )


def _numeric(numeric: bool) -> str:
    return ' class="number"' if numeric else ""


def facts(pairs: KeyValueTable) -> Html:
    """Return pairs of a label and a text; an empty label continues the pair above."""
    rows: list[str] = []
    for label, text in pairs.pairs:
        if label or not rows:
            rows.append(f"<dt>{escape(label)}</dt><dd>{escape(text)}</dd>")
        else:
            rows[-1] += f'<dd class="more">{escape(text)}</dd>'
    return Html(f'<dl class="facts">{"".join(f"<div>{row}</div>" for row in rows)}</dl>')


def bullets(items: Iterable[str]) -> Html:
    """Return a list of sentences."""
    return Html("<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>")


def block(piece: Block, label: str) -> Html:
    """Return one piece of a section."""
    match piece:
        case Grid():
            return table(piece, label)
        case KeyValueTable():
            return facts(piece)
        case Bullets():
            return bullets(piece.items)
        case Drawing():
            lines = "\n".join(escape(line) for line in piece.lines)
            return Html(f'<pre class="scroll" tabindex="0" aria-label="{escape(label, 200)}">{lines}</pre>')


def figure(content: Html, caption: str, kind: str = "plot") -> Html:
    """Return a plot or a picture with its caption; ``kind`` is its class in the style sheet."""
    return Html(
        f'<figure class="{kind}">\n{content}\n<figcaption>{escape(caption, 400)}</figcaption>\n</figure>'
    )


def gallery(figures: Iterable[Html], kind: str = "plots") -> Html:
    """Return figures beside each other as far as there is room."""
    return Html(f'<div class="{kind}">\n{join(figures)}\n</div>')


def disclosure(summary: str, content: Html, *, repeats: bool = False) -> Html:
    """Return markup that is shown on request, and in print unless it ``repeats`` what is shown anyway."""
    opening = '<details class="repeats">' if repeats else "<details>"
    return Html(f"{opening}\n<summary>{escape(summary)}</summary>\n{content}\n</details>")


def absent(message: str) -> Html:
    """Return a sentence that says what is not there."""
    return Html(f'<p class="absent">{escape(message)}</p>')


def picture(png: str, description: str) -> Html:
    """Return a PNG in base64 as an enlarged, not blurred image; anything else is said to be damaged."""
    try:
        content = base64.b64decode(png, validate=True)
    except (binascii.Error, ValueError):
        content = b""
    if len(content) < 24 or not content.startswith(_PNG):
        return absent(f"{description}: the picture in the report is damaged")
    width, height = struct.unpack(">II", content[16:24])
    if not (0 < width <= _LARGEST_SIDE and 0 < height <= _LARGEST_SIDE):
        return absent(f"{description}: the picture in the report is too large to show")
    # encoded again: what was decoded is all that gets into the page
    data = base64.b64encode(content).decode("ascii")
    return Html(
        f'<img src="data:image/png;base64,{data}" width="{width}" height="{height}" '
        f'alt="{escape(description, 200)}">'
    )
