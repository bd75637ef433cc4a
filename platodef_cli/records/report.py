"""The report of an audit."""

from pydantic import Field

from platodef_cli.errors import Outcome
from platodef_cli.records.base import Record
from platodef_cli.records.calibration import CalibrationSummary, ErrorRateRecord
from platodef_cli.records.context import ContextRecord
from platodef_cli.records.encoder import EncoderRecord, ImageSetRecord
from platodef_cli.records.judged import BaselineRecord, Change, Finding, Reason, WaiverRecord
from platodef_cli.records.measured import (
    AlignmentRecord,
    HeadRecord,
    Histogram,
    Metric,
    ProbeAccuracy,
    RocCurve,
    SuspiciousImage,
    Threshold,
    Timing,
)
from platodef_cli.records.power import SearchPowerRecord
from platodef_cli.records.probed import FoundTrigger, ProbeRecord, SearchRecord, SliceRecord

SCHEMA_VERSION = "2.0"


class AuditReport(Record):
    """Report version 2.0; reports of versions 1.0 to 1.2 can be read, and are judged by the rules of then."""

    schema_version: str = SCHEMA_VERSION
    tool: str = "platodef"
    tool_version: str
    verdict: Outcome
    exit_code: int
    summary: str = Field(description="the last line on stderr: verdict, code and the deciding reason")
    reasons: tuple[Reason, ...]
    findings: tuple[Finding, ...] = ()
    waivers: tuple[str, ...] = Field((), description="one line per waiver that was given")
    waiver_records: tuple[WaiverRecord, ...] = Field((), description="the same, to compute with (from 1.1)")
    error_rate: ErrorRateRecord | None = Field(
        None,
        description="how usual the suspect is among clean encoders; null without a calibration (from 2.0)",
    )
    calibration: CalibrationSummary | None = Field(
        None, description="what clean encoders do in such an audit (from 2.0)"
    )
    baseline: BaselineRecord | None = Field(None, description="from 1.1")
    changes: tuple[Change, ...] = Field((), description="differences from the baseline (from 1.1)")
    deciding: str = Field("platonic", description="detector that the verdict uses (from 1.1)")
    not_examined: tuple[str, ...] = Field((), description="what was not looked at, and why; never 'clean'")
    warnings: tuple[str, ...] = ()
    target: EncoderRecord | None = Field(description="null where the audit ended before it was loaded")
    references: tuple[EncoderRecord, ...]
    images: ImageSetRecord | None = Field(description="null where the audit ended before they were read")
    head: HeadRecord | None = None
    seed: int
    policy: dict[str, float | int | str | bool] = Field(default_factory=dict)
    configuration: dict[str, float | int | str | bool | None | tuple[str, ...]] = Field(default_factory=dict)
    libraries: dict[str, str] = Field(default_factory=dict)
    device: str
    metrics: tuple[Metric, ...] = ()
    thresholds: tuple[Threshold, ...] = ()
    probes: tuple[ProbeRecord, ...] = ()
    searches: tuple[SearchRecord, ...] = ()
    search_power: tuple[SearchPowerRecord, ...] = Field(
        (), description="what the searches find of backdoors planted into the references (from 2.0)"
    )
    found: FoundTrigger | None = None
    suspicious_images: tuple[SuspiciousImage, ...] = Field(
        (), description="clean images with the highest scores, highest first (from 1.1)"
    )
    slices: tuple[SliceRecord, ...] = Field(
        (), description="groups of the given images, the most suspicious ten (from 1.2)"
    )
    alignment: tuple[AlignmentRecord, ...] = ()
    accuracy: tuple[ProbeAccuracy, ...] = ()
    histograms: tuple[Histogram, ...] = ()
    roc: tuple[RocCurve, ...] = Field((), description="ROC curves (from 1.1)")
    context: ContextRecord | None = Field(
        None, description="taxonomies, how good the test is, signature, card, the accused change"
    )
    timing: Timing

    def _repr_html_(self) -> str:
        """Return the report as a notebook shows it: the page in a frame of its own, without scripts."""
        # notebooks call the record itself, which stands above the reports in the map: looked up when called;
        # in a frame the notebook's own colours and scripts do not meet the page's
        from html import escape
        from importlib import import_module

        draw = import_module("platodef_cli.report").render
        options = import_module("platodef_cli.report.interface").RenderOptions()
        page = escape(draw(self, "html", options), quote=True)
        style = "width:100%;height:40em;border:1px solid #888"
        return f'<iframe sandbox srcdoc="{page}" style="{style}" title="platodef report"></iframe>'
