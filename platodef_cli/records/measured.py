"""What was measured."""

from typing import Literal

from pydantic import Field

from platodef_cli.records.base import Record

ALIGNMENT_SHARE = "alignment with the references, as a share of theirs"
"""Name of the metric that tells an encoder of the images from one that is none."""

Direction = Literal["higher is more suspicious", "lower is more suspicious", "higher is better", "none"]


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
    processor_seconds: dict[str, float] = Field(
        default_factory=dict, description="step -> processor seconds of the audit and its child processes"
    )
    processors: int | None = Field(None, description="processors that the audit could use")
    ready: dict[str, float] = Field(
        default_factory=dict,
        description="step -> share of the processors that threads of the audit used or waited for",
    )
    peak_memory_mb: float | None = None
    cache_hits: int = 0
    cache_misses: int = 0
    costs: dict[str, DefenceCost] = Field(default_factory=dict, description="detector -> cost")
