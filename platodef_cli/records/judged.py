"""What was concluded, and against what it was held."""

from typing import Literal

from pydantic import Field

from platodef_cli.errors import Outcome
from platodef_cli.records.base import Record
from platodef_cli.records.measured import Interval


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
