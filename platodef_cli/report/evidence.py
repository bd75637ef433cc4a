"""The sections of a report that show measurements."""

from collections.abc import Callable, Sequence

from platodef_cli.errors import UsageError
from platodef_cli.records import AuditReport, Histogram, Metric, SearchRecord
from platodef_cli.report.blocks import Block, Bullets, Column, Drawing, Grid, Section
from platodef_cli.report.histogram import draw
from platodef_cli.report.numbers import compact, interval, number, percent, with_interval
from platodef_cli.report.power import power_lines, searched_kinds

_MAX_CONTROLS = 4


def is_validation(metric: Metric) -> bool:
    """Return whether a metric compares matched with mismatched tuples."""
    return metric.positive == "mismatched"


def heads(report: AuditReport) -> list[Section]:
    """Return how well the heads tell matched from mismatched tuples, and the thresholds."""
    head_metrics = report.head.metrics if report.head else ()
    chosen = [metric for metric in (*report.metrics, *head_metrics) if is_validation(metric)]
    return [
        Section(
            "Heads: matched against mismatched tuples",
            "AUROC; validates the heads, says nothing about triggers.",
            _metric_grid(chosen, lambda metric: interval(metric, 3)),
            key="heads",
        ),
        Section(
            "Thresholds",
            "False positive rate, stated and measured on clean images.",
            _thresholds(report),
            key="thresholds",
        ),
    ]


def _metric_grid(
    metrics: Sequence[Metric], show: Callable[[Metric], str] = with_interval
) -> tuple[Block, ...]:
    unique = list(dict.fromkeys(metrics))
    if not unique:
        return ()
    rows = tuple(
        (
            metric.name,
            show(metric),
            "–" if metric.n_positive is None and metric.n_negative is None else _sample_size(metric),
        )
        for metric in unique
    )
    return (Grid((Column("measure", numeric=False), Column("value"), Column("n")), rows),)


def _sample_size(metric: Metric) -> str:
    return " + ".join(str(count) for count in (metric.n_positive, metric.n_negative) if count is not None)


def _thresholds(report: AuditReport) -> tuple[Block, ...]:
    if not report.thresholds:
        return ()
    rows = tuple(
        (
            threshold.detector,
            compact(threshold.value),
            percent(threshold.false_positive_rate),
            with_interval(threshold.measured),
            str(threshold.calibration),
        )
        for threshold in report.thresholds
    )
    columns = (
        Column("detector", numeric=False),
        Column("alarm above"),
        Column("stated"),
        Column("measured on test images"),
        Column("calibrated on"),
    )
    return (Grid(columns, rows),)


def histograms(report: AuditReport, *, width: int) -> list[Section]:
    """Return one drawing per histogram."""
    return [
        Section(
            f"Histogram: {histogram.name}",
            "Each group is scaled to its own peak; far from the clean scores the axis is logarithmic.",
            (_drawing(histogram, width),),
            key="histogram",
        )
        for histogram in report.histograms
        if len(histogram.edges) > 1 and histogram.counts
    ]


def _drawing(histogram: Histogram, width: int) -> Block:
    try:
        return Drawing(tuple(draw(histogram, width)))
    except UsageError as error:
        return Bullets((f"not drawn: {error}",))


def searches(report: AuditReport) -> list[Section]:
    """Return the trigger search, the suspect against every control encoder under the same budget."""
    controls = list(dict.fromkeys(record.encoder for record in report.searches if record.role == "control"))
    listed = controls[:_MAX_CONTROLS]
    groups: dict[tuple[str, str], list[SearchRecord]] = {}
    for record in report.searches:
        groups.setdefault((record.kind, record.budget), []).append(record)
    rows = []
    for (kind, budget), records in groups.items():
        suspect = next((record for record in records if record.role == "suspect"), None)
        cells = [f"{kind} {budget}" + (f" at {suspect.place}" if suspect and suspect.place else "")]
        cells.append("–" if suspect is None else number(suspect.collapse))
        for name in listed:
            values = [record.collapse for record in records if record.encoder == name]
            cells.append(number(max(values, default=None)))
        cells.append("–" if suspect is None else number(suspect.score))
        rows.append(tuple(cells))
    if not rows:
        return []
    columns = (
        Column("search", numeric=False),
        Column("suspect"),
        *(Column(name) for name in listed),
        Column("score"),
    )
    note = "Largest collapse reached on held-out images; a score of 1 or more crosses the limits."
    if any(len({record.encoder for record in records}) == 1 for records in groups.values()):
        note += " References are searched (–: not) where the suspect's collapse may reach its limit."
    if len(controls) > len(listed):
        note += f" {len(controls) - len(listed)} more controls are in the JSON report."
    blocks: list[Block] = [Grid(columns, tuple(rows))]
    if report.search_power:
        blocks.append(Bullets(power_lines(report.search_power, searched_kinds(report))))
        note += (
            " Below, which of the backdoors that were planted into copies of the references each search "
            f"finds ({report.search_power[0].origin}), with 95 % intervals."
        )
    if report.found is not None:
        place = f" at {report.found.place}" if report.found.place else ""
        blocks.append(
            Bullets(
                (
                    f"found: a {report.found.kind} of {report.found.budget}{place}; its picture and "
                    f"{len(report.found.examples)} examples are in the HTML and JSON reports.",
                )
            )
        )
    return [Section("Trigger search: the suspect against its controls", note, tuple(blocks), key="search")]


