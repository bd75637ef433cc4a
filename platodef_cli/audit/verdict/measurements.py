"""What an audit measured, complete and before anything is judged."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from platodef_cli.audit.verdict.complete import images_of, target_of
from platodef_cli.audit.verdict.power import without_missed
from platodef_cli.records import (
    AlignmentRecord,
    AuditReport,
    CalibrationSummary,
    ContextRecord,
    EncoderRecord,
    Finding,
    FoundTrigger,
    HeadRecord,
    Histogram,
    ImageSetRecord,
    Metric,
    ProbeAccuracy,
    ProbeRecord,
    RocCurve,
    SearchPowerRecord,
    SearchRecord,
    SliceRecord,
    SuspiciousImage,
    Threshold,
    Timing,
)

_DERIVED = ("trigger-", "search-", "reference-", "slice-")


@dataclass(frozen=True)
class Measurements:
    """Everything that a finished audit measured; :func:`platodef_cli.audit.verdict.judge` makes a report.

    Nothing in it depends on the limits of a policy, except which trigger the pictures and accuracies are of:
    the most suspicious one by the policy of the audit.

    Attributes:
        tool_version: Of the platodef that measured.
        target: The audited encoder.
        references: The trusted encoders.
        images: The images and how many have which role.
        head: The heads.
        seed: Of every random choice.
        configuration: What the audit was asked.
        libraries: Name -> version.
        device: What computed.
        deciding: Detector that the verdict uses.
        findings: What the static checks of the files found.
        not_examined: What was not looked at.
        warnings: Warnings of the audit.
        metrics: Matched AUROCs, guarantees, encoder-level statistics.
        thresholds: Calibrated thresholds.
        triggers: What known triggers and benign controls did; not marked as suspicious.
        found_triggers: What the triggers that the search found did; not marked either.
        searches: What the searches reached, without scores.
        search_power: What they reach on references with planted backdoors.
        alignment: CKA and CKNNA of every pair of encoders.
        accuracy: Linear-probe accuracies under the worst trigger.
        found: The best found trigger, as pictures; None where no search accuses the suspect.
        suspicious_images: Clean images with the highest scores.
        slices: Groups of the given images.
        histograms: Of scores.
        roc: ROC curves.
        calibration: What clean encoders do in such an audit; None of reports before version 2.0.
        timing: The only part that differs between two runs with the same seed.
        context: How good the test is, the signature, the accused change; None of reports of earlier versions.
    """

    tool_version: str
    target: EncoderRecord
    references: tuple[EncoderRecord, ...]
    images: ImageSetRecord
    head: HeadRecord | None
    seed: int
    configuration: Mapping[str, float | int | str | bool | None | tuple[str, ...]]
    libraries: Mapping[str, str]
    device: str
    deciding: str
    findings: tuple[Finding, ...]
    not_examined: tuple[str, ...]
    warnings: tuple[str, ...]
    metrics: tuple[Metric, ...]
    thresholds: tuple[Threshold, ...]
    triggers: tuple[ProbeRecord, ...]
    found_triggers: tuple[ProbeRecord, ...]
    searches: tuple[SearchRecord, ...]
    search_power: tuple[SearchPowerRecord, ...]
    alignment: tuple[AlignmentRecord, ...]
    accuracy: tuple[ProbeAccuracy, ...]
    found: FoundTrigger | None
    suspicious_images: tuple[SuspiciousImage, ...]
    slices: tuple[SliceRecord, ...]
    histograms: tuple[Histogram, ...]
    roc: tuple[RocCurve, ...]
    calibration: CalibrationSummary | None
    timing: Timing
    context: ContextRecord | None

    @classmethod
    def of(cls, report: AuditReport) -> "Measurements":
        """Return what a finished audit's report records, without its verdict.

        Raises:
            UsageError: The report does not hold its target or its images.
        """
        probes = tuple(probe.model_copy(update={"suspicious": False}) for probe in report.probes)
        own: dict[str, Any] = {
            "target": target_of(report),
            "images": images_of(report),
            "findings": tuple(finding for finding in report.findings if not _is_derived(finding)),
            "not_examined": without_missed(report.not_examined),
            "triggers": tuple(probe for probe in probes if probe.kind != "found"),
            "found_triggers": tuple(probe for probe in probes if probe.kind == "found"),
            "searches": tuple(record.model_copy(update={"score": 0.0}) for record in report.searches),
        }
        shared = {entry.name: getattr(report, entry.name) for entry in fields(cls) if entry.name not in own}
        return cls(**own, **shared)

    def recorded(self) -> dict[str, Any]:
        """Return what a report takes over as it is."""
        judged = (
            *("findings", "not_examined", "triggers", "found_triggers", "searches", "search_power"),
            "context",
        )
        return {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name not in judged}


def _is_derived(finding: Finding) -> bool:
    """Return whether a finding follows from the measurements, not from the files."""
    return finding.id.startswith(_DERIVED) or finding.id == "no-commit"
