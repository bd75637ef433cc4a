"""Histograms drawn with block characters, one panel per group over a common axis."""

import itertools
import math
from bisect import bisect_right
from collections.abc import Sequence

from platodef_cli.errors import UsageError
from platodef_cli.records import Histogram
from platodef_cli.report.numbers import compact, percent

_LEVELS = " ▁▂▃▄▅▆▇█"
_PANEL_HEIGHT = 3
_MOST = 2**53  # counts beyond are no counts of images


def check(histogram: Histogram) -> None:
    """Check that a histogram can be drawn; a report may come from anywhere.

    Raises:
        UsageError: There is no group, the edges do not rise, or the counts are not one per bin.
    """
    edges, threshold = histogram.edges, histogram.threshold
    rising = all(low < high for low, high in itertools.pairwise(edges))
    if not histogram.counts or len(edges) < 2 or not rising or not all(map(math.isfinite, edges)):
        raise UsageError(f"the histogram {histogram.name!r} has no groups, or edges that do not rise")
    if threshold is not None and math.isnan(threshold):
        raise UsageError(f"the threshold of the histogram {histogram.name!r} is not a number")
    for counts in histogram.counts.values():
        if len(counts) != len(edges) - 1 or not all(0 <= count < _MOST for count in counts):
            raise UsageError(f"the histogram {histogram.name!r} does not count one number from 0 on per bin")


def _columns(counts: Sequence[int], width: int) -> list[float]:
    """Spread or merge bins to at most ``width`` columns; the total count is kept."""
    merge = -(-len(counts) // width)
    merged = [sum(counts[start : start + merge]) for start in range(0, len(counts), merge)]
    repeat = max(1, width // len(merged))
    return [count / repeat for count in merged for _ in range(repeat)]


def share_above(counts: Sequence[int], edges: Sequence[float], threshold: float) -> float:
    """Return the share of a group over the threshold, the bin that holds it divided in proportion."""
    above = 0.0
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        if low >= threshold:
            above += count
        elif high > threshold:
            above += count * (high - threshold) / (high - low)
    return above / max(1, sum(counts))


def _panel(columns: Sequence[float], marker: int | None, height: int) -> list[str]:
    """Draw one group, tallest column full height; an empty cell at the threshold shows a line."""
    top = max(columns) or 1.0
    # A column that holds anything at all shows at least the lowest block.
    eighths = [max(1, round(8 * height * value / top)) if value else 0 for value in columns]
    rows = []
    for row in reversed(range(height)):
        cells = [_LEVELS[min(8, max(0, level - 8 * row))] for level in eighths]
        if marker is not None and cells[marker] == " ":
            cells[marker] = "┊"
        rows.append("".join(cells).rstrip())
    return rows


def _axis(edges: Sequence[float], width: int, marker: int | None, threshold: float | None) -> list[str]:
    """Draw the axis with its two ends and the threshold labelled."""
    line = ["─"] * width
    low, high = compact(edges[0]), compact(edges[-1])
    text = "" if threshold is None else f"alarm above {compact(threshold)}"
    if marker is None:
        note = [f"{text} (off the scale)"] if text else []
        return ["".join(line), low + high.rjust(width - len(low)), *note]
    line[marker] = "┴"
    space = width - len(low) - len(high) - 2
    if len(text) > space:
        return ["".join(line), low + high.rjust(width - len(low))]
    start = min(max(0, marker - len(text) // 2 - len(low) - 1), space - len(text))
    middle = (" " * start + text).ljust(space)
    return ["".join(line), f"{low} {middle} {high}"]


def draw(histogram: Histogram, width: int, height: int = _PANEL_HEIGHT) -> list[str]:
    """Return the lines of the drawing, each at most ``width`` columns, every group ``height`` lines high.

    Every group is scaled to its own peak, so that groups of different size can be compared by shape
    and place; the number of samples and the share over the threshold stand beside its name.

    Raises:
        UsageError: The histogram contradicts itself.
    """
    check(histogram)
    edges, threshold = histogram.edges, histogram.threshold
    lines: list[str] = []
    columns_used = len(_columns([0] * (len(edges) - 1), width))
    marker = None
    if threshold is not None and edges[0] <= threshold <= edges[-1] and edges[-1] > edges[0]:
        # by bins, not by values: the edges need not be evenly spaced
        bin_number = min(bisect_right(edges, threshold), len(edges) - 1) - 1
        inside = (threshold - edges[bin_number]) / (edges[bin_number + 1] - edges[bin_number])
        marker = min(columns_used - 1, int((bin_number + inside) / (len(edges) - 1) * columns_used))
    for group, counts in histogram.counts.items():
        note = f"n = {sum(counts)}"
        if threshold is not None:
            note += f", {percent(share_above(counts, edges, threshold))} over the threshold"
        lines.append(f"{group} ({note})")
        lines += _panel(_columns(counts, width), marker, height)
    return lines + _axis(edges, columns_used, marker, threshold)
