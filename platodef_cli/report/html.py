"""The report as one HTML file: no scripts, no network, light and dark, for screens, phones and paper."""

import json
from collections.abc import Callable, Mapping

from platodef_cli.records import AuditReport, EncoderRecord
from platodef_cli.report import illustrations, page
from platodef_cli.report.blocks import Column, Drawing, Grid, KeyValueTable, Section
from platodef_cli.report.interface import RenderOptions
from platodef_cli.report.numbers import compact, percent
from platodef_cli.report.page import Html
from platodef_cli.report.probes import detection
from platodef_cli.report.view import MARKS, STYLES, headline, reasons, sections, target_name, verdict_line

_ORDER = (
    "baseline", "error-rate", "found", "histogram", "roc", "triggers", "controls", "search", "slices",
    "suspicious", "accuracy", "heads", "thresholds", "alignment", "measurements", "", "findings", "origin",
    "quality", "taxonomies", "warnings", "not-examined", "meaning", "identity", "policy", "provenance",
)  # fmt: skip
_ILLUSTRATED: Mapping[str, Callable[[AuditReport], Html]] = {
    "triggers": illustrations.battery,
    "search": illustrations.search,
    "alignment": illustrations.alignment,
}
_SINCE_1_1 = {"roc": "ROC curves", "suspicious": "the most suspicious clean images"}


def _audited(report: AuditReport) -> str:
    """Return what was audited, against whom, on what, in one sentence."""
    text = target_name(report) if report.target is None else report.target.uri
    if report.references:
        text += " against " + ", ".join(reference.name for reference in report.references)
    if report.images is not None:
        text += f", on {report.images.count} images of {report.images.uri}"
    return text


def _pictures(report: AuditReport) -> list[Section]:
    """Return the titles of the sections that only a format with pictures has."""
    detector = illustrations.deciding(report) or "the deciding detector"
    judged = report.images.calibration + report.images.test if report.images else 0
    rate = report.thresholds[0].false_positive_rate if report.thresholds else 0.05
    return [
        Section(
            "The trigger that the search found",
            "Evidence: a small change of the images that makes the suspect forget what it sees.",
            (),
            key="found",
        ),
        Section(
            "ROC curves",
            "Two questions that are never mixed: do the heads know the suspect, and do they see the trigger?",
            (),
            key="roc",
        ),
        Section(
            "The most suspicious clean images",
            f"Highest scores of {detector} among {judged} calibration and test images, with conformal "
            f"p-values. Some image is always the most unusual: p is at most {compact(rate)} for about "
            f"{percent(rate)} of clean images. Look for a pattern that they share.",
            (),
            key="suspicious",
        ),
    ]


_PICTURED: Mapping[str, Callable[[AuditReport], Html]] = {
    "found": illustrations.found_trigger,
    "roc": illustrations.roc_curves,
    "suspicious": illustrations.suspicious_images,
}


def _content(report: AuditReport, section: Section) -> Html:
    if section.key in _PICTURED:
        drawn = _PICTURED[section.key](report)
        if not drawn and section.key in _SINCE_1_1 and report.schema_version == "1.0":
            return illustrations.not_recorded(report, _SINCE_1_1[section.key])
        return drawn
    parts = [_ILLUSTRATED[section.key](report)] if section.key in _ILLUSTRATED else []
    blocks = [page.block(block, section.title) for block in section.blocks]
    if section.key == "search":
        # a narrow plot and a narrow table: beside each other where there is room
        return page.gallery([page.join(parts), page.group(blocks)])
    parts += blocks
    if section.key in ("triggers", "controls"):
        parts.append(_all_tried(report, section))
    return page.join(part for part in parts if part)


def _all_tried(report: AuditReport, section: Section) -> Html:
    """Return the tables of everything that was tried, where the section shows the worst of each family."""
    every = next(full for full in detection(report, details=True) if full.key == section.key)
    grids = [block for block in every.blocks if isinstance(block, Grid)]
    worst = [block for block in section.blocks if isinstance(block, Grid)]
    if not grids or not worst or len(grids[0].rows) <= len(worst[0].rows):
        return page.NOTHING
    tables = page.join(page.table(grid, f"{section.title}, all") for grid in grids)
    return page.disclosure(f"All {len(grids[0].rows)} that were tried", tables)


