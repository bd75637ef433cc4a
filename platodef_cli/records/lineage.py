"""What is known of the model that the suspect was made from: evidence, never an acquittal."""

from pydantic import Field

from platodef_cli.records.base import Record
from platodef_cli.records.measured import Metric


class LayerRecord(Record):
    """One weight matrix that the suspect and its base have in common."""

    name: str
    shape: tuple[int, ...]
    cosine: float = Field(description="between both, estimated from sketches; 1 where it was not changed")
    length: float = Field(description="Euclidean length, divided by the base's")
    spectrum: float = Field(
        description="largest difference of the four leading singular values, as a share of the base's largest"
    )


class DriftRecord(Record):
    """How far the suspect's feature of an image is from the feature that the given base has of it."""

    base: str = Field(description="what was given with --base; it was not audited")
    digest: str
    clean: Metric = Field(description="mean cosine of both features, on clean images (standardised)")
    worst: Metric = Field(description="the same under the change that separates them most")
    worst_change: str
    changes: dict[str, float] = Field(description="change -> mean cosine")
    own_collapse: float | None = Field(None, description="collapse of the suspect under the worst change")
    base_collapse: float | None = Field(None, description="collapse of the base under it")


class LineageRecord(Record):
    """The nearest known model by its weights, what was changed since, and how features drifted."""

    known: int = Field(description="models of the index that were looked at")
    base: str | None = Field(None, description="name of the nearest one, where chance does not explain it")
    base_uri: str | None = None
    base_digest: str | None = None
    cosine: float | None = Field(None, description="of all common weights together, estimated")
    coverage: float | None = Field(None, description="share of the suspect's weights with a counterpart")
    layers: int = Field(0, description="common weight matrices")
    unchanged: int = Field(0, description="those of them that are the same bytes")
    changed: tuple[LayerRecord, ...] = Field((), description="the most changed, at most twenty")
    drift: DriftRecord | None = Field(None, description="where a base was given")
    message: str = Field(description="all of it in words")
