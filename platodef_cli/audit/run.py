"""Runs an audit, step by step, into a report."""

import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime

import torch

from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.describing import device_name, image_set, listed, not_examined, peak_memory
from platodef_cli.audit.inputs import Inputs, Split, open_inputs, split
from platodef_cli.audit.partial_report import PartialReport, libraries
from platodef_cli.audit.state import AuditState, ProgressRecorder
from platodef_cli.audit.steps.battery import Labelled, measure
from platodef_cli.audit.steps.encoder_level import encoder_statistics
from platodef_cli.audit.steps.measure import accuracies, alignment_of, histograms_of, roc_curves, worst_of
from platodef_cli.audit.steps.pictures import EXAMPLES, evidence, suspicious_images
from platodef_cli.audit.steps.scoring import (
    BANK_MOST,
    CalibratedDefences,
    Features,
    SuspectImages,
    obtain_heads,
    wants_images,
)
from platodef_cli.audit.steps.search import run_search, search_records
from platodef_cli.audit.verdict import Gate, judge
from platodef_cli.audit.verdict.battery import judge_battery
from platodef_cli.audit.verdict.evidence import needed
from platodef_cli.audit.verdict.intervals import Sample
from platodef_cli.audit.verdict.search import judge_search
from platodef_cli.errors import EXIT_INCONCLUSIVE, InconclusiveError
from platodef_cli.features.access import EncoderAccess
from platodef_cli.features.cache import FeatureCache
from platodef_cli.features.extract import CLEAN, Extraction, Request, extract, load_pixels
from platodef_cli.heads.fit import FEWEST_ROWS
from platodef_cli.metrics.guarantee import guarantee_metrics, mismatched
from platodef_cli.metrics.linear_probe import LinearProbe
from platodef_cli.progress import SILENT, Progress
from platodef_cli.records import AuditReport, FoundTrigger, ProbeRecord, SearchRecord, Timing
from platodef_cli.search.interface import SearchResult
from platodef_cli.search.statistics import CleanStatistics
from platodef_cli.triggers.battery import BatteryItem, battery
from platodef_cli.version import __version__


