"""The report as a section for a model card on the Hub, which a maintainer can paste into README.md.

Markdown without pictures, without anything of the audited images and without folders of the machine; every
claim has its coverage beside it.
"""

from pathlib import PurePath

from platodef_cli.records import AuditReport, Metric
from platodef_cli.report.escaping import cut
from platodef_cli.report.interface import RenderOptions
from platodef_cli.report.markdown import escape
from platodef_cli.report.numbers import number, with_interval
from platodef_cli.report.quality import in_one_line
from platodef_cli.report.screen import worst_change
from platodef_cli.report.taxonomies import in_words
from platodef_cli.report.view import MEANING, ReasonLine, headline, reasons, target_name, verdict_line

_MOST = 10
_TEXT, _LONG_TEXT = 400, 1000
_BOUNDS = "guarantee:"
"""How metrics begin that are about the heads, not about the model."""


def _line(text: str, most: int = _TEXT) -> str:
    return escape(cut(text, most))


def _bullets(lines: list[str], more: str, most: int = _TEXT) -> list[str]:
    kept = [f"- {_line(line, most)}" for line in lines[:_MOST]]
    return kept + ([f"- {len(lines) - _MOST} more {more} are in the report"] if len(lines) > _MOST else [])


def _reason(line: ReasonLine, folder: str) -> str:
    """Return a reason with its outcome; what had no power is no pass, and the folder is nobody's business."""
    text = _public(line.text, folder)
    return f"{line.outcome}: {text} [{line.id}]" if line.examined else f"{text} [{line.id}]"


def _public(text: str, folder: str) -> str:
    return text.replace(folder, PurePath(folder).name) if folder else text


def _folder(report: AuditReport) -> str:
    """Return the absolute folder of a local model; empty where it is none."""
    asked = str(report.configuration.get("model", ""))
    return asked if PurePath(asked).is_absolute() else ""


def _table(report: AuditReport) -> list[str]:
    rows = []
    worst = worst_change(report)
    metrics: dict[str, Metric] = {}
    if worst is not None:
        metrics = {
            f"collapse under {worst.name} (references at most "
            f"{number(max(worst.control_collapse.values(), default=None))})": worst.collapse,
            f"images with {worst.name} over the alarm threshold": worst.flagged,
        }
    metrics |= {
        metric.name: metric
        for metric in report.metrics
        if metric.value is not None and not metric.name.startswith(_BOUNDS)
    }
    for name, metric in list(metrics.items())[:_MOST]:
        rows.append(f"| {_line(name)} | {_line(with_interval(metric))} |")
    return ["| measure | value [interval] |", "|:---|---:|", *rows] if rows else []


def render(report: AuditReport, options: RenderOptions) -> str:
    """Return a section that begins with ``## Backdoor audit``."""
    target = report.target
    pin = "nothing of it was loaded"
    if target is not None:
        pin = f"commit {target.commit}" if target.commit else "a local folder"
        pin += f", sha256 of its files {target.digest}"
    images = f"{report.images.count} images" if report.images is not None else "no images"
    against = ", ".join(reference.name for reference in report.references) or "no reference"
    parts = [
        ["## Backdoor audit"],
        [f"**{escape(verdict_line(report))}: {_line(headline(report))}.**"],
        [
            f"{_line(_public(target_name(report), _folder(report)))} ({_line(pin)}) was audited by platodef "
            f"{escape(report.tool_version[:50])} on {escape(report.timing.finished[:10])}, against "
            f"{_line(against)}, on {images}, policy {_line(str(report.policy.get('name', 'default')))}."
        ],
        _bullets([_reason(line, _folder(report)) for line in reasons(report)], "reasons"),
        _table(report),
        ["### How good the test is"],
    ]
    coverage = ["not recorded in this report"]
    if report.context is not None:
        quality = report.context.quality
        coverage = [in_one_line(entry) for entry in quality.measured]
        coverage += [f"not measured: {entry}" for entry in quality.not_measured]
    parts.append(_bullets(coverage, "limits of the test"))
    parts += [["### Not examined"], _bullets(list(report.not_examined) or ["nothing on purpose"], "entries")]
    named = {
        reason.id: in_words(reason.id, reason.message)
        for reason in report.reasons
        if reason.outcome not in ("pass", "inconclusive")
    }
    if any(named.values()):
        lines = [f"{name}: {words}" for name, words in named.items() if words]
        parts += [["### In public taxonomies"], _bullets(lines, "entries", _LONG_TEXT)]
    parts.append([_line(MEANING[report.verdict == "fail"])])
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"
