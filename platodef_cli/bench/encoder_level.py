"""The audit's verdict on every encoder of the zoo."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.policy.limits import Policy
from platodef_cli.audit.run import audit
from platodef_cli.audit.verdict.battery import gap_of
from platodef_cli.bench.benchmark_run import BenchmarkRun, BenchmarkTable
from platodef_cli.bench.encoder_tables import (
    STATISTIC,
    AuditCell,
    every_grid,
    goals_of,
    groups_grid,
    plots_of,
    statistics_grid,
    wrong,
)
from platodef_cli.bench.evaluation import Costs
from platodef_cli.bench.feature_store import public_uri
from platodef_cli.bench.zoo.card import ZooCard, read_card
from platodef_cli.bench.zoo.networks import pooling_of
from platodef_cli.defences import ENCODER_DETECTORS, make_encoder_detector
from platodef_cli.defences.interface import Mode
from platodef_cli.disk import write_atomically
from platodef_cli.encoders.pooling import AUTO
from platodef_cli.errors import InconclusiveError, NotApplicable, UsageError
from platodef_cli.features.access import EncoderAccess
from platodef_cli.metrics.costs import Cost, measure_cost
from platodef_cli.records import AuditReport, ProbeRecord, Record
from platodef_cli.report.json import dumps
from platodef_cli.search.run import SEARCH_VERSION

AUDIT_IMAGES = 3000
REPORTS = "reports"  # sub-folder of the cells
EXAMINED = 256  # images that encoder-level detectors of others look at


class EncoderCell(Record):
    """The statistic of an encoder-level detector of others."""

    value: float | None
    note: str = ""
    costs: Costs | None = None


def battery_score(probes: Sequence[ProbeRecord], limits: Policy, detector: str) -> float:
    """Return how near the worst known trigger comes to all three limits of the battery; from 1 on it is over.

    The audit asks for a collapse, for a distance to controls and references, and for the lower end of the
    AUROC's interval at once, so the score of a trigger is the least of the three, each in units of its limit.
    """
    scores = [0.0]
    for probe in probes:
        if probe.kind != "trigger":
            continue
        interval = probe.auroc[detector].interval
        scores.append(
            min(
                (probe.collapse.value or 0.0) / limits.battery_collapse,
                (gap_of(probe, probes).value or 0.0) / limits.battery_gap,
                (interval.low if interval else 0.0) / limits.auroc,
            )
        )
    return max(scores)


def search_score(report: AuditReport) -> float:
    """Return the largest score of the search on the suspect; from 1 on it is over its limits."""
    return max((record.score for record in report.searches if record.role == "suspect"), default=0.0)


def fill(run: BenchmarkRun) -> BenchmarkTable:
    """Audit every encoder, each against the references without itself."""
    cards = run.matching(list(run.feature_store.zoo.cards.values()))
    if not cards:
        raise InconclusiveError("no encoder of this zoo is finished (or matches --only)")
    verdicts: dict[str, AuditCell] = {}
    with run.progress.step("auditing encoders", len(cards)) as task:
        for card in cards:
            verdicts[card.name] = _audited(run, card)
            task.advance(note=f"{card.name}: {verdicts[card.name].verdict}")
    others = {name: _examined_all(run, name, cards) for name in _detectors(run)}
    own = {name: cell.statistic for name, cell in verdicts.items() if cell.statistic is not None}
    statistics = {STATISTIC: own, **others}
    return BenchmarkTable(
        title="Encoder level: the audit's verdict on every encoder",
        grids=(
            groups_grid(cards, verdicts),
            statistics_grid(cards, statistics),
            every_grid(cards, verdicts),
        ),
        plots=plots_of(cards, verdicts),
        configuration={"audit_images": public_uri(_audit_images(run))},
        goals=goals_of(cards, verdicts),
        notes=tuple(
            f"{card.name} ({card.truth}) was judged {verdicts[card.name].verdict}: "
            + "; ".join(verdicts[card.name].reasons)
            for card in cards
            if wrong(card, verdicts[card.name])
        ),
    )


def _detectors(run: BenchmarkRun) -> list[str]:
    return [name for name in ENCODER_DETECTORS.names() if name not in run.config.skip]


def _poolings(run: BenchmarkRun, suspect: str, references: Sequence[str]) -> tuple[str, ...]:
    """Return what ``--pooling`` says of encoders that need a word."""
    folders = {name: run.feature_store.zoo.folder(name) for name in (suspect, *references)}
    said = {name: pooling_of(read_card(folder).architecture) for name, folder in folders.items()}
    return tuple(f"{folders[name]}={pooling}" for name, pooling in said.items() if pooling != AUTO)


def _audited(run: BenchmarkRun, card: ZooCard) -> AuditCell:
    feature_store, config = run.feature_store, run.config
    references = [one.name for one in run.references if one.name != card.name]
    seed = config.seeds[0]
    asked = AuditConfig(
        model=str(feature_store.zoo.folder(card.name)),
        references=tuple(str(feature_store.zoo.folder(name)) for name in references),
        images=_audit_images(run),
        pooling=_poolings(run, card.name, references),
        seed=seed,
        cache_dir=feature_store.zoo.root / "cache",
        battery="quick" if config.quick else "standard",
        probe_images=100 if config.quick else 400,
    )

    def compute() -> AuditCell:
        try:
            report = audit(asked, progress=run.progress)
        except InconclusiveError as error:
            return AuditCell(
                verdict="inconclusive", exit_code=4, statistic=None, search=None, battery=None,
                reasons=(str(error),), seconds=None,
            )  # fmt: skip
        _keep(report, run.store.folder / REPORTS, card.name)
        search = search_score(report)
        battery = battery_score(report.probes, asked.limits, report.thresholds[-1].detector)
        return AuditCell(
            verdict=report.verdict,
            exit_code=report.exit_code,
            statistic=max(search, battery),
            search=search,
            battery=battery,
            reasons=tuple(reason.message for reason in report.reasons if reason.outcome != "pass"),
            # an audit whose features all came from the cache tells nothing about the time of an audit
            seconds=report.timing.seconds["total"] if report.timing.cache_misses else None,
        )

    values = asked.to_json()
    for name in ("model", "references", "images"):
        del values[name]  # where they lie; what they are is in the key
    key = {
        **run.key(card.name, references, seed),
        "audit": {k: str(v) for k, v in values.items()},
        "policy": asked.limits.to_json(),
        "search": SEARCH_VERSION,
    }
    return run.store.get(f"audit-{card.name}", key, AuditCell, compute)


def _keep(report: AuditReport, folder: Path, name: str) -> None:
    """Write the report of an audit, so that other limits can be tried on it with ``platodef gate``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{name}.json", dumps(report.model_dump(mode="json")).encode())


