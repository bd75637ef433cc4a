"""The sections about what a result is worth: taxonomies, the quality of the test, origin."""

from platodef_cli.records import AuditReport, MeasuredQuality, Metric
from platodef_cli.report.blocks import Block, Bullets, Column, Grid, KeyValueTable, Section
from platodef_cli.report.numbers import number, percent
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


def accused(report: AuditReport) -> list[Section]:
    """Return what every encoder says about the change that tells most against the suspect."""
    record = None if report.context is None else report.context.accused
    if record is None:
        return []
    rows = []
    for said in record.said:
        rows.append(
            (
                said.encoder if said.role == "suspect" else f"{said.encoder} (reference)",
                _kept(said.kept.value),
                number(said.kept.value),
                number(said.collapse),
                number(said.shift),
            )
        )
    columns = (
        Column("encoder", numeric=False),
        Column("says", numeric=False),
        Column("kept"),
        Column("collapse"),
        Column("shift"),
    )
    turned = [
        f"example {place}: {before} without, {after} with the change"
        for said in record.said
        for place, (before, after) in enumerate(said.classes, start=1)
    ]
    alarms = frozenset(place for place, said in enumerate(record.said) if said.role == "suspect")
    blocks: list[Block] = [Grid(columns, tuple(rows), alarms)]
    if turned:
        blocks.append(Bullets(tuple(turned)))
    return [
        Section(
            f"The accused change: {record.name}",
            "kept: mean cosine of an image's feature with and without the change, 1 where an encoder does "
            "not notice it, 0 where its feature says nothing of the image any more.",
            tuple(blocks),
            key="accused",
        )
    ]


def _kept(value: float | None) -> str:
    """Return a cosine in words."""
    if value is None:
        return "–"
    return "the same image" if value >= 0.7 else "a changed image" if value >= 0.3 else "another image"


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


def origin(report: AuditReport) -> list[Section]:
    """Return what is known of the signature of the model, and what its card says."""
    if report.context is None:
        return []
    pairs = []
    signature, card = report.context.signature, report.context.card
    if signature is not None:
        pairs.append(("signature", f"{signature.status}: {signature.message or signature.status}"))
        if signature.root:
            pairs.append(("", f"root digest of the signed files, sha256 {signature.root}"))
    if card is not None and card.license:
        pairs.append(("licence", f"{card.license}, as its card says"))
    if card is not None and card.base_models:
        pairs.append(("made from", f"{', '.join(card.base_models)}, as its card says"))
    note = "Evidence of where the model comes from, never an acquittal."
    return [Section("Origin", note, (KeyValueTable(tuple(pairs)),), key="origin")] if pairs else []
