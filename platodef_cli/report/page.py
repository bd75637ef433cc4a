"""The skeleton of an HTML page and its pieces: self-contained, without scripts, without network.

The markup is in ``templates/``. Every text that a template prints is escaped there, hidden characters
included, unless its type is :data:`Html`: markup that is safe already.
"""

import base64
import binascii
import html
import struct
from collections.abc import Iterable, Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from platodef_cli.report.blocks import Block, Bullets, Drawing, Grid, KeyValueTable
from platodef_cli.report.escaping import plain

Html = Markup
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
    """Return markup put together; what is not marked as safe is escaped."""
    return Html(separator).join(parts)


def _harmless(value: object) -> Html:
    """Return what a template prints in place of a value."""
    return value if isinstance(value, Html) else escape(str(value))


class Templates:
    """The files in ``templates/`` of a package.

    Args:
        package: Name of the package.
    """

    def __init__(self, package: str):
        self._environment = Environment(
            loader=PackageLoader(package),
            autoescape=True,
            finalize=_harmless,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        self._environment.filters["limit"] = escape
        self._environment.globals.update(
            light=LIGHT, dark=DARK, content_security_policy=Html(CONTENT_SECURITY_POLICY), zip=zip
        )

    def fill(self, file: str, **values: object) -> str:
        """Return a file, filled in."""
        return self._environment.get_template(file).render(values)

    def piece(self, file: str, name: str, *arguments: object) -> Html:
        """Return a macro of a file, filled in."""
        macro = getattr(self._environment.get_template(file).module, name)
        return Html(macro(*arguments))


_TEMPLATES = Templates("platodef_cli.report")


def from_template(name: str, **values: object) -> str:
    """Return a file of ``templates/``, filled in."""
    return _TEMPLATES.fill(name, **values)


def _piece(name: str, *arguments: object) -> Html:
    """Return a macro of ``pieces.html``, filled in."""
    return _TEMPLATES.piece("pieces.html", name, *arguments)


def document(title: str, header: Html, body: Html, footer: Html = NOTHING, style: str = "") -> str:
    """Return a whole page, ending in one newline.

    Args:
        title: Title of the window; foreign text is welcome.
        header: What stands on top, with the only ``h1``.
        body: Sections, from :func:`section`.
        footer: Last lines.
        style: Rules of this kind of page, after those of all pages; never foreign text.
    """
    return from_template("page.html", title=title, header=header, body=body, footer=footer, style=Html(style))


def section(title: str, content: Html, *, identity: str, note: str = "") -> Html:
    """Return a section under an ``h2``.

    Args:
        title: The heading.
        content: Markup.
        identity: Unique name inside the page, letters, digits and hyphens; :func:`contents` links to it.
        note: A sentence under the heading.
    """
    return _piece("section", title, content, identity, note)


def contents(entries: Iterable[tuple[str, str]]) -> Html:
    """Return links to the sections of the page, from (identity, title)."""
    return _piece("contents", entries)


def table(grid: Grid, label: str) -> Html:
    """Return a table that scrolls inside its own box; rows that crossed a limit are marked and said so.

    Args:
        grid: Columns and rows.
        label: What the table shows, for those who cannot see where it stands.
    """
    return _piece("table", grid, label)


def facts(pairs: KeyValueTable) -> Html:
    """Return pairs of a label and a text; an empty label continues the pair above."""
    groups: list[tuple[str, list[str]]] = []
    for label, text in pairs.pairs:
        if label or not groups:
            groups.append((label, [text]))
        else:
            groups[-1][1].append(text)
    return _piece("facts", groups)


def bullets(items: Iterable[str]) -> Html:
    """Return a list of sentences."""
    return _piece("bullets", items)


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
            return _piece("drawing", piece.lines, label)


def figure(content: Html, caption: str, kind: str = "plot") -> Html:
    """Return a plot or a picture with its caption; ``kind`` is its class in the style sheet."""
    return _piece("figure", content, caption, kind)


def gallery(figures: Iterable[Html], kind: str = "plots") -> Html:
    """Return figures beside each other as far as there is room."""
    return _piece("gallery", join(figures), kind)


def group(parts: Iterable[Html]) -> Html:
    """Return markup that a :func:`gallery` or :func:`figure` treats as one."""
    return _piece("group", join(parts))


def disclosure(summary: str, content: Html, *, repeats: bool = False) -> Html:
    """Return markup that is shown on request, and in print unless it ``repeats`` what is shown anyway."""
    return _piece("disclosure", summary, content, repeats)


def absent(message: str) -> Html:
    """Return a sentence that says what is not there."""
    return _piece("absent", message)


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
    data = Html(base64.b64encode(content).decode("ascii"))
    return _piece("picture", data, width, height, description)
