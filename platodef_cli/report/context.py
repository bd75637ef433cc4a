"""The sections about what a result is worth: taxonomies, how good the test is, signature and lineage."""

from platodef_cli.records import AuditReport, LineageRecord, MeasuredQuality, Metric
from platodef_cli.report.blocks import Block, Bullets, Column, Grid, KeyValueTable, Section
from platodef_cli.report.numbers import percent
from platodef_cli.report.quality import in_one_line
from platodef_cli.report.taxonomies import in_words


def _share(metric: Metric) -> str:
    text = percent(metric.value)
    if metric.interval is not None:
        text += f" [{percent(metric.interval.low)}, {percent(metric.interval.high)}]"
    return text


def _families(quality: MeasuredQuality) -> Grid:
    return Grid(
        (
            Column(f"family ({quality.benchmark})", numeric=False),
            Column("encoders"),
            Column("found"),
            Column("no answer"),
        ),
        tuple(
            (rate.family, str(rate.detected.n_positive), _share(rate.detected), percent(rate.undecided.value))
            for rate in quality.families
        ),
    )


def quality(report: AuditReport) -> list[Section]:
    """Return how good the test is, in rates per family of backdoors."""
    if report.context is None:
        return []
    record = report.context.quality
    blocks: list[Block] = [Bullets(tuple(in_one_line(entry) for entry in record.measured))]
    blocks += [_families(entry) for entry in record.measured if entry.families]
    blocks.append(Bullets(tuple(f"not measured: {entry}" for entry in record.not_measured)))
    return [
        Section(
            "How good this test is",
            "Verdicts of the benchmark on encoders of known truth, with Wilson's intervals.",
            tuple(block for block in blocks if not isinstance(block, Bullets) or block.items),
            key="quality",
        )
    ]


def taxonomies(report: AuditReport) -> list[Section]:
    """Return where reasons and findings stand in public taxonomies."""
    named = [(reason.id, reason.message) for reason in report.reasons if reason.outcome != "pass"]
    named += [(finding.id, finding.message) for finding in report.findings]
    pairs = {name: in_words(name, message) for name, message in named if in_words(name, message)}
    if not pairs:
        return []
    note = "MITRE ATLAS techniques and mitigations, OWASP top tens, CWE."
    table = KeyValueTable(tuple(pairs.items()))
    return [Section("In public taxonomies", note, (table,), key="taxonomies")]


def lineage_lines(record: LineageRecord) -> list[str]:
    """Return a lineage in sentences."""
    if record.base is None:
        return [record.note or "no base was found"]
    lines = [
        f"probably made from {record.base}: cosine of the weights {record.cosine:.4f}, over {record.shared} "
        f"of {record.tensors} tensors"
        if record.cosine is not None
        else f"probably made from {record.base}"
    ]
    return [*lines, record.note] if record.note else lines


def origin(report: AuditReport) -> list[Section]:
    """Return what is known of the signature and of the base of the model."""
    if report.context is None:
        return []
    blocks: list[Block] = []
    signature, record = report.context.signature, report.context.lineage
    if signature is not None:
        text = signature.message or signature.status
        pairs = [("signature", f"{signature.status}: {text}")]
        if signature.root:
            pairs.append(("", f"root digest of the signed files, sha256 {signature.root}"))
        blocks.append(KeyValueTable(tuple(pairs)))
    if record is not None:
        blocks.append(Bullets(tuple(lineage_lines(record))))
        if record.layers:
            rows = tuple(
                (layer.name, f"{layer.cosine:.4f}", f"{layer.relative:.3f}") for layer in record.layers
            )
            columns = (Column("tensor", numeric=False), Column("cosine"), Column("relative change"))
            blocks.append(Grid(columns, rows))
    note = "Evidence of where the model comes from, never an acquittal."
    return [Section("Origin", note, tuple(blocks), key="origin")] if blocks else []
