"""The plots of a report, as inline SVG: histograms, ROC curves, bars, matrices.

Every plot is 360 wide, so that its text is readable on a phone, has an accessible name and a description
with its numbers, and tells nothing by colour alone.
"""

import math
from collections.abc import Sequence
from typing import Any

from platodef_cli.errors import UsageError
from platodef_cli.records import Histogram, RocCurve
from platodef_cli.report.bars import MARGIN, Bar, bars
from platodef_cli.report.histogram import check, share_above
from platodef_cli.report.numbers import compact, interval, number, percent
from platodef_cli.report.page import Html
from platodef_cli.report.svg import FAIL, LINE, MUTED, SERIES, Sketch

__all__ = ["Bar", "bars", "histogram", "matrix", "roc"]

_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (9, 3)), (0, (3, 3)))
_SIDE = 16  # room for half a tick label


def histogram(record: Histogram, *, name: str) -> Html:
    """Draw one panel per group over a common axis, each scaled to its own peak.

    The bins are equally wide whatever their edges, as in the terminal: the ticks tell the edges.

    Args:
        record: Counts of every group over common edges.
        name: Unique inside the page.

    Raises:
        UsageError: The histogram contradicts itself.
    """
    check(record)
    groups = list(record.counts.items())
    bins = len(record.edges) - 1
    notes = []
    for _, counts in groups:
        note = f"n = {sum(counts)}"
        if record.threshold is not None:
            note = f"{percent(share_above(counts, record.edges, record.threshold))} over, {note}"
        notes.append(note)
    text = "; ".join(f"{group}: {note}" for (group, _), note in zip(groups, notes, strict=True))
    panel, gap = 58, 26
    height = len(groups) * (panel + gap) + 52
    marker = _bin_of(record)
    with Sketch(name, height, f"Histogram of {record.name}", text) as sketch:
        for place, ((group, counts), note) in enumerate(zip(groups, notes, strict=True)):
            axes = sketch.axes(_SIDE, gap + place * (panel + gap), sketch.WIDTH - 2 * _SIDE, panel)
            colour = SERIES[place % len(SERIES)]
            axes.stairs(counts, range(bins + 1), fill=True, facecolor=colour, alpha=0.35, linewidth=0)
            axes.stairs(counts, range(bins + 1), color=colour, linewidth=1.2)
            axes.set(xlim=(0, bins), ylim=(0, 1.08 * max(1, *counts)), yticks=[])
            axes.spines["left"].set_visible(False)
            if marker is not None:
                axes.axvline(marker, color=FAIL, linestyle=(0, (4, 2)), linewidth=1.4)
            axes.set_title(sketch.text(group, 32), loc="left", fontsize=11, pad=3)
            axes.set_title(note, loc="right", fontsize=10, pad=3, color=MUTED)
            last = place == len(groups) - 1
            ticks = _ticks(bins)
            axes.set_xticks(ticks, [_tick(record.edges[t]) for t in ticks] if last else [""] * len(ticks))
        label = "score, higher is more suspicious"
        if record.threshold is not None:
            label += f"; dashed: alarm above {compact(record.threshold)}"
        sketch.figure.text(
            0.5, 8 / height, label + (" (off the scale)" if _off_scale(record) else ""),
            ha="center", va="bottom", fontsize=10, color=MUTED,
        )  # fmt: skip
        return sketch.svg()


def _bin_of(record: Histogram) -> float | None:
    """Return the place of the threshold on an axis where every bin is 1 wide."""
    threshold, edges = record.threshold, record.edges
    if threshold is None or _off_scale(record):
        return None
    for place, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
        if low <= threshold <= high and high > low:
            return place + (threshold - low) / (high - low)
    return None


def _off_scale(record: Histogram) -> bool:
    return record.threshold is not None and not record.edges[0] <= record.threshold <= record.edges[-1]


def _ticks(bins: int) -> list[int]:
    count = min(bins, 5)
    return sorted({round(place * bins / count) for place in range(count + 1)})


