"""Audits every encoder of a zoo of lineages and says what clean ones do: the calibration of the verdict.

Reports lie in ``reports/``, and what ties each to its audit in ``cells/``, so that an interrupted run goes on
where it stopped; departures are read off the reports again, whatever the statistic has become since.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal
from zlib import crc32

from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.policy.limits import Policy, search_key
from platodef_cli.audit.run import audit
from platodef_cli.audit.verdict import Gate, judge_again
from platodef_cli.audit.verdict.departure import departures, largest
from platodef_cli.bench.calibration_parts import alarms_of, measured, merge, read_calibration
from platodef_cli.bench.cells import CellStore
from platodef_cli.bench.feature_store import public_uri
from platodef_cli.bench.zoo.card import ZooCard, read_card
from platodef_cli.bench.zoo.manifest import Zoo, open_zoo
from platodef_cli.bench.zoo.recipe import recipe
from platodef_cli.disk import write_atomically
from platodef_cli.errors import InconclusiveError, UsageError
from platodef_cli.progress import SILENT, Progress
from platodef_cli.records import (
    AuditReport,
    CalibratedEncoder,
    Calibration,
    DepartureRecord,
    Outcome,
    Record,
)
from platodef_cli.report.json import dumps
from platodef_cli.search.run import SEARCH_VERSION
from platodef_cli.triggers.battery import battery
from platodef_cli.version import __version__

IMAGES = "builtin:shapes?seed=11&count=3000"
REFERENCES = ("builtin:reference-vit", "builtin:reference-cnx")
SEARCHES = ("patch", "universal", "wave", "warp", "corners")
"""Kinds of search that take part in the statistic; for one more, every lineage has to be audited again.

