"""From a matplotlib figure to inline SVG that takes its colours and its font from the page around it."""

import io
import re
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Self
from xml.etree import ElementTree

from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from platodef_cli.report.escaping import plain
from platodef_cli.report.page import Html

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
# matplotlib knows no CSS variables: it draws in these colours, which are replaced afterwards
INK, MUTED, LINE, SURFACE = "#010101", "#020202", "#030303", "#040404"
SERIES = tuple(f"#0a0a{number:02x}" for number in range(1, 7))
FAIL = "#050505"
_VARIABLES: Mapping[str, str] = {
    INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)", SURFACE: "var(--bg)", FAIL: "var(--fail)",
    **{colour: f"var(--s{number})" for number, colour in enumerate(SERIES, start=1)},
}  # fmt: skip
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.8,
    "lines.solid_capstyle": "round",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
}
_METADATA = ("Date", "Creator", "Format", "Type")
_TOKEN = re.compile(r"label(\d+)end")


class Sketch:
    """One plot in the making: width 360, one unit is a CSS pixel at a width of 360 pixels.

    Attributes:
        figure: Draw here, in colours of this module.
        height: Height in the same units.
    """

    WIDTH = 360

    def __init__(self, name: str, height: float, title: str, description: str):
        """Begin a plot.

        Args:
            name: Unique inside the page: letters, digits and hyphens.
            height: Height, where the width is 360.
            title: Its accessible name.
            description: What it shows, in words and numbers.
        """
        self.height = height
        self._name, self._title, self._description = name, title, description
        self._texts: list[str] = []
        self._settings = ExitStack()
        self.figure = Figure(figsize=(self.WIDTH / 72, height / 72), dpi=72)

    def __enter__(self) -> Self:
        """Begin to draw: everything inside the block is in the style of the page."""
        self._settings.enter_context(rc_context())
        rcdefaults()  # the user's own matplotlib settings must not change a report
        rcParams.update({**_SETTINGS, "svg.hashsalt": self._name})
        self.figure.set_facecolor("none")
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the style."""
        self._settings.close()

    def text(self, foreign: str, limit: int = 44) -> str:
        """Return a stand-in for foreign text: the layout never measures what its font may not know."""
        label = plain(foreign, 4 * limit)
        self._texts.append(label if len(label) <= limit else label[: limit - 1] + "…")
        return f"label{len(self._texts) - 1}end"

    def axes(self, left: float, top: float, width: float, height: float) -> Any:
        """Return axes at a place in units from the top left corner."""
        bottom = 1 - (top + height) / self.height
        return self.figure.add_axes((left / self.WIDTH, bottom, width / self.WIDTH, height / self.height))

    def svg(self) -> Html:
        """Return the plot; equal plots give equal bytes."""
        stream = io.StringIO()
        FigureCanvasSVG(self.figure).print_svg(stream, metadata=dict.fromkeys(_METADATA))
        root = ElementTree.fromstring(stream.getvalue())
        self._clean(root)
        ElementTree.register_namespace("", _SVG)
        ElementTree.register_namespace("xlink", _XLINK)
        return Html(ElementTree.tostring(root, encoding="unicode").strip())

    def _clean(self, root: ElementTree.Element) -> None:
        """Drop what the page does not need, and give it what it does."""
        for parent in list(root.iter()):
            # its style would reach the whole page; page.css says the same for plots only
            for child in [c for c in parent if c.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style")]:
                parent.remove(child)
        text = ElementTree.tostring(root, encoding="unicode")
        used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
        for element in root.iter():
            if element.get("id") in used:
                element.set("id", f"{self._name}-{element.get('id')}")
            else:
                element.attrib.pop("id", None)
            for key, value in element.items():
                element.set(key, self._value(key, value))
            if element.text:
                element.text = _TOKEN.sub(lambda match: self._texts[int(match[1])], element.text)
                if not element.text.strip():
                    element.text = None
            element.tail = None
        for key in ("width", "height", "version"):
            root.attrib.pop(key, None)
        root.set("role", "img")
        root.set("aria-labelledby", f"{self._name}-title")
        root.set("aria-describedby", f"{self._name}-desc")
        for place, (tag, words) in enumerate((("title", self._title), ("desc", self._description))):
            element = ElementTree.Element(f"{{{_SVG}}}{tag}", {"id": f"{self._name}-{tag}"})
            element.text = plain(words, 8000)
            root.insert(place, element)

    def _value(self, key: str, value: str) -> str:
        if key == f"{{{_XLINK}}}href":
            return value.replace("#", f"#{self._name}-", 1)
        value = value.replace("url(#", f"url(#{self._name}-")
        for colour, variable in _VARIABLES.items():
            value = value.replace(colour, variable)
        if key == "style":
            # the family comes from the page
            value = re.sub(r"font-family: [^;]*(; )?", "", value)
            # the shorthand of matplotlib before 3.11
            value = re.sub(r"font: (?:([a-z0-9]+) )?([0-9.]+)px [^;]*", _long_font, value)
        return value


def _long_font(match: re.Match[str]) -> str:
    weight = f"font-weight: {match[1]}; " if match[1] else ""
    return f"{weight}font-size: {match[2]}px"
