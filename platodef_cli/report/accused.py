"""The accused change on images, for a page: each example without and with it, and what the encoders say."""

from platodef_cli.records import AccusedRecord, AuditReport
from platodef_cli.report import page
from platodef_cli.report.numbers import number
from platodef_cli.report.page import Html

_MOST = 8
_MOST_ENCODERS = 6


def accused_pictures(report: AuditReport) -> Html:
    """Return the examples beside each other; nothing where no change is accused."""
    record = None if report.context is None else report.context.accused
    if record is None:
        return page.NOTHING
    pairs = list(zip(record.originals, record.examples, strict=False))[:_MOST]
    figures = []
    for place, (original, example) in enumerate(pairs):
        sides = [
            page.picture(original, f"Example {place + 1} without {record.name}"),
            page.picture(example, f"Example {place + 1} with {record.name}"),
        ]
        caption = f"Example {place + 1}, without and with: {_said(record, place)}"
        figures.append(page.figure(page.group(sides), caption, kind="pair"))
    return page.gallery(figures, "pairs") if figures else page.NOTHING


def _said(record: AccusedRecord, place: int) -> str:
    """Return what the encoders say about one example."""
    parts = []
    for said in record.said[:_MOST_ENCODERS]:
        if place >= len(said.examples):
            continue
        text = f"{said.encoder} keeps {number(said.examples[place])}"
        if place < len(said.classes):
            before, after = said.classes[place]
            text += f" ({before} \u2192 {after})"
        parts.append(text)
    return "; ".join(parts) or "no encoder was asked"
