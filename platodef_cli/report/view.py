"""What a report for people contains, in order, before any format: sections of facts, tables, drawings.

Terminal and Markdown draw the same sections, so that neither can leave something out. Nothing here is
escaped yet: a format must pass every string through its own escaping.
"""

import re
from dataclasses import dataclass
from typing import Literal

from platodef_cli.records import TEXT_TOWER, AuditReport, ImageSetRecord, Outcome
from platodef_cli.report import context, evidence, probes
from platodef_cli.report.blocks import Bullets, KeyValueTable, Section
from platodef_cli.report.lineage import lineage
from platodef_cli.report.numbers import compact, size

HEADLINES: dict[Outcome, str] = {
    "pass": "no tested indicator crossed its limit",
    "fail": "the encoder is suspicious",
    "inconclusive": "no answer: the evidence is too small or contradicts itself",
    "refused": "refused: nothing of the encoder was loaded",
    "error": "the audit could not be completed",
}
MARKS: dict[Outcome, str] = {"pass": "✓", "fail": "✗", "inconclusive": "?", "refused": "✗", "error": "!"}
UNEXAMINED = frozenset({"battery-saturated", "search-powerless", "search-saturated"})
"""Ids of reasons that name tests without power: they do not accuse, and are no passed checks either."""
_ORDER: tuple[Outcome, ...] = ("refused", "error", "inconclusive", "fail", "pass")

_LONG_DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")

MEANING = (
    "A pass means that no tested indicator crossed its limit on these images with these references. "
    "It does not mean that the encoder is safe: triggers that were not tried, triggers that only act "
    "downstream, and everything under 'Not examined' remain possible.",
    "A failure means that a small change of the images collapses or moves the features far more than "
    "the references and the benign controls allow. Look at the evidence before you conclude intent.",
)
Style = Literal["pass", "fail", "warn", "none"]
STYLES: dict[Outcome, Style] = {
    "pass": "pass",
    "fail": "fail",
    "inconclusive": "warn",
    "refused": "fail",
    "error": "warn",
}


@dataclass(frozen=True)
class ReasonLine:
    """One reason of the verdict, as it is shown on top.

    Attributes:
        outcome: Decides its mark and colour, where it was examined.
        id: Stable name of the check.
        text: The message, with value and limit where the message itself does not carry them.
        excuse: Why it does not decide: a waiver, or the baseline; empty where it does.
        subject: What it is about: a trigger, a budget, a rule.
    """

    outcome: Outcome
    id: str
    text: str
    excuse: str = ""
    subject: str = ""

    @property
    def examined(self) -> bool:
        """Whether its tests could have found something."""
        return self.outcome != "pass" or self.id not in UNEXAMINED

    @property
    def mark(self) -> str:
        """A sign for its outcome."""
        return MARKS[self.outcome] if self.examined else "–"

    @property
    def style(self) -> Style:
        """The colour of the sign."""
        return STYLES[self.outcome] if self.examined else "none"


def verdict_line(report: AuditReport) -> str:
    """Return ``FAIL (1)``."""
    return f"{report.verdict.upper()} ({report.exit_code})"


def target_name(report: AuditReport) -> str:
    """Return the name of the target, or what was asked for where nothing of it was loaded."""
    if report.target is not None:
        return report.target.name
    return str(report.configuration.get("model", "unknown model"))


def headline(report: AuditReport) -> str:
    """Return the verdict in words; a pass that rests on exceptions says so."""
    waived = sum(reason.waived for reason in report.reasons if reason.outcome != "pass")
    known = sum(reason.known and not reason.waived for reason in report.reasons)
    if report.verdict != "pass" or not (waived or known):
        return HEADLINES[report.verdict]
    parts = [f"{waived} waived"] if waived else []
    parts += [f"{known} no worse than in the baseline"] if known else []
    return f"passed with exceptions: {' and '.join(parts)}"


def reasons(report: AuditReport) -> list[ReasonLine]:
    """Return the reasons, those that decided first; then what does not decide, passed checks last."""
    lines = []
    for reason in sorted(
        report.reasons,
        key=lambda r: (
            r.outcome == "pass",
            not r.decides,
            r.outcome != report.verdict,
            _ORDER.index(r.outcome),
        ),
    ):
        text = reason.message
        if reason.value is not None and reason.limit is not None and not any(c.isdigit() for c in text):
            text += f" ({compact(reason.value)}, limit {compact(reason.limit)})"
        excuse = "waived" if reason.waived else "no worse than in the baseline" if reason.known else ""
        lines.append(
            ReasonLine(
                reason.outcome,
                reason.id,
                f"{excuse}: {text}" if excuse else text,
                excuse,
                reason.subject or "",
            )
        )
    return lines


