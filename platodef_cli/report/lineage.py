"""The section about the model that the suspect was made from."""

from platodef_cli.records import AuditReport, DriftRecord, LineageRecord
from platodef_cli.report.blocks import Block, Column, Grid, KeyValueTable, Section
from platodef_cli.report.numbers import number, percent, with_interval

_ROWS = 10


def lineage(report: AuditReport) -> list[Section]:
    """Return the nearest known model, the layers that differ from it, and the drift from a given base."""
    record = None if report.context is None else report.context.lineage
    if record is None or (record.base is None and record.drift is None):
        return []
    blocks: list[Block] = []
    if record.base is not None:
        blocks.append(KeyValueTable(tuple(_nearest(record))))
    if record.changed:
        blocks.append(_layers(record))
    if record.drift is not None:
        blocks.append(KeyValueTable(tuple(_drift(record.drift))))
    note = (
        "Evidence, never an acquittal: a planting changes little and stays near its base, and so does a "
        "careful fine-tuning. Little drift on clean images, with much under one change, is the mark of a "
        "planting."
    )
    return [Section("Lineage", note, tuple(blocks), key="lineage")]


def _nearest(record: LineageRecord) -> list[tuple[str, str]]:
    return [
        ("nearest model", f"{record.base} ({record.base_uri}, sha256 {(record.base_digest or '')[:12]})"),
        ("weights", f"cosine {number(record.cosine)}, {percent(record.coverage)} of them have a counterpart"),
        ("unchanged", f"{record.unchanged} of {record.layers} weight matrices"),
    ]


def _layers(record: LineageRecord) -> Grid:
    columns = (
        Column("most changed weights", numeric=False),
        Column("shape", numeric=False),
        Column("cosine"),
        Column("length"),
        Column("spectrum"),
    )
    rows = tuple(
        (
            layer.name,
            " x ".join(map(str, layer.shape)),
            number(layer.cosine),
            number(layer.length),
            number(layer.spectrum),
        )
        for layer in record.changed[:_ROWS]
    )
    return Grid(columns, rows)


def _drift(drift: DriftRecord) -> list[tuple[str, str]]:
    return [
        ("given base", f"{drift.base} (sha256 {drift.digest[:12]}), not audited"),
        ("same on clean images", with_interval(drift.clean)),
        ("same at worst", f"{with_interval(drift.worst)} under {drift.worst_change}"),
        (
            "collapse there",
            f"{number(drift.own_collapse)}, of the base {number(drift.base_collapse)}",
        ),
    ]
