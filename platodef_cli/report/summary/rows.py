"""Reads a folder of JSON reports into the rows of one table; what cannot be read is a row too."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from platodef_cli.errors import (
    EXIT_CODES,
    EXIT_FAIL,
    EXIT_INCOMPLETE,
    EXIT_INCONCLUSIVE,
    EXIT_INTERRUPTED,
    EXIT_PASS,
    EXIT_REFUSED,
    EXIT_USAGE,
    UsageError,
)
from platodef_cli.records.run import RUN_SUFFIX, UNREACHED, RunRecord
from platodef_cli.report.checks import check_of
from platodef_cli.report.reading import read_report
from platodef_cli.report.view import target_name

if TYPE_CHECKING:
    from platodef_cli.records import AuditReport, Reason

MOST_FILES = 200_000
"""JSON files of a folder that are read at most: ten thousand suspects have twenty thousand."""
_DEEPEST = 16
_LARGEST_RUN = 2**20
UNREADABLE, USAGE, INTERRUPTED, MISSING = "unreadable", "usage error", "interrupted", "not audited"
EARLIER = "earlier run"
_WORST = (EXIT_REFUSED, EXIT_INCOMPLETE, EXIT_USAGE, EXIT_INCONCLUSIVE, EXIT_FAIL, EXIT_PASS)
_SUSPICION = (
    *("fail", "refused", "error", UNREADABLE, USAGE, INTERRUPTED, EARLIER, MISSING),
    *("inconclusive", "pass"),
)
_INDICATORS = ("battery", "search", "trigger")
"""Checks whose values say how near a suspect came to a limit."""


@dataclass(frozen=True)
class Row:
    """One suspect.

    Attributes:
        model: What was audited, as it was asked for.
        verdict: That of its report; ``unreadable``, ``usage error``, ``interrupted``, ``not audited``; or
            ``earlier run`` for a report that the last run of ``platodef audit-many`` there did not get to.
        exit_code: The exit code that goes with it; 3 for a file that cannot be read.
        margin: How far its worst indicator lies past its limit, in units of the indicator, negative where
            none reached one; None where nothing was measured.
        check: Id of that indicator, or empty.
        summary: The last line of its audit, or why the file cannot be read.
        digest: SHA-256 of its files, or empty.
        commit: On the Hub, or empty.
        references: Names.
        images: Number of images; None where none were read.
        policy: Name of the policy.
        finished: When its audit ended, ISO 8601, or empty.
        seconds: How long it took; None where that is not known.
        file: The report, relative to the folder.
    """

    model: str
    verdict: str
    exit_code: int
    margin: float | None
    check: str
    summary: str
    digest: str
    commit: str
    references: tuple[str, ...]
    images: int | None
    policy: str
    finished: str
    seconds: float | None
    file: str


def worst_code(codes: Sequence[int]) -> int:
    """Return the exit code of many audits: 130, 5, 3, 2, 4, 1, 0, the first of them that is there."""
    order = (EXIT_INTERRUPTED, *_WORST)
    known = [code if code in order else EXIT_INCOMPLETE for code in codes]
    return min(known, key=order.index, default=EXIT_PASS)


def read_rows(folder: Path, names: Collection[str] | None = None) -> list[Row]:
    """Return the rows of a folder and the folders in it, the most suspicious first.

    Every file is read by itself and let go again. Links are not followed, hidden files not read.

    Args:
        folder: Holds the reports.
        names: First parts of the names of the files to read; None reads all.

    Raises:
        UsageError: There is no such folder, it holds no JSON file or very many, or cannot be listed.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; give the folder that holds the JSON reports")
    reports: dict[str, Row] = {}
    runs: dict[str, Row] = {}
    count = 0
    for path in _json_files(folder):
        if names is not None and path.name.removesuffix(RUN_SUFFIX).removesuffix(".json") not in names:
            continue
        count += 1
        if count > MOST_FILES:
            raise UsageError(
                f"{folder} holds more than {MOST_FILES} JSON files; give the folder of the reports"
            )
        name = path.relative_to(folder).as_posix()
        if path.name.endswith(RUN_SUFFIX):
            row, kept, suffix = _row_of_run(path, name), runs, RUN_SUFFIX
        else:
            row, kept, suffix = _row_of_file(path, name), reports, ".json"
        if os.path.lexists(path.parent / UNREACHED / path.name.removesuffix(suffix)):
            row = _earlier(row)
        kept[name.removesuffix(suffix)] = row
    if not count:
        raise UsageError(f"{folder} holds no JSON report; write some with `platodef audit -o json=FILE`")
    rows = [*reports.values(), *(row for stem, row in runs.items() if stem not in reports)]
    return sorted(rows, key=_order)


