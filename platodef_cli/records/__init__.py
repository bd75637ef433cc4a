"""Frozen results that cross folders of the package; to and from JSON; no torch.

:class:`AuditReport` is a report; ``platodef schema`` prints its JSON Schema.
"""

from platodef_cli.errors import Outcome as Outcome
from platodef_cli.records.base import (
    Record as Record,
)
from platodef_cli.records.calibration import (
    CalibratedEncoder as CalibratedEncoder,
)
from platodef_cli.records.calibration import (
    Calibration as Calibration,
)
from platodef_cli.records.calibration import (
    CalibrationSummary as CalibrationSummary,
)
from platodef_cli.records.calibration import (
    DepartureRecord as DepartureRecord,
)
from platodef_cli.records.calibration import (
    ErrorRateRecord as ErrorRateRecord,
)
from platodef_cli.records.context import (
    AccusedRecord as AccusedRecord,
)
from platodef_cli.records.context import (
    CardRecord as CardRecord,
)
from platodef_cli.records.context import (
    ContextRecord as ContextRecord,
)
from platodef_cli.records.context import (
    FamilyRate as FamilyRate,
)
from platodef_cli.records.context import (
    MeasuredQuality as MeasuredQuality,
)
from platodef_cli.records.context import (
    QualityRecord as QualityRecord,
)
from platodef_cli.records.context import (
    SaidRecord as SaidRecord,
)
from platodef_cli.records.context import (
    SignatureRecord as SignatureRecord,
)
from platodef_cli.records.context import (
    TaxonomyRecord as TaxonomyRecord,
)
from platodef_cli.records.encoder import (
    TEXT_TOWER as TEXT_TOWER,
)
from platodef_cli.records.encoder import (
    EncoderRecord as EncoderRecord,
)
from platodef_cli.records.encoder import (
    FileRecord as FileRecord,
)
from platodef_cli.records.encoder import (
    ImageSetRecord as ImageSetRecord,
)
from platodef_cli.records.encoder import (
    TransformRecord as TransformRecord,
)
from platodef_cli.records.judged import (
    BaselineRecord as BaselineRecord,
)
from platodef_cli.records.judged import (
    Change as Change,
)
from platodef_cli.records.judged import (
    Finding as Finding,
)
from platodef_cli.records.judged import (
    Reason as Reason,
)
from platodef_cli.records.judged import (
    WaiverRecord as WaiverRecord,
)
from platodef_cli.records.lineage import (
    DriftRecord as DriftRecord,
)
from platodef_cli.records.lineage import (
    LayerRecord as LayerRecord,
)
from platodef_cli.records.lineage import (
    LineageRecord as LineageRecord,
)
from platodef_cli.records.measured import (
    ALIGNMENT_SHARE as ALIGNMENT_SHARE,
)
from platodef_cli.records.measured import (
    AlignmentRecord as AlignmentRecord,
)
from platodef_cli.records.measured import (
    DefenceCost as DefenceCost,
)
from platodef_cli.records.measured import (
    Direction as Direction,
)
from platodef_cli.records.measured import (
    HeadRecord as HeadRecord,
)
from platodef_cli.records.measured import (
    Histogram as Histogram,
)
from platodef_cli.records.measured import (
    Interval as Interval,
)
from platodef_cli.records.measured import (
    Metric as Metric,
)
from platodef_cli.records.measured import (
    ProbeAccuracy as ProbeAccuracy,
)
from platodef_cli.records.measured import (
    RocCurve as RocCurve,
)
from platodef_cli.records.measured import (
    SuspiciousImage as SuspiciousImage,
)
from platodef_cli.records.measured import (
    Threshold as Threshold,
)
from platodef_cli.records.measured import (
    Timing as Timing,
)
from platodef_cli.records.power import (
    ControlRecord as ControlRecord,
)
from platodef_cli.records.power import (
    PositiveControls as PositiveControls,
)
from platodef_cli.records.power import (
    ReachedRecord as ReachedRecord,
)
from platodef_cli.records.power import (
    SearchPowerRecord as SearchPowerRecord,
)
from platodef_cli.records.probed import (
    FoundTrigger as FoundTrigger,
)
from platodef_cli.records.probed import (
    ProbeRecord as ProbeRecord,
)
from platodef_cli.records.probed import (
    SearchRecord as SearchRecord,
)
from platodef_cli.records.probed import (
    SliceRecord as SliceRecord,
)
from platodef_cli.records.report import (
    SCHEMA_VERSION as SCHEMA_VERSION,
)
from platodef_cli.records.report import (
    AuditReport as AuditReport,
)