def _sections(report: AuditReport) -> list[tuple[Section, Html]]:
    """Return every section with its content, in the order in which it is read."""
    common = sections(report, width=78, details=True)
    # the tables of the worst of each family; all of them follow on request
    short = {section.key: section for section in sections(report, width=78, details=False) if section.key}
    chosen = [short.get(section.key, section) for section in common if section.key != "histogram"]
    chosen += _pictures(report)
    drawings = [section for section in common if section.key == "histogram"]
    parts = [(section, _content(report, section)) for section in chosen]
    if drawings:
        title = Section("Histograms of the scores", drawings[0].note, (), key="histogram")
        text = [
            page.block(block, section.title)
            for section in drawings
            for block in section.blocks
            if isinstance(block, Drawing)
        ]
        as_text = page.disclosure("The same as text", page.join(text), repeats=True)
        parts.append((title, page.join([illustrations.histograms(report), as_text])))
    parts.append(
        (
            Section(
                "Provenance",
                "Every file that was read, and everything that the result depends on.",
                (),
                key="provenance",
            ),
            _provenance(report),
        )
    )
    known = {key: place for place, key in enumerate(_ORDER)}
    parts.sort(key=lambda pair: known.get(pair[0].key, known[""]))
    return [(section, content) for section, content in parts if content]


def _provenance(report: AuditReport) -> Html:
    encoders = [("reference", encoder) for encoder in report.references]
    if report.target is not None:
        encoders.insert(0, ("target", report.target))
    files = Grid(
        (
            Column("encoder", numeric=False),
            Column("file", numeric=False),
            Column("bytes"),
            Column("SHA-256", numeric=False),
        ),
        tuple(
            (encoder.name, file.path, str(file.bytes), file.sha256)
            for _, encoder in encoders
            for file in encoder.files
        ),
    )
    parts = [page.table(files, "Files that were read, with their SHA-256")] if files.rows else []
    parts += [page.disclosure(f"{role}: {encoder.name}", _encoder(encoder)) for role, encoder in encoders]
    images = report.images
    if images is not None:
        rows = [("source", images.uri), ("digest", images.digest), ("images", str(images.count))]
        rows += [("classes", ", ".join(images.classes))] if images.classes else []
        parts.append(page.disclosure("Images", page.facts(KeyValueTable(tuple(rows)))))
    if report.head is not None:
        head = report.head
        rows = [
            ("name", head.name), ("origin", head.origin), ("preset", head.preset), ("digest", head.digest),
            ("trained on", head.trained_on), ("samples", str(head.fit_samples)),
        ]  # fmt: skip
        parts.append(page.disclosure("Heads", page.facts(KeyValueTable(tuple(rows)))))
    parts += [
        page.disclosure(
            title, page.facts(KeyValueTable(tuple((name, _value(value)) for name, value in values.items())))
        )
        for title, values in (
            ("Configuration", report.configuration),
            ("Libraries", {"platodef": report.tool_version, **report.libraries}),
            ("Run", _run(report)),
        )
        if values
    ]
    return page.join(parts)


def _encoder(encoder: EncoderRecord) -> Html:
    transform = json.dumps(encoder.transform.model_dump(mode="json"), sort_keys=True)
    rows = (
        ("asked for", encoder.uri), ("commit", encoder.commit or "local, no commit"),
        ("digest", encoder.digest), ("backend", f"{encoder.backend}, {encoder.architecture}"),
        ("features", f"{encoder.dim}, pooling {encoder.pooling}, {encoder.dtype}"),
        ("parameters", str(encoder.parameters)), ("transform", transform),
        ("child process", "yes" if encoder.isolated else "no"),
    )  # fmt: skip
    return page.facts(KeyValueTable(rows))


def _run(report: AuditReport) -> dict[str, object]:
    timing = report.timing
    steps = {f"seconds, {name}": compact(seconds) for name, seconds in timing.seconds.items()}
    memory = {} if timing.peak_memory_mb is None else {"peak memory, MB": compact(timing.peak_memory_mb)}
    return {
        "device": report.device, "seed": report.seed, "started": timing.started, "finished": timing.finished,
        **steps, **memory, "cache hits": timing.cache_hits, "cache misses": timing.cache_misses,
        "report schema": report.schema_version,
    }  # fmt: skip


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)


def render(report: AuditReport, options: RenderOptions) -> str:
    """Return the page; equal reports give equal bytes, whatever the options."""
    parts = [
        (section.key or f"part-{place}", section, content)
        for place, (section, content) in enumerate(_sections(report))
    ]
    target, verdict = target_name(report), verdict_line(report)
    return page.from_template(
        "report.html",
        title=f"{verdict} {target} \u2013 platodef",
        style="",
        report=report,
        target=target,
        verdict=verdict,
        headline=headline(report),
        reasons=reasons(report),
        audited=_audited(report),
        links=[(identity, section.title) for identity, section, _ in parts],
        parts=parts,
        marks=MARKS,
        styles=STYLES,
    )
