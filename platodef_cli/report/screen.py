"""One screen: the verdict, why, one drawing of the worst change, and what to do next; at most 30 lines of 80.

The whole of a report is in its other formats, and in the terminal with ``-v``.
"""

from platodef_cli.errors import UsageError
from platodef_cli.records import AuditReport, ErrorRateRecord, Histogram, ProbeRecord
from platodef_cli.report.blocks import Bullets, Drawing, Section
from platodef_cli.report.histogram import draw
from platodef_cli.report.numbers import number
from platodef_cli.report.power import in_one_line
from platodef_cli.report.quality import in_few_words
from platodef_cli.report.view import ReasonLine, reasons

MOST_REASONS = 3
"""Reasons that are told one by one."""
LONGEST_REASON = 136
"""Characters of a reason; the whole of it is in the other formats."""
_HEIGHT = 2


def short_reasons(report: AuditReport) -> tuple[list[ReasonLine], str]:
    """Return the reasons that are shown, and a line about the rest; empty where none is left out."""
    lines = reasons(report)
    passed = [line for line in lines if line.outcome == "pass"]
    told = [line for line in lines if line.outcome != "pass"]
    shown = told[:MOST_REASONS] or passed[:MOST_REASONS]
    rest = [line for line in lines if line not in shown]
    parts = []
    more = [line for line in rest if line.outcome != "pass"]
    quiet = [line for line in rest if line.outcome == "pass" and line.examined]
    silent = [line for line in rest if not line.examined]
    if more:
        parts.append(f"{len(more)} more: {_ids(more)}")
    if silent:
        parts.append(f"without power: {_ids(silent)}")
    if quiet:
        parts.append(f"passed: {_ids(quiet)}")
    return [_cut(line) for line in shown], "; ".join(parts)[:140]


def _ids(lines: list[ReasonLine]) -> str:
    names = list(dict.fromkeys(line.id[:24] for line in lines))
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _cut(line: ReasonLine) -> ReasonLine:
    """Shorten a reason at a word, so that it takes two lines with its name."""
    room = LONGEST_REASON - len(line.id[:40]) - 3
    if len(line.text) <= room:
        return line
    text = line.text[: room - 3].rpartition(" ")[0].rstrip(",;: ") or line.text[: room - 3]
    return ReasonLine(line.outcome, line.id[:40], f"{text}...", line.excuse, line.subject)


def worst_change(report: AuditReport) -> ProbeRecord | None:
    """Return the change that tells most against the suspect: accused ones, then the largest collapse."""
    probes = [probe for probe in report.probes if probe.kind != "control"]
    return max(probes, key=lambda p: (p.suspicious, p.collapse.value or 0.0), default=None)


def _histogram(report: AuditReport, worst: ProbeRecord | None) -> Histogram | None:
    """Return the deciding detector's histogram of clean images and of one change, or None."""
    drawable = [h for h in report.histograms if len(h.edges) > 1 and h.counts]
    chosen = next((h for h in drawable if h.name == report.deciding), drawable[0] if drawable else None)
    if chosen is None:
        return None
    changes = [name for name in chosen.counts if name not in ("clean", "mismatched")]
    change = worst.name if worst is not None and worst.name in changes else next(iter(changes), None)
    kept = {name: chosen.counts[name] for name in ("clean", change) if name in chosen.counts}
    return chosen.model_copy(update={"counts": kept}) if kept else None


def _drawing(report: AuditReport, width: int) -> list[Section]:
    worst = worst_change(report)
    histogram = _histogram(report, worst)
    sections = []
    if histogram is not None:
        try:
            block = Drawing(tuple(draw(histogram, width, height=_HEIGHT)))
        except UsageError:
            block = None
        if block is not None:
            name = f"The worst change: scores of {histogram.name[:40]}"
            sections.append(Section(name, "", (block,), key="histogram"))
    if worst is not None and not sections:
        refs = number(max(worst.control_collapse.values(), default=None))
        text = f"{worst.name}: collapse {number(worst.collapse.value)}, references at most {refs}"
        sections.append(Section("The worst change", "", (Bullets((text[:200],)),)))
    return sections


def next_steps(report: AuditReport) -> list[str]:
    """Return what to do next, most useful first; a line of the terminal each."""
    needed = max((reason.needed or 0 for reason in report.reasons), default=0)
    steps = {
        "pass": [
            "a pass is no proof of safety: -v lists what was not examined",
            "hold later versions against this report: platodef gate --baseline",
        ],
        "fail": [
            "do not build on it; look at it: platodef report R.json -o html=R.html",
            "take another encoder, or clean its features: platodef fit, purify",
        ],
        "inconclusive": [
            f"give about {needed} images" if needed else "follow the first reason above, and audit again",
        ],
        "refused": ["do not load it elsewhere either; ask its publisher for signed safetensors"],
        "error": ["the encoder was not examined; run it again"],
    }
    return steps[report.verdict]


def false_alarms(report: AuditReport, rate: ErrorRateRecord) -> str:
    """Return how usual the suspect is among clean encoders, in one line."""
    if rate.p_value is None:
        return f"no p-value: {rate.outside[0] if rate.outside else 'no test was examined'}"[:140]
    alarms = None if report.calibration is None else report.calibration.alarms.n_positive
    known = "" if alarms is None else f", the limits fail {alarms} of them"
    shown = "" if rate.decides else f"; alpha {rate.alpha:g} takes more"
    return f"p = {rate.p_value:.3f} beside {rate.lineages} clean lineages{known}{shown}"


def audited(report: AuditReport) -> str:
    """Return against whom and on what, in one line; empty where neither is known."""
    if not report.references and report.images is None:
        return ""
    against = ", ".join(reference.name[:16] for reference in report.references[:3]) or "nothing"
    images = f"{report.images.count} images" if report.images is not None else "images not read"
    return f"against {against}, on {images}"


def screen(report: AuditReport, *, width: int) -> list[Section]:
    """Return what follows the verdict on one screen.

    Args:
        report: The report.
        width: Columns that drawings may use.
    """
    facts = next_steps(report)
    if report.baseline is not None:
        worse = sum(change.kind in ("worse", "new") for change in report.changes)
        facts.append(f"against the baseline: {worse} of {len(report.changes)} differences are worse or new")
    if report.error_rate is not None:
        facts.append(false_alarms(report, report.error_rate))
    known = in_one_line(report)
    if known and report.verdict != "fail":
        facts.append(known)
    if report.context is not None and report.context.quality.measured:
        facts.append(in_few_words(report.context.quality.measured[-1]))
    if not report.probes and report.not_examined:
        facts.append(f"not examined: {report.not_examined[0]}"[:145])
    left = [f"{len(report.not_examined)} not examined"] if report.not_examined else []
    for name, entries in (("finding", report.findings), ("warning", report.warnings)):
        left += [f"{len(entries)} {name}{'s' if len(entries) > 1 else ''}"] if entries else []
    facts.append(f"all of it ({', '.join(left)}): -v" if left else "all of it: -v")
    return [*_drawing(report, width), Section("What next", "", (Bullets(tuple(facts)),), key="next")]