def accuracy(report: AuditReport) -> list[Section]:
    """Return linear-probe accuracies with and without defence."""
    rows = tuple(
        (
            entry.defence,
            entry.trigger,
            percent(entry.clean_accuracy.value),
            percent(entry.poisoned_accuracy.value),
            percent(entry.attack_success.value),
            percent(entry.baseline_success.value),
        )
        for entry in report.accuracy
    )
    if not rows:
        return []
    columns = (
        Column("defence", numeric=False),
        Column("trigger", numeric=False),
        Column("CA"),
        Column("PA"),
        Column("ASR"),
        Column("clean ASR"),
    )
    targets = sorted({entry.target for entry in report.accuracy})
    note = (
        "CA, PA: accuracy on clean and triggered images. ASR: non-target images sent to "
        f"{', '.join(targets)}; clean ASR: the same without trigger."
    )
    return [Section("Purification: linear-probe accuracy", note, (Grid(columns, rows),), key="accuracy")]


def alignment(report: AuditReport) -> list[Section]:
    """Return CKA and CKNNA beside their permutation null."""
    rows = tuple(
        (
            f"{entry.first} – {entry.second}",
            entry.measure.upper() + (f" k={entry.k}" if entry.k else ""),
            number(entry.value, 3),
            number(entry.null_mean, 3),
            number(entry.null_high, 3),
            compact(round(entry.p_value, 4)),
            str(entry.n),
        )
        for entry in report.alignment
    )
    if not rows:
        return []
    columns = (
        Column("encoders", numeric=False),
        Column("measure", numeric=False),
        Column("value"),
        Column("null mean"),
        Column("null max"),
        Column("p"),
        Column("n"),
    )
    note = "Compare a value with its null only, never across n or k."
    return [Section("Alignment", note, (Grid(columns, rows),), key="alignment")]


def measurements(report: AuditReport) -> list[Section]:
    """Return the guarantee and every other metric that has no table of its own."""
    rest = [metric for metric in report.metrics if not is_validation(metric)]
    blocks: tuple[Block, ...] = _metric_grid(rest)
    return [Section("Guarantee and other measurements", "", blocks, key="measurements")]


def slices(report: AuditReport, *, details: bool) -> list[Section]:
    """Return the groups of the given images in which only the suspect departs; with details the next ones."""
    chosen = [entry for entry in report.slices if entry.departs or details]
    rows = tuple(
        (
            f"{entry.count} alike for the {entry.space}",
            percent(entry.flagged.value),
            percent(entry.elsewhere),
            percent(max(entry.control_flagged.values(), default=None)),
            f"{entry.q_value:.2g}",
            ", ".join(entry.images[:2]) or "–",
        )
        for entry in chosen
    )
    columns = (
        Column("images", numeric=False),
        Column("flagged"),
        Column("others"),
        Column("refs"),
        Column("q"),
        Column("among them", numeric=False),
    )
    alarms = frozenset(row for row, entry in enumerate(chosen) if entry.departs)
    return [
        Section(
            "Groups of your images",
            "flagged: share over the threshold in the group, and among the other images; refs: the largest "
            "share with a reference in the suspect's place; q: p-value adjusted for all groups.",
            (Grid(columns, rows, alarms),) if rows else (),
            key="slices",
        )
    ]