def _tick(value: float) -> str:
    return f"{value + 0.0:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def roc(curves: Sequence[RocCurve], *, name: str, title: str) -> Html:
    """Draw the ROC curves of several detectors for one group, with their AUROC and its interval below.

    Args:
        curves: The curves.
        name: Unique inside the page.
        title: Accessible name, which says what is compared.

    Raises:
        UsageError: A rate is outside [0, 1], or a curve has not as many true as false positive rates.
    """
    for curve in curves:
        if len(curve.fpr) != len(curve.tpr) or not all(0 <= rate <= 1 for rate in (*curve.fpr, *curve.tpr)):
            raise UsageError(f"the ROC curve of {curve.detector!r} is no list of pairs of rates")
    side, row, top = 300, 17, 10
    height = top + side + 42 + row * len(curves) + MARGIN
    text = "; ".join(f"{curve.detector}: AUROC {interval(curve.auroc, 3)}" for curve in curves)
    with Sketch(name, height, title, text) as sketch:
        axes = sketch.axes(44, top, side, side)
        axes.plot([0, 1], [0, 1], color=LINE, linewidth=1)
        for place, curve in enumerate(curves):
            axes.plot(
                curve.fpr, curve.tpr, color=SERIES[place % len(SERIES)], linewidth=2,
                linestyle=_DASHES[place % len(_DASHES)], clip_on=False, zorder=3,
            )  # fmt: skip
        ticks = (0, 0.25, 0.5, 0.75, 1)
        axes.set(xlim=(0, 1), ylim=(0, 1), xticks=ticks, yticks=ticks)
        axes.grid(visible=True)
        axes.set_xlabel("false positive rate", fontsize=10, labelpad=2)
        axes.set_ylabel("true positive rate", fontsize=10, labelpad=2, rotation_mode="anchor")
        legend = sketch.axes(0, top + side + 42, sketch.WIDTH, row * len(curves))
        legend.set(xlim=(0, sketch.WIDTH), ylim=(len(curves), 0))
        legend.axis("off")
        for place, curve in enumerate(curves):
            legend.plot(
                [44, 74], [place + 0.5] * 2, color=SERIES[place % len(SERIES)], linewidth=2,
                linestyle=_DASHES[place % len(_DASHES)],
            )  # fmt: skip
            label = f"{sketch.text(curve.detector, 24)}  {interval(curve.auroc, 3)}"
            legend.text(82, place + 0.5, label, va="center", fontsize=11)
        return sketch.svg()


def matrix(
    names: Sequence[str],
    values: Sequence[Sequence[float | None]],
    notes: Sequence[Sequence[str]],
    *,
    name: str,
    title: str,
) -> Html:
    """Draw a square matrix of values up to 1, each cell with its number and a small note under it.

    Args:
        names: Of the rows and columns; the columns are numbered.
        values: ``[n][n]``; None leaves a cell empty.
        notes: ``[n][n]`` short texts, for instance the null of the value.
        name: Unique inside the page.
        title: Accessible name.
    """
    count = len(names)
    left, top, side = 132, 24, 340 - 132
    cell = side / max(count, 1)
    text = "; ".join(
        f"{names[a]} and {names[b]}: {number(values[a][b], 3)} ({notes[a][b]})"
        for a in range(count)
        for b in range(a + 1, count)
        if values[a][b] is not None
    )
    with Sketch(name, top + side + MARGIN, title, text) as sketch:
        axes = sketch.axes(left, top, side, side)
        axes.set(xlim=(0, count), ylim=(count, 0), xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set_visible(False)
        for a in range(count):
            axes.text(-0.06, a + 0.5, f"{a + 1} {sketch.text(names[a], 18)}", ha="right", va="center")
            axes.text(a + 0.5, -0.06, str(a + 1), ha="center", va="bottom")
            for b in range(count):
                _cell(axes, a, b, values[a][b], notes[a][b], cell)
        return sketch.svg()


def _cell(axes: Any, row: int, column: int, value: float | None, note: str, size: float) -> None:
    from matplotlib.patches import Rectangle

    if value is not None and math.isnan(value):
        value = None
    share = 0.0 if value is None else min(max(value, 0.0), 1.0)
    axes.add_patch(Rectangle((column, row), 1, 1, facecolor=SERIES[0], alpha=0.45 * share, linewidth=0))
    axes.add_patch(Rectangle((column, row), 1, 1, facecolor="none", edgecolor=LINE, linewidth=1))
    if value is None:
        return
    large = size >= 40
    shift = 0.42 if note and large else 0.5
    axes.text(column + 0.5, row + shift, number(value), ha="center", va="center", fontsize=11 if large else 9)
    if note and large:
        axes.text(
            column + 0.5,
            row + 0.7,
            note,
            ha="center",
            va="center",
            fontsize=9 if size >= 60 else 7,
            color=MUTED,
        )
