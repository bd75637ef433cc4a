"""The pictures of an HTML report: plots of its measurements, the found trigger, suspicious images."""

from collections.abc import Callable, Sequence
from functools import partial

from platodef_cli.errors import UsageError
from platodef_cli.records import AlignmentRecord, AuditReport, ProbeRecord, RocCurve
from platodef_cli.report import page, plots
from platodef_cli.report.evidence import is_validation
from platodef_cli.report.numbers import compact, number
from platodef_cli.report.page import Html
from platodef_cli.report.plots import Bar
from platodef_cli.report.probes import worst_of_each_family
from platodef_cli.report.view import target_name

# more cannot be told apart, and a report of any size is shown in seconds
_MOST_LINES, _MOST_BARS, _MOST_PLOTS = 12, 30, 24
_SERIES = {"found": 0, "trigger": 1, "control": 5}
_KINDS = {"found": "Found by the search", "trigger": "Known triggers", "control": "Harmless controls"}


def _plot(draw: Callable[[], Html], caption: str) -> Html:
    """Return a plot with its caption, or what is wrong with its numbers: a report may come from anywhere."""
    try:
        return page.figure(draw(), caption)
    except UsageError as error:
        return page.absent(f"Not drawn: {error}.")


def deciding(report: AuditReport) -> str | None:
    """Return the name of the detector that the verdict uses, where the report has thresholds of any."""
    measured = [threshold.detector for threshold in report.thresholds]
    # a report of version 1.0 does not name it, and need not hold today's default
    return report.deciding if report.deciding in measured else next(reversed(measured), None)


def found_trigger(report: AuditReport) -> Html:
    """Return the trigger that the search found, enlarged, beside images with and without it."""
    found = report.found
    if found is None:
        return page.NOTHING
    place = f" at {found.place}" if found.place else ""
    # what has no place changes the whole image, often by a few levels
    drawn = "on mid-grey" if found.place else "stretched to the full range, centred on mid-grey"
    name = f"{found.kind} of {found.budget}{place}"
    alone = page.figure(
        page.picture(found.picture, f"The found trigger: {name}"), f"{name}, {drawn}", kind="found"
    )
    pairs = []
    for number_of, example in enumerate(found.examples[:_MOST_LINES], start=1):
        sides = []
        if number_of <= len(found.originals):
            original = found.originals[number_of - 1]
            sides.append(page.picture(original, f"Example {number_of} without the trigger"))
        sides.append(page.picture(example, f"Example {number_of} with the trigger"))
        caption = f"Example {number_of}: " + ("without, with" if len(sides) == 2 else "with the trigger")
        pairs.append(page.figure(page.group(sides), caption, kind="pair"))
    parts = [alone, page.gallery(pairs, "pairs")] if pairs else [alone]
    if found.examples and not found.originals:
        parts.append(not_recorded(report, "the examples without the trigger"))
    return page.gallery(parts, "evidence")


def not_recorded(report: AuditReport, what: str) -> Html:
    """Return a sentence that says that a report of an earlier version does not hold something."""
    return page.absent(f"Not recorded in this report (schema {report.schema_version}): {what}.")


def histograms(report: AuditReport) -> Html:
    """Return one plot per histogram."""
    drawn = []
    for place, histogram in enumerate(report.histograms[:_MOST_PLOTS]):
        caption = f"{histogram.name}: each group is scaled to its own peak; every bin is drawn equally wide."
        if len(histogram.counts) > _MOST_LINES:
            first = dict(list(histogram.counts.items())[:_MOST_LINES])
            caption += f" {len(histogram.counts) - _MOST_LINES} more groups are in the JSON report."
            histogram = histogram.model_copy(update={"counts": first})
        drawn.append(_plot(partial(plots.histogram, histogram, name=f"histogram-{place}"), caption))
    return page.gallery(drawn) if drawn else page.NOTHING


def roc_curves(report: AuditReport) -> Html:
    """Return one plot per group of curves: mismatched tuples and triggers are never in one plot."""
    groups: dict[tuple[bool, str], list[RocCurve]] = {}
    for curve in report.roc:
        groups.setdefault((is_validation(curve.auroc), curve.group), []).append(curve)
    drawn = []
    for place, ((validation, group), curves) in enumerate(list(groups.items())[:_MOST_PLOTS]):
        if validation:
            title = "Matched against mismatched tuples: validates the heads, says nothing about triggers"
        else:
            title = f"Clean against triggered images: {group}"
        best = sorted(curves, key=lambda curve: -(curve.auroc.value or 0.0))[:_MOST_LINES]
        kept = [curve for curve in curves if curve in best]
        rest = f" ({len(curves) - len(kept)} more are in the JSON report)" if len(curves) > len(kept) else ""
        draw = partial(plots.roc, kept, name=f"roc-{place}", title=f"ROC curves. {title}")
        drawn.append(_plot(draw, title + rest))
    return page.gallery(drawn) if drawn else page.NOTHING


