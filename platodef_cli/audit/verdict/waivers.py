"""Waivers: what somebody answers for until a date. They hide nothing and never turn 5 or 3."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

from platodef_cli.records import EncoderRecord, Finding, Reason, WaiverRecord

Status = Literal["applied", "expired", "unused", "other model"]


@dataclass(frozen=True)
class Waiver:
    """One entry of a waiver file.

    Attributes:
        id: Of the reason or finding that shall not decide; ``reason:subject`` names one trigger or budget.
        model: Digest (64 hexadecimal digits) or commit (40) of the only model that it is for.
        reason: Why it is acceptable.
        owner: Who answers for it.
        expires: The last day on which it holds.
    """

    id: str
    model: str
    reason: str
    owner: str
    expires: date

    def names(self, identity: str, subject: str | None) -> bool:
        """Return whether it is about a reason or finding."""
        return self.id in (identity, f"{identity}:{subject}")

    def is_for(self, target: EncoderRecord) -> bool:
        """Return whether it is for a model."""
        return self.model.lower() in (target.digest.lower(), (target.commit or "").lower())


class Waivers:
    """The waivers that hold for one report on one day.

    Attributes:
        given: All waivers of the file.
    """

    def __init__(self, given: Sequence[Waiver], target: EncoderRecord, today: date) -> None:
        self.given = tuple(given)
        self._target = target
        self._today = today
        self._valid = [w for w in given if w.is_for(target) and w.expires >= today]

    def findings(
        self, findings: Iterable[Finding], topics: Mapping[str, tuple[str, str]]
    ) -> tuple[Finding, ...]:
        """Return findings with ``waived`` set.

        Args:
            findings: All findings.
            topics: Finding -> id and subject of the reason that it follows from: waived with it.
        """
        return tuple(
            finding.model_copy(
                update={
                    "waived": self._holds(finding.id, None)
                    or (finding.id in topics and self._holds(*topics[finding.id]))
                }
            )
            for finding in findings
        )

    def reasons(self, reasons: Iterable[Reason]) -> tuple[Reason, ...]:
        """Return reasons with ``waived`` set; an expired waiver is told where it would have mattered."""
        marked = []
        for reason in reasons:
            if reason.outcome == "pass":
                marked.append(reason)
                continue
            waived = self._holds(reason.id, reason.subject)
            expired = [
                w
                for w in self.given
                if w.names(reason.id, reason.subject) and w.is_for(self._target) and w.expires < self._today
            ]
            late = ""
            if expired and not waived:
                late = f"; the waiver of {expired[0].owner} expired on {expired[0].expires}"
            marked.append(reason.model_copy(update={"waived": waived, "message": reason.message + late}))
        return tuple(marked)

    def _holds(self, identity: str, subject: str | None) -> bool:
        return any(waiver.names(identity, subject) for waiver in self._valid)

    def records(self, reasons: Sequence[Reason], findings: Sequence[Finding]) -> tuple[WaiverRecord, ...]:
        """Return what became of every waiver."""
        subjects = [(r.id, r.subject) for r in reasons if r.outcome != "pass"]
        subjects += [(finding.id, None) for finding in findings]
        records = []
        for waiver in self.given:
            status: Status = "applied"
            if not waiver.is_for(self._target):
                status = "other model"
            elif waiver.expires < self._today:
                status = "expired"
            elif not any(waiver.names(*subject) for subject in subjects):
                status = "unused"
            records.append(
                WaiverRecord(
                    id=waiver.id,
                    model=waiver.model,
                    reason=waiver.reason,
                    owner=waiver.owner,
                    expires=waiver.expires.isoformat(),
                    status=status,
                )
            )
        return tuple(records)


def line(record: WaiverRecord) -> str:
    """Return a waiver as one line for people."""
    meaning = {
        "applied": f"applied until {record.expires}",
        "expired": f"EXPIRED on {record.expires}, not applied",
        "unused": f"unused: nothing in this report has this id (expires {record.expires})",
        "other model": "not applied: it is for another model",
    }
    return f"{record.id}: {meaning[record.status]}; {record.reason} ({record.owner})"


def warning(record: WaiverRecord) -> str | None:
    """Return what to warn of: unused and expired waivers should be removed or renewed."""
    if record.status == "unused":
        return f"the waiver {record.id!r} of {record.owner} is unused: nothing in the report has this id"
    if record.status == "expired":
        return f"the waiver {record.id!r} of {record.owner} expired on {record.expires}"
    return None
