"""What changes of the images did: the battery and the search."""

from typing import Literal

from pydantic import Field

from platodef_cli.records.base import Record
from platodef_cli.records.measured import Interval, Metric


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
        description="collapse minus the largest among the references and the benign controls (from 1.1); of "
        "the controls only what the references show too (from 1.2)",
    )
    effect: Metric = Field(description="mean shift of the suspect's features, in clean standard deviations")
    control_shift: dict[str, float] = Field(
        default_factory=dict, description="the same shift for every reference (from 1.2)"
    )
    shift_gap: Metric | None = Field(
        None, description="shift minus the largest among the references (from 1.2)"
    )
    lost: Metric | None = Field(
        None, description="share of the clean variance that the suspect's features lose (from 1.2)"
    )
    control_lost: dict[str, float] = Field(
        default_factory=dict, description="the same share for every reference (from 1.2)"
    )
    lost_gap: Metric | None = Field(
        None, description="lost variance minus the largest among the references (from 1.2)"
    )
    detectable: Metric | None = Field(
        None,
        description="smallest share of images that an attack under this trigger must send to one place for "
        "the audit's policy to accuse it with probability 0.9; no value where none is enough (from 1.2)",
    )
    concentration: Metric | None = Field(None, description="largest share of one class (labels only)")
    concentration_class: str | None = None
    poisoned_accuracy: Metric | None = Field(None, description="PA without defence (labels only)")
    purified_accuracy: Metric | None = Field(None, description="PA of purified features (labels only)")
    suspicious: bool = Field(description="crossed the limits of the policy")


class SliceRecord(Record):
    """A group of the clean test images, and how many of them raise the alarm (from 1.2)."""

    space: Literal["suspect", "references"] = Field(description="in whose features its images lie together")
    count: int = Field(description="number of its images")
    flagged: Metric = Field(description="share of its images over the threshold of the deciding detector")
    elsewhere: float = Field(description="the same share of all other images")
    control_flagged: dict[str, float] = Field(
        description="the share with each reference in the suspect's place, predicted by the others"
    )
    p_value: float = Field(description="of both tests: concentrated there, and more than any reference")
    q_value: float = Field(description="adjusted for all groups (Benjamini and Yekutieli)")
    departs: bool = Field(description="the adjusted p-value is 0.05 or less")
    images: tuple[str, ...] = Field(description="ids of images in it that raise the alarm, eight at most")


class SearchRecord(Record):
    """One trigger search on one encoder."""

    encoder: str
    role: Literal["suspect", "control"]
    kind: str = Field(description="patch, universal or wave")
    budget: str = Field(description="share of the side or maximum norm, e.g. 16% of the side, 4/255")
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
