"""Frozen results that cross folders of the package; to and from JSON; no torch.

:class:`AuditReport` is report version 1; ``platodef schema`` prints its JSON Schema.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from platodef_cli.errors import Outcome as Outcome

SCHEMA_VERSION = "1.1"

Direction = Literal["higher is more suspicious", "lower is more suspicious", "higher is better", "none"]


class Record(BaseModel):
    """Base of all records: frozen, no unknown fields, no NaN or infinity in JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class FileRecord(Record):
    """One file whose bytes were really read."""

    path: str = Field(description="path inside the model folder, with forward slashes")
    sha256: str
    bytes: int


class TransformRecord(Record):
    """Preprocessing of an encoder, completely; its JSON is hashed into the feature cache key."""

    size: tuple[int, int] = Field(description="input height and width, pixels")
    resize: tuple[int, int] | int = Field(description="(height, width), or the shorter side before the crop")
    interpolation: str
    fill: int | tuple[int, int, int] = 0
    fit: Literal["exact", "cover", "contain"] = Field(
        "exact", description="stretched to a pair `resize`, or aspect ratio kept"
    )
    crop: Literal["round", "floor"] = Field("round", description="where an odd margin of the crop goes")
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class EncoderRecord(Record):
    """Identity and provenance of an encoder."""

    name: str = Field(description="short name used in tables and feature files")
    uri: str = Field(description="what the user asked for, e.g. org/name@revision or a folder")
    backend: str = Field(description="timm, open_clip or transformers")
    architecture: str
    commit: str | None = Field(description="Hub commit, or None for a local folder")
    dim: int
    parameters: int
    pooling: str
    dtype: str
    transform: TransformRecord
    files: tuple[FileRecord, ...]
    digest: str = Field(description="SHA-256 over the sorted (path, sha256) pairs of all files read")
    isolated: bool = Field(description="ran in a child process with a memory limit and without a token")


class ImageSetRecord(Record):
    """The images of an audit."""

    uri: str
    count: int
    classes: tuple[str, ...] | None
    digest: str = Field(description="SHA-256 over the image digests in order")
    skipped: tuple[tuple[str, str], ...] = Field(description="(image id, reason) of unusable images")
    fit: int = Field(0, description="images that the heads were fitted on (0 with a ready head)")
    calibration: int = 0
    test: int = 0


class Interval(Record):
    """A confidence interval."""

    low: float
    high: float
    level: float = 0.95


class Metric(Record):
    """One measured number, with what it means."""

    name: str
    value: float | None
    interval: Interval | None = None
    direction: Direction = "none"
    positive: str | None = Field(None, description="the positive class, for AUROC and rates")
    n_positive: int | None = None
    n_negative: int | None = None
    unit: str | None = Field(None, description="fraction, nats, cosine; None for plain numbers")


class Histogram(Record):
    """Counts of one score for several groups over common edges."""

    name: str
    edges: tuple[float, ...]
    counts: dict[str, tuple[int, ...]] = Field(description="group (clean, mismatched, a trigger) -> counts")
    threshold: float | None = None


class RocCurve(Record):
    """One detector's ROC curve, thinned to a hundred points at most; every point is one of the curve."""

    detector: str
    group: str = Field(description="the positive group: mismatched tuples, or the name of a trigger")
    fpr: tuple[float, ...] = Field(description="share of clean images over the threshold, from 0 to 1")
    tpr: tuple[float, ...] = Field(description="share of the group over the same thresholds, from 0 to 1")
    auroc: Metric = Field(description="of the whole curve, with its interval")


class Threshold(Record):
    """A calibrated alarm threshold of one detector."""

    detector: str
    value: float
    false_positive_rate: float = Field(description="the stated rate that the conformal quantile guarantees")
    calibration: int = Field(description="number of calibration samples")
    measured: Metric = Field(description="false positive rate on the clean test images")


class ProbeRecord(Record):
    """What one trigger, control or found trigger did to the suspect and to the references."""

    name: str
    family: str
    kind: Literal["trigger", "control", "found"]
    parameters: dict[str, float | int | str]
    auroc: dict[str, Metric] = Field(description="detector -> clean against changed test images")
    flagged: Metric = Field(description="share of changed images over the threshold of the deciding detector")
    collapse: Metric = Field(description="mean pairwise cosine of the suspect's standardised features")
    control_collapse: dict[str, float] = Field(description="the same for every reference")
    gap: Metric | None = Field(
        None,
        description="collapse minus the largest among the references and the benign controls (from 1.1)",
    )
    effect: Metric = Field(description="mean shift of the suspect's features, in clean standard deviations")
    concentration: Metric | None = Field(None, description="largest share of one class (labels only)")
    concentration_class: str | None = None
    poisoned_accuracy: Metric | None = Field(None, description="PA without defence (labels only)")
    purified_accuracy: Metric | None = Field(None, description="PA of purified features (labels only)")
    suspicious: bool = Field(description="crossed the limits of the policy")


