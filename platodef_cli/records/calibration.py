"""What clean encoders do in an audit, and how a suspect compares with them."""

from typing import Literal

from pydantic import Field

from platodef_cli.errors import Outcome
from platodef_cli.records.base import Record
from platodef_cli.records.measured import Metric


class DepartureRecord(Record):
    """How far one test is from failing, on a scale that all tests share."""

    test: str = Field(description="kind and subject, e.g. battery white-square or search patch 1")
    value: float = Field(
        description="0 at the limit, 1 at the strongest effect that can be, -1 at none; above 0 it fails"
    )


class CalibrationSummary(Record):
    """The departures of clean encoders that a report's error rate rests on, one per lineage.

    A lineage is an encoder with all that descends from it; its departure is the largest of these.
    """

    digest: str = Field(description="SHA-256 of the calibration file")
    departures: tuple[float, ...] = Field(description="one per clean lineage, in ascending order")
    alarms: Metric = Field(description="share of these lineages that the rules of the limits fail")
    limits: dict[str, float | int | str | bool] = Field(description="the policy that departures are units of")
    tests: tuple[str, ...] = Field(description="names of all tests that took part, sorted")
    references: tuple[str, ...] = Field(description="digests of the references, sorted")
    sides: tuple[int, ...] = Field(description="input sizes of the encoders, pixels")
    images: str = Field(description="source of the images, without its options")
    test_images: int


class ErrorRateRecord(Record):
    """How often clean encoders depart as far as the suspect does."""

    alpha: float = Field(description="wanted share of clean encoders that fail")
    departure: DepartureRecord | None = Field(description="the largest; null where no test was examined")
    p_value: float | None = Field(
        description="conformal: (1 + lineages that depart as far) / (1 + lineages); null where none applies"
    )
    lineages: int = Field(description="clean lineages behind it")
    least: float | None = Field(description="smallest p-value that so many lineages can give")
    decides: bool = Field(description="whether a failure needs a p-value of alpha or less")
    outside: tuple[str, ...] = Field((), description="in what the audit differs from the calibration")
    uncounted: tuple[str, ...] = Field(
        (), description="kinds of search that the calibration does not know: their limits alone decide"
    )
    statement: str = Field(description="all of it in plain words")


class CalibratedEncoder(Record):
    """One audited encoder of a calibration."""

    name: str
    lineage: str = Field(description="name of the encoder from scratch that it descends from")
    part: Literal["setting", "testing"] = Field(description="lineages are split, by their names")
    attack: str | None = Field(None, description="family and parameters of a planted backdoor")
    success: float | None = Field(None, description="attack success rate of the planted backdoor")
    verdict: Outcome = Field(description="by the limits alone")
    departure: DepartureRecord | None = Field(description="null where nothing could be examined")
    record: str = Field(description="SHA-256 of the audit's report")
    note: str = Field("", description="why nothing was examined")
    architecture: str = ""
    trained: str = Field("", description="objective, or what was made of which encoder")
    parameters: int | None = None
    accuracy: float | None = Field(None, description="of a linear probe on held-out images")


class Calibration(Record):
    """``calibration.json``: what was audited, how, and what came out."""

    schema_version: Literal["1.0"] = "1.0"
    command: str
    tool_version: str
    recipe: str
    zoo_seed: int
    seed: int = Field(description="of the audits")
    libraries: dict[str, str]
    trained_on: str
    images: str
    images_digest: str
    test_images: int
    references: dict[str, str] = Field(description="name -> digest")
    sides: tuple[int, ...]
    tests: tuple[str, ...]
    limits: dict[str, float | int | str | bool]
    alarms: Metric
    encoders: tuple[CalibratedEncoder, ...]
    planned: int = Field(description="clean lineages of the recipe; fewer may have been audited")