def identity(report: AuditReport) -> Section:
    """Return who was audited, against whom and on what."""
    pairs = [("target", f"{target_name(report)}: not loaded")] if report.target is None else []
    suspects = [] if report.target is None else [report.target]
    for role, encoder in [
        *(("target", target) for target in suspects),
        *(("reference", reference) for reference in report.references),
    ]:
        pin = f"commit {encoder.commit[:12]}" if encoder.commit else "local, no commit"
        confined = "" if role == "reference" else (", isolated" if encoder.isolated else ", not isolated")
        pairs.append(
            (
                role,
                f"{encoder.name}: {TEXT_TOWER + ' of ' if encoder.reads_text else ''}"
                f"{encoder.backend} {encoder.architecture}, {encoder.dim}-d, "
                f"{size(encoder.parameters)} parameters, {encoder.dtype}{confined}",
            )
        )
        pairs.append(("", f"{encoder.uri} ({pin}, sha256 {encoder.digest[:12]})"))
    pairs += _images(report.images)
    if report.head is not None:
        head = report.head
        pairs.append(
            ("heads", f"{head.name}, {head.origin}, preset {head.preset}, {head.fit_samples} samples")
        )
        trained_on = _LONG_DIGEST.sub(r"\1", head.trained_on)
        pairs.append(("", f"trained on {trained_on} (sha256 {head.digest[:12]})"))
    seconds = report.timing.seconds
    total = seconds.get("total", sum(seconds.values()))
    memory = report.timing.peak_memory_mb
    memory_note = "" if memory is None else f", peak memory {memory:.0f} MB"
    pairs.append(
        (
            "run",
            f"platodef {report.tool_version}, {report.device}, seed {report.seed}, "
            f"{total:.0f} s{memory_note}",
        )
    )
    return Section("What was audited", "", (KeyValueTable(tuple(pairs)),), key="identity")


def changes(report: AuditReport) -> list[Section]:
    """Return what differs from the baseline, where there was one."""
    if report.baseline is None:
        return []
    base = report.baseline
    text = tuple(f"{change.kind}: {change.message}" for change in report.changes)
    return [
        Section(
            "Compared with the baseline",
            f"Beyond the confidence intervals, both judged by the same policy. The baseline: {base.verdict} "
            f"by policy {base.policy}, model sha256 {base.target[:12]}, platodef {base.tool_version}, "
            f"{base.started or 'no date'}.",
            (Bullets(text or ("nothing changed",)),),
            key="baseline",
        )
    ]


def calibrated(report: AuditReport) -> list[Section]:
    """Return how often clean encoders depart as far, or that the report does not know it."""
    if report.target is None or not (report.probes or report.searches):
        return []
    rate = report.error_rate
    if rate is None:
        text = (
            f"Not known: this report (schema {report.schema_version}) holds no calibration. The limits alone "
            "decide, and how often they fail clean encoders is not stated."
        )
        return [Section("False alarms", "", (Bullets((text,)),), key="error-rate")]
    pairs = [("alpha", compact(rate.alpha)), ("clean lineages", str(rate.lineages))]
    if rate.p_value is not None:
        pairs.insert(0, ("p-value", f"{rate.p_value:.3f}"))
    if rate.departure is not None:
        pairs.append(("largest departure", f"{rate.departure.value:.2f} ({rate.departure.test})"))
    if report.calibration is not None:
        alarms = report.calibration.alarms
        if alarms.value is not None and alarms.interval is not None:
            ends = f"{alarms.interval.low:.3f}, {alarms.interval.high:.3f}"
            pairs.append(("lineages failed by the limits", f"{alarms.value:.3f} [{ends}]"))
    return [
        Section(
            "False alarms",
            "",
            (KeyValueTable((*pairs, ("in words", rate.statement))),),
            key="error-rate",
        )
    ]


def _images(images: ImageSetRecord | None) -> list[tuple[str, str]]:
    if images is None:
        return [("images", "not read")]
    labels = f"{len(images.classes)} classes" if images.classes else "no labels"
    counts = (
        f"{images.count} ({labels}): {images.fit} to fit, {images.calibration} to calibrate, "
        f"{images.test} to test, {len(images.skipped)} skipped"
    )
    return [("images", counts), ("", f"{images.uri} (sha256 {images.digest[:12]})")]


def _closing(report: AuditReport, *, details: bool) -> list[Section]:
    sections = [*context.origin(report), *lineage(report)]
    if details:
        sections += [*context.taxonomies(report), *context.quality(report)]
    if report.policy and details:
        limits = tuple(
            (name, compact(value) if isinstance(value, float) else str(value))
            for name, value in report.policy.items()
        )
        sections.append(Section("Policy", "", (KeyValueTable(limits),), key="policy"))
    if report.findings or report.waivers:
        items = [
            f"{finding.severity}{' (waived)' if finding.waived else ''}: {finding.message} [{finding.id}]"
            for finding in report.findings
        ]
        sections.append(
            Section(
                "Findings",
                "",
                (Bullets((*items, *(f"waiver: {waiver}" for waiver in report.waivers))),),
                key="findings",
            )
        )
    skipped = [f"image {name}: {reason}" for name, reason in (report.images.skipped if report.images else ())]
    if len(skipped) > 5:
        skipped = [*skipped[:5], f"{len(skipped) - 5} more skipped images, named in the JSON report"]
    if report.warnings or skipped:
        sections.append(Section("Warnings", "", (Bullets((*report.warnings, *skipped)),), key="warnings"))
    sections.append(
        Section(
            "Not examined",
            "Not examined is never clean.",
            (Bullets(report.not_examined or ("nothing was left out on purpose",)),),
            key="not-examined",
        )
    )
    sections.append(Section("What this verdict means", "", (Bullets(MEANING),), key="meaning"))
    return sections


def sections(report: AuditReport, *, width: int, details: bool) -> list[Section]:
    """Return every section after the verdict, in the order in which it is read.

    Args:
        report: The report.
        width: Columns that drawings may use.
        details: Show every trigger and control instead of the worst of each family.
    """
    parts = [
        identity(report),
        *changes(report),
        *context.accused(report),
        *calibrated(report),
        *probes.detection(report, details=details),
        *evidence.heads(report),
        *evidence.histograms(report, width=width),
        *evidence.searches(report),
        *evidence.slices(report, details=details),
        *evidence.accuracy(report),
        *evidence.alignment(report),
        *evidence.measurements(report),
    ]
    return [section for section in parts if section.blocks] + _closing(report, details=details)