def battery(report: AuditReport) -> Html:
    """Return what triggers and controls do: the collapse beside the references', and the AUROC."""
    listed = {
        kind: [
            probe
            for probe, _ in worst_of_each_family([probe for probe in report.probes if probe.kind == kind])
        ][:_MOST_BARS]
        for kind in _KINDS
    }
    groups = [(title, listed[kind]) for kind, title in _KINDS.items() if listed[kind]]
    if not groups:
        return page.NOTHING
    limit = report.policy.get("battery_collapse")
    drawn = [
        page.figure(
            plots.bars(
                [(title, [_collapse(probe) for probe in probes]) for title, probes in groups],
                name="battery-collapse",
                title="Collapse of the features under triggers and controls",
                axis="collapse: bar the suspect, diamond the references",
                threshold=_limit(limit),
            ),
            "Collapse: mean pairwise cosine of the changed features, 0 when clean, beside the largest among "
            "the references. Suspicious changes are filled and marked \u2717."
            + (f" Line: limit for known triggers, {compact(_limit(limit))}." if _limit(limit) else ""),
        )
    ]
    detector = deciding(report)
    if detector is not None and any(detector in probe.auroc for probe in report.probes):
        least = _limit(report.policy.get("auroc"))
        drawn.append(
            page.figure(
                plots.bars(
                    [(title, [_auroc(probe, detector) for probe in probes]) for title, probes in groups],
                    name="battery-auroc",
                    title=f"AUROC of {detector} under triggers and controls",
                    axis=f"AUROC of {detector} with its interval",
                    threshold=least,
                ),
                f"AUROC of {detector}, clean against changed test images, with its interval."
                + (f" Line: limit {compact(least)}." if least else ""),
            )
        )
    return page.gallery(drawn)


def _limit(value: object) -> float | None:
    """Return a limit of the policy as a place on an axis; a report may hold anything there."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e9 < value < 1e9:
        return None
    return float(value)


def _collapse(probe: ProbeRecord) -> Bar:
    control = max(probe.control_collapse.values(), default=None)
    return Bar(
        probe.name, probe.collapse.value, compare=control, alarm=probe.suspicious, series=_SERIES[probe.kind]
    )


def _auroc(probe: ProbeRecord, detector: str) -> Bar:
    metric = probe.auroc.get(detector)
    if metric is None:
        return Bar(probe.name, None)
    low, high = (metric.interval.low, metric.interval.high) if metric.interval else (None, None)
    series = _SERIES[probe.kind]
    return Bar(probe.name, metric.value, low, high, alarm=probe.suspicious, series=series)


def search(report: AuditReport) -> Html:
    """Return what the search reached on the suspect and on every control, by budget."""
    groups: dict[str, list[Bar]] = {}
    for record in sorted(report.searches, key=lambda record: record.role != "suspect"):
        role = "suspect" if record.role == "suspect" else "reference"
        alarm = record.role == "suspect" and record.score >= 1
        series = 0 if record.role == "suspect" else 5
        bar = Bar(f"{record.encoder} ({role})", record.collapse, alarm=alarm, series=series)
        groups.setdefault(f"{record.kind} {record.budget}", []).append(bar)
    if not groups:
        return page.NOTHING
    drawn = plots.bars(
        [(title, bars[:_MOST_LINES]) for title, bars in list(groups.items())[:_MOST_LINES]],
        name="search-collapse",
        title="Collapse that the trigger search reaches on the suspect and on the references",
        axis="collapse on held-out images",
    )
    caption = (
        "The same search on the references is the control group; a bar marked \u2717 is over its limits."
    )
    return page.figure(drawn, caption)


def suspicious_images(report: AuditReport) -> Html:
    """Return the clean images with the highest scores as thumbnails."""
    figures = [
        page.figure(
            page.picture(image.picture, f"Clean image {image.id}"),
            f"{image.id}, {image.part}: score {image.score:.3g}, p {image.p_value:.2g}",
            kind="thumbnail",
        )
        for image in report.suspicious_images[:_MOST_PLOTS]
    ]
    return page.gallery(figures, "pictures") if figures else page.NOTHING


def alignment(report: AuditReport) -> Html:
    """Return a matrix per measure, with the largest value among the permutations in every cell."""
    measures = dict.fromkeys((record.measure, record.k) for record in report.alignment)
    drawn = []
    for place, (measure, k) in enumerate(measures):
        records = [record for record in report.alignment if (record.measure, record.k) == (measure, k)]
        names = list(dict.fromkeys(name for record in records for name in (record.first, record.second)))
        names = sorted(names, key=lambda name: name != target_name(report))[:_MOST_LINES]
        records = [record for record in records if record.first in names and record.second in names]
        title = measure.upper() + (f", k = {k}" if k else "")
        values, notes = _matrix(names, records)
        drawn.append(
            page.figure(
                plots.matrix(names, values, notes, name=f"alignment-{place}", title=f"Alignment, {title}"),
                f"{title}: the value, and under it the largest of its permutation null.",
            )
        )
    return page.gallery(drawn) if drawn else page.NOTHING


def _matrix(
    names: Sequence[str], records: Sequence[AlignmentRecord]
) -> tuple[list[list[float | None]], list[list[str]]]:
    place = {name: number_of for number_of, name in enumerate(names)}
    values: list[list[float | None]] = [[1.0 if a == b else None for b in names] for a in names]
    notes = [["" for _ in names] for _ in names]
    for record in records:
        a, b = place[record.first], place[record.second]
        for row, column in ((a, b), (b, a)):
            values[row][column] = record.value
            notes[row][column] = f"null \u2264 {number(record.null_high, 3)}"
    return values, notes
