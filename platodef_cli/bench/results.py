"""The results of a benchmark as records: grids of values with intervals, plots, goals."""

from typing import Literal

from pydantic import Field

from platodef_cli.records import AlignmentRecord, Histogram, Record, RocCurve

Unit = Literal["percent", "plain", "seconds", "count", "text"]


class Value(Record):
    """One number of a table."""

    value: float | None = Field(allow_inf_nan=False)
    low: float | None = Field(None, description="lower end of the interval", allow_inf_nan=False)
    high: float | None = Field(None, allow_inf_nan=False)
    n: int = Field(1, description="measurements that were averaged")
    note: str = Field("", description="why there is no number; the text of a column of texts")


class ResultColumn(Record):
    """One column: a number of one method."""

    key: str
    group: str = Field(description="heading over several columns: the method")
    label: str = Field(description="CA, PA, AUC, ASR ...")
    unit: Unit = "percent"


class ResultRow(Record):
    """One row: an attack, an average, or numbers of the paper."""

    label: str
    kind: Literal["measured", "average", "paper"] = "measured"
    values: dict[str, Value] = Field(description="column key -> value; a missing one is shown as -")


class ResultTable(Record):
    """One table."""

    id: str = Field(pattern=r"^[a-z0-9-]+$")
    title: str
    caption: str = ""
    columns: tuple[ResultColumn, ...]
    rows: tuple[ResultRow, ...]


class Goal(Record):
    """One goal of the benchmark, and what was reached."""

    name: str
    wanted: str
    measured: float | None
    met: bool | None = Field(description="None where not everything that it asks for was measured")


class Plot(Record):
    """Curves and histograms of one encoder."""

    title: str
    histograms: tuple[Histogram, ...] = ()
    curves: tuple[RocCurve, ...] = ()


class BenchResult(Record):
    """Everything that ``platodef bench run`` measured."""

    schema_version: Literal["1.0"] = "1.0"
    table: str
    title: str
    command: str
    tool_version: str
    recipe: str = Field(description="of the zoo")
    zoo_seed: int
    trained_on: str = Field(description="images of the zoo")
    images: str = Field(description="images that were measured on")
    seeds: tuple[int, ...] = Field(description="seeds of splits, heads and negatives")
    configuration: dict[str, float | int | str | bool | tuple[str, ...]]
    libraries: dict[str, str]
    device: str
    encoders: dict[str, str] = Field(description="encoder that was used -> SHA-256 of its weights")
    grids: tuple[ResultTable, ...]
    plots: tuple[Plot, ...] = ()
    alignment: tuple[AlignmentRecord, ...] = ()
    goals: tuple[Goal, ...] = ()
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = Field((), description="encoders of the plan that were not there")
    seconds: float = Field(0.0, description="computing time of all cells, those of earlier runs included")
