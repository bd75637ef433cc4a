"""What the searches find of backdoors that were planted into the references."""

from typing import Literal

from pydantic import Field

from platodef_cli.records.base import Record
from platodef_cli.records.measured import Interval, Metric


class ReachedRecord(Record):
    """What one search reached on a reference with a planted backdoor."""

    budget: str = Field(description="of the search, in words")
    collapse: float = Field(description="mean pairwise cosine reached on held-out images")
    interval: Interval | None = Field(None, description="of the collapse")
    gap: float = Field(description="collapse minus the largest of the same search on the references as given")
    gap_interval: Interval | None = None


class ControlRecord(Record):
    """One positive control: a reference with a backdoor of known kind and strength."""

    reference: str
    seed: int = Field(description="of the trigger, the target, the planting and the search")
    success: float = Field(description="share of changed held-out images that end at the target")
    kept: float = Field(description="mean cosine of clean held-out features with and without the backdoor")
    reached: tuple[ReachedRecord, ...] = Field(description="one per budget of the search")


class SearchPowerRecord(Record):
    """What one kind of search finds of backdoors of its own family, at one strength."""

    kind: str = Field(description="kind of search and of the planted triggers")
    strength: float = Field(description="of the triggers, in the unit of the search's budgets")
    change: str = Field(description="the strength in words, as the search's budgets are given")
    origin: str = Field(description="where it was measured: in this audit, or shipped")
    controls: tuple[ControlRecord, ...]
    found: Metric | None = Field(
        None,
        description="share of the backdoors that work with which an encoder would not have passed the "
        "search, exact interval",
    )
    accused: int | None = Field(
        None, description="how many of these would have failed; the others would have been inconclusive"
    )
    enough: bool | None = Field(
        None, description="whether the share is 0.9 or more; null where too few backdoors work to tell"
    )


class PositiveControls(Record):
    """``controls.json``: the power of the searches for references that come with the package."""

    schema_version: Literal["1.0"] = "1.0"
    command: str
    tool_version: str
    libraries: dict[str, str]
    images: str
    images_digest: str = Field(description="of the images that were searched with")
    search_images: int = Field(description="how many")
    references: dict[str, str] = Field(description="name -> digest")
    searches: dict[str, str] = Field(description="kind of search -> SHA-256 of everything that decides it")
    power: tuple[SearchPowerRecord, ...]