def _order(row: Row) -> tuple[int, float, str, str]:
    margin = float("-inf") if row.margin is None else row.margin
    return _SUSPICION.index(row.verdict), -margin, row.model, row.file


def _json_files(folder: Path, depth: int = 0) -> Iterator[Path]:
    """Yield the JSON files below a folder, in the order of their names."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        if depth:
            return  # a folder that is closed to us inside of one that is not
        raise UsageError(f"cannot list the folder {folder}: {error.strerror}") from None
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            if depth < _DEEPEST:
                yield from _json_files(Path(entry.path), depth + 1)
        elif entry.name.lower().endswith(".json"):
            yield Path(entry.path)


def _row_of_file(path: Path, name: str) -> Row:
    if path.is_symlink():
        return _broken(name, f"{name} is a link, which is not followed; copy the report itself")
    try:
        return row_of(read_report(path), name)
    except UsageError as error:
        return _broken(name, str(error))


def _row_of_run(path: Path, name: str) -> Row:
    """Return the row of an audit without a report: one that ended with a usage error, or lost its report."""
    from pydantic import ValidationError

    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > _LARGEST_RUN:
            raise ValueError("no regular file of a reasonable size")
        record = RunRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        return _broken(name, f"{name} is no record of a run ({error.error_count()} errors)")
    except (OSError, ValueError) as error:
        return _broken(name, f"{name} is no record of a run: {error}")
    report = next((file for file in record.files if file.endswith(".json")), None)
    if report is not None:
        return _broken(name, f"its report {report} is gone; audit it again", record.model)
    verdicts = {code: outcome for outcome, code in EXIT_CODES.items()}
    named = {**verdicts, EXIT_USAGE: USAGE, EXIT_INTERRUPTED: INTERRUPTED}
    if record.exit_code in (EXIT_PASS, EXIT_FAIL):
        return _broken(name, "it ended with a verdict but without a report", record.model)
    return Row(
        model=record.model,
        verdict=named.get(record.exit_code, "error"),
        exit_code=record.exit_code,
        margin=None,
        check="",
        summary=record.summary,
        digest="",
        commit="",
        references=(),
        images=None,
        policy="",
        finished="",
        seconds=record.seconds,
        file=name,
    )


def _earlier(row: Row) -> Row:
    """Return the row of what an earlier run left: no answer, whatever it says."""
    words = f"the last run did not get to it; an earlier one ended with {row.summary!r}: audit it again"
    return replace(row, verdict=EARLIER, exit_code=EXIT_INCOMPLETE, summary=words)


def with_missing(rows: Sequence[Row], expected: Mapping[str, str]) -> list[Row]:
    """Return rows with one more for every suspect that has none: what was not audited is not clean.

    Args:
        rows: From :func:`read_rows`.
        expected: Name of the files of a suspect -> its model.
    """
    there = {PurePosixPath(row.file).name.removesuffix(RUN_SUFFIX).removesuffix(".json") for row in rows}
    added = [
        _broken(name, "no report of it is in the folder", model, MISSING)
        for name, model in expected.items()
        if name not in there
    ]
    return sorted([*rows, *added], key=_order)


def _broken(name: str, why: str, model: str = "", verdict: str = UNREADABLE) -> Row:
    return Row(model or name, verdict, EXIT_INCOMPLETE, None, "", why, "", "", (), None, "", "", None, name)


def row_of(report: "AuditReport", file: str) -> Row:
    """Return the row of a report."""
    margin, check = _margin(report.reasons)
    asked = report.configuration.get("model")
    target = report.target
    return Row(
        model=str(asked) if asked else target_name(report),
        verdict=report.verdict,
        exit_code=report.exit_code,
        margin=margin,
        check=check,
        summary=report.summary,
        digest="" if target is None else target.digest,
        commit=(target.commit or "") if target is not None else "",
        references=tuple(reference.name for reference in report.references),
        images=None if report.images is None else report.images.count,
        policy=str(report.policy.get("name", "")),
        finished=report.timing.finished,
        seconds=report.timing.seconds.get("total"),
        file=file,
    )


def _margin(reasons: "Sequence[Reason]") -> tuple[float | None, str]:
    """Return how far the worst indicator lies past its limit, and its id."""
    margins = []
    for reason in reasons:
        if reason.value is None or reason.limit is None or not reason.decides:
            continue
        if check_of(reason.id).id not in _INDICATORS:
            continue
        # limits may lie above or below a value: the outcome says on which side it fell
        distance = abs(reason.value - reason.limit)
        sign = {"fail": 1.0, "pass": -1.0}.get(reason.outcome, 0.0)
        margins.append((round(sign * distance, 6) + 0.0, reason.id))
    return max(margins, default=(None, ""))