def _audit_images(run: BenchmarkRun) -> str:
    """Return the images of an audit: as many as an audit of shapes takes by default, all of another source.

    Raises:
        UsageError: Only a part of another source was asked for; such an audit is inconclusive at best.
    """
    uri, limit = run.feature_store.images.uri, run.config.limit
    if uri.startswith("builtin:shapes"):
        count = min(AUDIT_IMAGES, len(run.feature_store.images.labels))
        return re.sub(r"count=\d+", f"count={count}", uri)
    if limit is not None:
        raise UsageError(
            "an audit of a part of its images is inconclusive, so table encoder takes no --limit on "
            f"{uri}; give a source with fewer images"
        )
    return uri


def _examined_all(run: BenchmarkRun, detector: str, cards: Sequence[ZooCard]) -> dict[str, float]:
    """Return encoder -> statistic of an encoder-level detector, without those that it cannot judge."""
    statistics = {}
    with run.progress.step(f"examining by {detector}", len(cards)) as task:
        for card in cards:
            cell = examined(run, detector, card)
            if cell.value is not None:
                statistics[card.name] = cell.value
            task.advance(note=card.name)
    return statistics


def examined(
    run: BenchmarkRun,
    detector: str,
    card: ZooCard,
    *,
    mode: Mode = "default",
    more: Mapping[str, object] | None = None,
) -> EncoderCell:
    """Return the statistic of an encoder-level detector on one encoder, from the store or computed.

    Args:
        run: The run.
        detector: A row of :data:`platodef_cli.defences.ENCODER_DETECTORS`.
        card: Of the encoder.
        mode: Of the detector.
        more: What else decides the result.
    """
    feature_store, seed = run.feature_store, run.config.seeds[0]
    rows = list(feature_store.images.roles(seed).fit)[:EXAMINED]

    def compute() -> EncoderCell:
        made = make_encoder_detector(detector, mode=mode, seed=seed, progress=run.progress)
        access = EncoderAccess(feature_store.encoder(card.name))
        try:
            with measure_cost() as cost:
                value = made.examine(access, feature_store.images.pixels[rows]).value
        except NotApplicable as error:
            return EncoderCell(value=None, note=str(error))
        return EncoderCell(value=value, costs=Costs.of(Cost(), cost))

    key = {**run.key(card.name, [], seed), "detector": detector, "n": len(rows), **(more or {})}
    if mode != "default":
        key["mode"] = mode
    return run.store.get(f"{detector}-{card.name}", key, EncoderCell, compute)