Others are judged by their limits alone, and reports say so. With another choice, raise ``MEASUREMENT``."""
MEASUREMENT = 2  # part of every key: raise it when the same audit gives other numbers
CELLS, REPORTS = "cells", "reports"  # sub-folders


@dataclass(frozen=True)
class CalibrateConfig:
    """What to audit, and how.

    Attributes:
        zoo: A zoo, best of the recipe ``calibration``; those of its encoders that are finished are audited.
        output: Folder of the reports.
        images: Source of the images; none of them may have trained an encoder.
        references: Trusted encoders.
        seed: Of the audits.
        only: Shell patterns of names that are audited now. What was audited before counts as well.
        merged: Calibrations of other parts of the same recipe, made elsewhere; their encoders count as well.
        command: What the user typed.
    """

    zoo: Path
    output: Path
    images: str = IMAGES
    references: tuple[str, ...] = REFERENCES
    seed: int = 0
    only: tuple[str, ...] = ()
    merged: tuple[Path, ...] = ()
    command: str = ""


class Kept(Record):
    """What is kept of an audit beside its report."""

    report: str = ""  # SHA-256; empty where the audit ended without one
    note: str = ""


@dataclass(frozen=True)
class Audited:
    """One encoder, its truth and its audit.

    Attributes:
        card: Its truth.
        lineage: Name of the encoder from scratch that it descends from.
        kept: What the audit left.
        report: Judged by the limits alone; None where the audit ended without one.
    """

    card: ZooCard
    lineage: str
    kept: Kept
    report: AuditReport | None


def calibrate(config: CalibrateConfig, *, progress: Progress = SILENT) -> Calibration:
    """Audit the encoders of a zoo, one after the other, and return what they did.

    Raises:
        UsageError: There is no zoo, no encoder of it matches, an input of the audits is wrong, or a
            calibration to merge is of other audits.
        InconclusiveError: No clean encoder could be examined.
        IncompleteError: Memory or disk ran out, or the process of an encoder died; finished audits are kept.
    """
    others = [(path, read_calibration(path)) for path in config.merged]
    zoo = open_zoo(config.zoo)
    cards = [card for card in zoo.cards.values() if card.role == "suspect"]
    wanted = [card for card in cards if _matches(card.name, config.only)]
    if not wanted:
        raise UsageError(
            f"no finished encoder of {config.zoo} matches {' or '.join(config.only) or 'this'}; finished "
            f"are: {', '.join(card.name for card in cards) or 'none'}"
        )
    with progress.step("auditing lineages", len(wanted)) as task:
        for card in wanted:
            found = _audited(config, zoo, card, progress)
            task.advance(note=f"{card.name}: {found.report.verdict if found.report else 'not examined'}")
    names = {card.name for card in wanted}
    every = []
    for card in cards:
        if card.name in names or _was_audited(config, zoo, card):
            every.append(_audited(config, zoo, card, SILENT))
    whole = _calibration(config, zoo, every)
    for path, other in others:
        whole = merge(whole, other, str(path))
    return whole


def lineage_of(card: ZooCard, zoo: Zoo) -> str:
    """Return the name of the encoder from scratch that an encoder descends from."""
    while card.parent is not None:
        card = zoo.cards.get(card.parent) or read_card(zoo.folder(card.parent))
    return card.name


def part_of(lineage: str) -> Literal["setting", "testing"]:
    """Return whether a lineage sets limits or tests them: half of the names, always the same ones."""
    return "testing" if crc32(f"part {lineage}".encode()) % 2 else "setting"


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


def _asked(config: CalibrateConfig, zoo: Zoo, card: ZooCard) -> AuditConfig:
    return AuditConfig(
        model=str(zoo.folder(card.name)),
        references=config.references,
        images=config.images,
        searches=SEARCHES,
        seed=config.seed,
        cache_dir=config.output / "cache",
    )


def _key(config: CalibrateConfig, zoo: Zoo, card: ZooCard) -> dict[str, object]:
    """Return what decides the measurements of an audit, apart from where things lie.

    Options that have their defaults are left out, so that a new option costs no audit. Of the policy, limits
    of searches count, since they decide which references are searched; reports are judged anew.
    """
    asked = _asked(config, zoo, card)
    usual = AuditConfig(model="").to_json()
    counted = {search_key(kind) for kind in SEARCHES}
    values = {
        name: str(value)
        for name, value in asked.to_json().items()
        if name not in ("model", "references", "searches") and value != usual.get(name)
    }
    return {
        "measurement": MEASUREMENT,
        "audit": values,
        "references": list(config.references),
        "files": {record.path: record.sha256 for record in card.files},
        "limits": [[name, list(limits)] for name, limits in asked.limits.search_limits if name in counted],
        "battery": [item.variant.name for item in battery(asked.battery)],
        "search": SEARCH_VERSION,
    }


def _audited(config: CalibrateConfig, zoo: Zoo, card: ZooCard, progress: Progress) -> Audited:
    """Return the audit of an encoder, made now or before; a report that was changed is made again."""
    path = config.output / REPORTS / f"{card.name}.json"

    def compute() -> Kept:
        try:
            report = audit(_asked(config, zoo, card), progress=progress)
        except InconclusiveError as error:
            return Kept(note=str(error))
        content = dumps(_by_limits(report).model_dump(mode="json")).encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
        return Kept(report=hashlib.sha256(content).hexdigest())

    key = _key(config, zoo, card)
    kept = CellStore(config.output / CELLS).get(card.name, key, Kept, compute)
    if kept.report and not _holds(path, kept.report):
        kept = CellStore(config.output / CELLS, fresh=True).get(card.name, key, Kept, compute)
    report = _by_limits(AuditReport.model_validate_json(path.read_bytes())) if kept.report else None
    return Audited(card, lineage_of(card, zoo), kept, report)


def _was_audited(config: CalibrateConfig, zoo: Zoo, card: ZooCard) -> bool:
    return CellStore(config.output / CELLS).path(card.name, _key(config, zoo, card)).is_file()


def _holds(path: Path, digest: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest


def _by_limits(report: AuditReport) -> AuditReport:
    """Return a report judged without a calibration, since it is to become a part of one."""
    return judge_again(report.model_copy(update={"calibration": None}), Gate(Policy()))


def departure_of_report(report: AuditReport) -> tuple[DepartureRecord, ...]:
    """Return the departures of a report, in units of the default limits."""
    return departures(
        [probe for probe in report.probes if probe.kind != "found"],
        report.searches,
        Policy(),
        report.deciding,
    )


def _encoder(one: Audited) -> CalibratedEncoder:
    report, backdoor = one.report, one.card.backdoor
    verdict: Outcome = "inconclusive" if report is None else report.verdict
    # where the evidence carries no verdict, whatever the tests reached says nothing
    departure = None if report is None or not carries(report) else largest(departure_of_report(report))
    note = one.kept.note
    if report is not None and departure is None:
        note = next(
            (r.message for r in report.reasons if r.outcome == "inconclusive"), "no test was examined"
        )
    return CalibratedEncoder(
        name=one.card.name,
        lineage=one.lineage,
        part=part_of(one.lineage),
        attack=None if backdoor is None else family(one.card),
        success=None if backdoor is None else backdoor.success.value,
        verdict=verdict,
        departure=departure,
        record=one.kept.report,
        note=note,
        architecture=one.card.architecture,
        trained=one.card.objective or f"{one.card.made} from {one.card.parent}",
        parameters=one.card.parameters,
        accuracy=one.card.accuracy.value,
    )


def carries(report: AuditReport) -> bool:
    """Return whether the evidence of a report can carry a verdict: nothing but tests is undecided."""
    undecided = [reason.id for reason in report.reasons if reason.outcome == "inconclusive"]
    return all(identity.startswith(("battery-", "search-", "reference")) for identity in undecided)


def family(card: ZooCard) -> str:
    """Return the attack of a planted encoder, with the parameters that its name states."""
    assert card.backdoor is not None
    return card.name.removeprefix(f"{card.parent}-")


def _calibration(config: CalibrateConfig, zoo: Zoo, every: Sequence[Audited]) -> Calibration:
    encoders = tuple(_encoder(one) for one in every)
    reports = [one.report for one in every if one.report is not None]
    if not measured(encoders) or not reports:
        raise InconclusiveError("no clean encoder could be examined: there is nothing to calibrate with")
    first = reports[0]
    assert first.images is not None
    return Calibration(
        command=config.command,
        tool_version=__version__,
        recipe=zoo.manifest.recipe,
        zoo_seed=zoo.manifest.seed,
        seed=config.seed,
        libraries=first.libraries,
        trained_on=public_uri(zoo.manifest.images),
        images=public_uri(first.images.uri),
        images_digest=first.images.digest,
        test_images=first.images.test,
        references={reference.name: reference.digest for reference in first.references},
        sides=tuple(sorted({side for report in reports for side in _sides(report)})),
        tests=tuple(sorted({d.test for report in reports for d in departure_of_report(report)})),
        limits=Policy().to_json(),
        alarms=alarms_of(encoders),
        encoders=encoders,
        planned=sum(entry.role == "suspect" for entry in recipe(zoo.manifest.recipe).scratch),
    )


def _sides(report: AuditReport) -> tuple[int, ...]:
    return () if report.target is None else report.target.transform.size