class SearchRecord(Record):
    """One trigger search on one encoder."""

    encoder: str
    role: Literal["suspect", "control"]
    kind: str = Field(description="patch, universal or wave")
    budget: str = Field(description="size of the patch or maximum norm, e.g. 5px, 4/255")
    place: str | None = Field(None, description="position of the best patch")
    steps: int
    collapse: float = Field(description="mean pairwise cosine reached on held-out images")
    score: float = Field(description="the statistic that the verdict compares with its limit")
    interval: Interval | None = Field(None, description="of the collapse, over held-out images (from 1.1)")
    gap: Metric | None = Field(
        None, description="collapse minus the largest of the same search on the other encoders (from 1.1)"
    )


class FoundTrigger(Record):
    """The trigger that the search found on the suspect, as evidence."""

    kind: str
    budget: str
    place: str | None
    picture: str = Field(description="the trigger on mid-grey, PNG, base64")
    examples: tuple[str, ...] = Field(description="example images with the trigger, PNG, base64")
    originals: tuple[str, ...] = Field((), description="the same images without it, PNG, base64 (from 1.1)")


class SuspiciousImage(Record):
    """One of the clean images that the deciding detector finds most suspicious."""

    id: str
    part: Literal["calibration", "test"]
    detector: str
    score: float = Field(description="higher is more suspicious")
    p_value: float = Field(
        description="conformal: (1 + other calibration images that score as high) / (1 + all of them)"
    )
    picture: str = Field(description="what the suspect sees, PNG, base64")


class AlignmentRecord(Record):
    """Alignment of two encoders, with its permutation null."""

    first: str
    second: str
    measure: Literal["cka", "cknna"]
    value: float
    null_mean: float
    null_high: float = Field(description="largest value among the permutations")
    p_value: float
    n: int
    k: int | None = None


class ProbeAccuracy(Record):
    """Linear-probe accuracy of one way to use the features (needs labels)."""

    defence: str = Field(description="none, purify all, purify flagged, ... with the purifier's name")
    trigger: str
    clean_accuracy: Metric
    poisoned_accuracy: Metric
    attack_success: Metric = Field(description="non-target images sent to the concentration class")
    baseline_success: Metric = Field(description="the same on clean images")
    target: str


class Reason(Record):
    """Why the verdict is what it is."""

    id: str = Field(description="stable name, e.g. search-patch, battery-ctrl, alignment")
    outcome: Outcome
    message: str
    metric: str | None = None
    value: float | None = None
    limit: float | None = None
    subject: str | None = Field(None, description="what it is about: trigger, budget or rule (from 1.1)")
    interval: Interval | None = Field(None, description="of the value (from 1.1)")
    needed: int | None = Field(
        None, description="images to give in all, so that the answer would be clear (from 1.1)"
    )
    waived: bool = Field(False, description="a valid waiver names it; it does not decide (from 1.1)")
    known: bool = Field(False, description="no worse than in the baseline; it does not decide (from 1.1)")

    @property
    def decides(self) -> bool:
        """Whether the verdict takes it into account."""
        return not (self.waived or self.known)


class Finding(Record):
    """Something that the reader should know and act on."""

    id: str
    severity: Literal["high", "medium", "low", "info"]
    message: str
    waived: bool = False


class WaiverRecord(Record):
    """One entry of a waiver file, and what became of it."""

    id: str = Field(description="of a reason or finding, or reason:subject")
    model: str = Field(description="digest or commit of the model that it is for")
    reason: str
    owner: str
    expires: str = Field(description="last day on which it holds, YYYY-MM-DD")
    status: Literal["applied", "expired", "unused", "other model"]


class Change(Record):
    """One difference from the baseline, beyond the confidence intervals."""

    id: str = Field(description="stable name of what changed")
    kind: Literal["better", "worse", "new", "gone", "other"]
    message: str
    before: float | None = None
    after: float | None = None


class BaselineRecord(Record):
    """The report that this one was compared with."""

    verdict: Outcome
    target: str = Field(description="digest of the model")
    tool_version: str
    policy: str = Field(description="name of its policy; both reports are judged by the policy of this one")
    started: str


class HeadRecord(Record):
    """The heads that scored the suspect."""

    name: str
    origin: Literal["fitted", "loaded"]
    digest: str
    trained_on: str
    fit_samples: int
    preset: str
    metrics: tuple[Metric, ...] = ()


class DefenceCost(Record):
    """What scoring by one detector cost in this process."""

    seconds: float = Field(description="processor seconds per 1000 samples, without shared components")
    memory_mb: float = Field(description="largest addition to resident memory, MB")


class Timing(Record):
    """The only part of a report that differs between two runs with the same seed."""

    started: str
    finished: str
    seconds: dict[str, float] = Field(description="step -> wall seconds")
    peak_memory_mb: float | None = None
    cache_hits: int = 0
    cache_misses: int = 0
    costs: dict[str, DefenceCost] = Field(default_factory=dict, description="detector -> cost")


class AuditReport(Record):
    """Report version 1.1; reports of version 1.0 can be read."""

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
    found: FoundTrigger | None = None
    suspicious_images: tuple[SuspiciousImage, ...] = Field(
        (), description="clean images with the highest scores, highest first (from 1.1)"
    )
    alignment: tuple[AlignmentRecord, ...] = ()
    accuracy: tuple[ProbeAccuracy, ...] = ()
    histograms: tuple[Histogram, ...] = ()
    roc: tuple[RocCurve, ...] = Field((), description="ROC curves (from 1.1)")
    timing: Timing
