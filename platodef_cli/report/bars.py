"""Horizontal bars under their names, as inline SVG; part of :mod:`platodef_cli.report.plots`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from platodef_cli.report.numbers import number
from platodef_cli.report.page import Html
from platodef_cli.report.svg import FAIL, INK, MUTED, SERIES, SURFACE, Sketch

MARGIN = 8


@dataclass(frozen=True)
class Bar:
    """One row of :func:`bars`.

    Attributes:
        label: Its name, foreign text.
        value: Length of the bar, or None where there is none.
        low: Lower end of an interval.
        high: Upper end.
        compare: What the controls reach under the same, drawn as a diamond.
        alarm: Crossed its limit: filled, with a cross before its name.
        series: Number of its colour, from 0.
    """

    label: str
    value: float | None
    low: float | None = None
    high: float | None = None
    compare: float | None = None
    alarm: bool = False
    series: int = 0


def bars(
    groups: Sequence[tuple[str, Sequence[Bar]]],
    *,
    name: str,
    title: str,
    axis: str,
    limits: tuple[float, float] = (0.0, 1.0),
    threshold: float | None = None,
) -> Html:
    """Draw horizontal bars under their names, in titled groups.

    Args:
        groups: (title of the group, its rows).
        name: Unique inside the page.
        title: Accessible name.
        axis: Label of the axis.
        limits: Ends of the axis; values beyond are drawn at its end; the numbers stay exact.
        threshold: Where a line is drawn across every bar.
    """
    row, heading = 30, 24
    rows = sum(len(entries) for _, entries in groups)
    body = rows * row + len(groups) * heading
    height = body + 44
    text = "; ".join(
        f"{group}: " + ", ".join(f"{bar.label} {_bar_value(bar)}" for bar in entries)
        for group, entries in groups
    )
    low, high = limits
    with Sketch(name, height, title, text) as sketch:
        axes = sketch.axes(MARGIN + 4, 0, sketch.WIDTH - 2 * MARGIN - 8, body)
        axes.set(xlim=limits, ylim=(body, 0), yticks=[])
        axes.spines["left"].set_visible(False)
        axes.grid(visible=True, axis="x")
        axes.set_axisbelow(True)
        top = 0.0
        for group, entries in groups:
            _words(axes, low, top + 15, sketch.text(group), weight="bold")
            top += heading
            for bar in entries:
                sign = "✗ " if bar.alarm else ""
                _words(axes, low, top + 10, sign + sketch.text(bar.label, 36))
                _words(axes, high, top + 10, _bar_value(bar), ha="right", color=INK if bar.alarm else MUTED)
                _bar(axes, bar, top + 20, limits, threshold)
                top += row
        axes.set_xlabel(sketch.text(axis, 60), fontsize=10, labelpad=2)
        return sketch.svg()


def _words(axes: Any, x: float, y: float, text: str, **style: Any) -> None:
    axes.text(x, y, text, va="baseline", fontsize=11, **style)


def _bar_value(bar: Bar) -> str:
    text = number(bar.value)
    if bar.low is not None and bar.high is not None:
        text += f" [{number(bar.low)}, {number(bar.high)}]"
    if bar.compare is not None:
        text += f" / {number(bar.compare)}"
    return text


def _bar(axes: Any, bar: Bar, y: float, limits: tuple[float, float], threshold: float | None) -> None:
    low, high = limits

    def inside(value: float) -> float:
        return min(max(value, low), high)

    if bar.value is not None and not math.isnan(bar.value):
        colour = FAIL if bar.alarm else SERIES[bar.series % len(SERIES)]
        axes.barh(
            y, inside(bar.value) - low, left=low, height=9, edgecolor=colour, linewidth=1,
            facecolor=(colour, 1.0 if bar.alarm else 0.35), zorder=2,
        )  # fmt: skip
    if threshold is not None and not math.isnan(threshold):
        axes.plot([inside(threshold)] * 2, [y - 6.5, y + 6.5], color=FAIL, linewidth=1.6, zorder=2.5)
    if bar.low is not None and bar.high is not None and not math.isnan(bar.low + bar.high):
        ends = [inside(bar.low), inside(bar.high)]
        axes.plot(ends, [y, y], color=INK, linewidth=1.4, marker="|", markersize=8, zorder=3)
    if bar.compare is not None and not math.isnan(bar.compare):
        axes.plot(
            [inside(bar.compare)], [y], marker="D", markersize=6, markerfacecolor=SURFACE,
            markeredgecolor=INK, linestyle="none", zorder=3, clip_on=False,
        )  # fmt: skip