def audit(
    config: AuditConfig, *, progress: Progress = SILENT, partial: PartialReport | None = None
) -> AuditReport:
    """Audit an encoder.

    Args:
        config: What to audit, against what, and how.
        progress: Receives the steps and the warnings.
        partial: Is filled with what becomes known; it makes a report of an audit that ends with an error.

    Returns:
        The report; equal configurations and inputs give equal reports apart from ``timing``.

    Raises:
        UsageError: An input is wrong.
        RefusedError: The suspect's files are unsafe; nothing of it was loaded.
        HubError: The Hub does not give an encoder or the images.
        IncompleteError: Memory, time or disk ran out, or the suspect's process died.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    threads = torch.get_num_threads()
    # the suspect's process and this one compute side by side: threads of both on one core only wait
    torch.set_num_threads(max(1, threads // 2))
    recorder = ProgressRecorder(progress)
    partial = partial or PartialReport(config.model)
    partial.config, partial.warnings, partial.seconds = config, recorder.messages, recorder.seconds
    try:
        cache = FeatureCache(config.cache_dir, progress=recorder) if config.use_cache else None
        with ExitStack() as stack:
            with recorder.timed("load"):
                inputs = stack.enter_context(open_inputs(config, recorder))
            _note(partial, inputs)
            run = _prepare(config, inputs, cache, recorder)
            report = _examine(run)
    finally:
        torch.set_num_threads(threads)
    recorder.seconds["total"] = round(time.perf_counter() - clock, 3)
    timing = Timing(
        started=started.isoformat(timespec="seconds"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=recorder.seconds,
        peak_memory_mb=peak_memory(),
        costs=run.judge.costs(),
        cache_hits=run.hits,
        cache_misses=run.misses,
    )
    return report.model_copy(update={"timing": timing})


def _note(partial: PartialReport, inputs: Inputs) -> None:
    """Keep what opening the inputs told, for an audit that ends early."""
    partial.target = inputs.suspect.record
    partial.references = tuple(encoder.record for encoder in inputs.references.values())
    partial.findings, partial.not_examined = inputs.checked.findings, inputs.checked.not_examined
    partial.images = listed(inputs.images)


def _prepare(
    config: AuditConfig, inputs: Inputs, cache: FeatureCache | None, recorder: ProgressRecorder
) -> AuditState:
    """Extract every feature in one decoding pass, obtain the heads, calibrate."""
    parts = split(len(inputs.images.refs), config.seed)
    counts = tuple(len(rows) for rows in (parts.fit, parts.calibration, parts.test))
    _enough(counts, inputs, config)
    probed = parts.test[: config.probe_images]
    requests = [Request(None), *(Request(item.variant, probed) for item in battery(config.battery))]
    with recorder.timed("extract"):
        extraction = _extract(inputs, requests, config, cache, recorder)
    pictures = None
    if wants_images(config):
        pictures = SuspectImages.of(inputs.images, inputs.suspect.geometry, battery(config.battery))
    features = Features(extraction, inputs.suspect.record.name, tuple(inputs.references), pictures)
    usable = set(features.tuples(None)[1].tolist())
    # broken images have dropped out
    counts = tuple(len(usable.intersection(rows)) for rows in (parts.fit, parts.calibration, parts.test))
    _enough(counts, inputs, config)
    with recorder.timed("heads"):
        heads, head = obtain_heads(inputs, features, parts, config, cache, recorder)
        test, rows = features.samples(parts.test)
        bank, calibration = (
            features.samples(parts.fit, most=BANK_MOST)[0],
            features.samples(parts.calibration)[0],
        )
        model = None if pictures is None else EncoderAccess(inputs.suspect, config.batch_size)
        with recorder.step("calibrating detectors", 2) as task:
            judge = CalibratedDefences(heads, bank, calibration, test, config, model)
            task.advance()
            labelled = _labelled(inputs, features, parts, config)
            task.advance()
    clean, clean_rows = features.tuples(None)
    statistics = {
        features.suspect: CleanStatistics.of(clean.source),
        **{name: CleanStatistics.of(values) for name, values in clean.references.items()},
    }
    return AuditState(
        config=config,
        inputs=inputs,
        parts=parts,
        features=features,
        heads=heads,
        head=head,
        judge=judge,
        test=test,
        rows=rows,
        labelled=labelled,
        statistics=statistics,
        cache=cache,
        recorder=recorder,
        hits=extraction.hits,
        misses=extraction.misses,
    )


def _enough(counts: tuple[int, ...], inputs: Inputs, config: AuditConfig) -> None:
    """Check that so many images to fit, calibrate and test carry heads, thresholds and measurements at all.

    Raises:
        InconclusiveError: They are too few.
    """
    fit, calibration, test = counts
    fits = inputs.head is not None or fit >= FEWEST_ROWS
    if fits and calibration >= 1 / config.false_positive_rate and test >= 20:
        return
    enough = needed(config.policy, config.false_positive_rate)
    raise InconclusiveError(
        f"{sum(counts)} images are too few for an audit with a false positive rate of "
        f"{config.false_positive_rate:g}; give at least {enough} (a few thousand are better)"
    )


def _extract(
    inputs: Inputs,
    requests: Sequence[Request],
    config: AuditConfig,
    cache: FeatureCache | None,
    progress: Progress,
) -> Extraction:
    return extract(
        inputs.images,
        inputs.encoders,
        requests,
        cache=cache,
        batch_size=config.batch_size,
        max_broken_share=config.max_broken_share,
        progress=progress,
    )


def _labelled(inputs: Inputs, features: Features, parts: Split, config: AuditConfig) -> Labelled | None:
    """Fit a linear probe on the fit images, where all images have labels of at least two classes."""
    refs = inputs.images.refs
    if inputs.images.classes is None or any(ref.label is None for ref in refs):
        return None
    labels = torch.tensor([ref.label for ref in refs], dtype=torch.int64)
    tuples, rows = features.tuples(parts.fit)
    if len(set(labels[rows].tolist())) < 2:
        return None
    return Labelled(
        LinearProbe.fit(tuples.source, labels[rows], seed=config.seed), labels, inputs.images.classes
    )


def _examine(run: AuditState) -> AuditReport:
    """Probe, search, measure and judge."""
    config, policy, suspect = run.config, run.config.policy, run.features.suspect
    recorder = run.recorder
    sample = Sample(len(run.inputs.images.refs), config.probe_images)
    with recorder.timed("battery"):
        measured = measure(
            battery(config.battery), run.features, run.statistics, run.judge, run.labelled, progress=recorder
        )
        probes, _ = judge_battery(measured, policy, run.judge.deciding, sample)
    with recorder.timed("search"):
        found = run_search(run.inputs, run.parts, config, run.cache, recorder)
        searches, about_search = judge_search(search_records(found, suspect), policy, sample)
        accused = {(r.id, r.subject) for r in about_search if r.outcome == "fail"}
        shown, found_probes, found_features = _found(run, found[suspect], searches, accused)
    with recorder.timed("measure"):
        alignment = alignment_of(run)
        with recorder.step("measuring heads", 2) as task:
            wrong = run.judge.score(mismatched(run.test, config.seed))
            task.advance()
            guarantees = guarantee_metrics(run.heads, run.test, config.seed)
            task.advance()
        matched = run.judge.against_clean(wrong, "mismatched", "matched against mismatched")
        all_probes = (*found_probes, *probes)
        named = [m.model_copy(update={"name": f"{name}: {m.name}"}) for name, m in matched.items()]
        about_encoders, unfit = encoder_statistics(run)
        worst = worst_of(all_probes)
        changed, rows = (found_features if worst.kind == "found" else run.features).samples(None, worst.name)
        scored = run.judge.score(changed)
        histograms = histograms_of(run, wrong, worst, scored)
        roc = roc_curves(run, wrong, worst, scored)
        pictures = suspicious_images(run)
        accuracy = accuracies(run, worst, changed, scored, rows)
    measured_report = AuditReport(
        tool_version=__version__,
        # until it is judged
        verdict="inconclusive",
        exit_code=EXIT_INCONCLUSIVE,
        summary="",
        reasons=(),
        findings=run.inputs.checked.findings,
        not_examined=(*not_examined(run), *(f"{name}: {why}" for name, why in unfit.items())),
        warnings=tuple(recorder.messages),
        target=run.inputs.suspect.record,
        references=tuple(encoder.record for encoder in run.inputs.references.values()),
        images=image_set(run),
        head=run.head,
        seed=config.seed,
        policy=policy.to_json(),
        configuration=config.to_json(),
        libraries=libraries(),
        device=device_name(config.device),
        metrics=(*named, *guarantees, *about_encoders),
        deciding=run.judge.deciding,
        thresholds=run.judge.thresholds,
        probes=all_probes,
        searches=searches,
        found=shown,
        suspicious_images=pictures,
        alignment=alignment,
        accuracy=accuracy,
        histograms=histograms,
        roc=roc,
        timing=Timing(started="", finished="", seconds={}),
    )
    return judge(measured_report, Gate(policy))


def _found(
    run: AuditState,
    found: Sequence[SearchResult],
    searches: Sequence[SearchRecord],
    accused: Collection[tuple[str, str | None]],
) -> tuple[FoundTrigger | None, tuple[ProbeRecord, ...], Features]:
    """Try the best found triggers on the test images; return the best as pictures where it is suspicious."""
    mine = [record for record in searches if record.role == "suspect"]
    # the best of each kind
    best = {record.kind: number for number, record in sorted(enumerate(mine), key=lambda pair: pair[1].score)}
    items = [
        BatteryItem(found[number].variant, f"found {kind}", "trigger")
        for kind, number in sorted(best.items())
    ]
    probed = run.parts.test[: run.config.probe_images]
    requests = [Request(None, probed), *(Request(item.variant, probed) for item in items)]
    # the share of broken images was judged, and told, when all of them were decoded
    config = replace(run.config, max_broken_share=1.0)
    extraction = _extract(run.inputs, requests, config, run.cache, run.recorder.silent_warnings())
    run.hits, run.misses = run.hits + extraction.hits, run.misses + extraction.misses
    pictures = None
    if run.features.images is not None:
        pictures = SuspectImages.of(run.inputs.images, run.inputs.suspect.geometry, items)
    features = Features(extraction, run.features.suspect, run.features.references, pictures)
    probes = measure(
        items, features, run.statistics, run.judge, run.labelled, kind="found", progress=run.recorder
    )
    over = {f"found {record.kind}" for record in mine if (f"search-{record.kind}", record.budget) in accused}
    probes = [probe.model_copy(update={"suspicious": probe.family in over}) for probe in probes]
    top = max(range(len(mine)), key=lambda number: mine[number].score)
    if mine[top].score < 1:
        return None, tuple(probes), features
    usable = extraction.indices[CLEAN][:EXAMPLES].tolist()
    geometry = run.inputs.suspect.geometry
    pixels = load_pixels(run.inputs.images, [geometry], usable, run.recorder)[geometry]
    return evidence(found[top], mine[top], pixels), tuple(probes), features
