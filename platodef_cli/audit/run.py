"""The audit, from a configuration to a report: start reading here."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch

from platodef_cli.attestation.publisher import signature_findings
from platodef_cli.audit.calibration import shipped
from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.context import context_of
from platodef_cli.audit.free_memory import free_memory
from platodef_cli.audit.inputs import Inputs, open_inputs, split
from platodef_cli.audit.partial_report import PartialReport
from platodef_cli.audit.plan.budget import fitted
from platodef_cli.audit.plan.countdown import Countdown
from platodef_cli.audit.plan.plan import Plan, planned
from platodef_cli.audit.plan.speed import cores
from platodef_cli.audit.provenance import device_name, image_set, libraries, not_examined, peak_memory
from platodef_cli.audit.state import AuditState, ProgressRecorder
from platodef_cli.audit.steps.accused import accused_change
from platodef_cli.audit.steps.battery import try_battery
from platodef_cli.audit.steps.controls import power_of
from platodef_cli.audit.steps.found import FoundTriggers, try_found
from platodef_cli.audit.steps.lineage import lineage_of
from platodef_cli.audit.steps.measure import OtherMeasurements, align, measure_others
from platodef_cli.audit.steps.prepare import prepare
from platodef_cli.audit.steps.search import chosen, run_search, search_records, settings_of
from platodef_cli.audit.verdict import Gate, Measurements, judge
from platodef_cli.audit.verdict.evidence import stop_unless_encoder
from platodef_cli.audit.verdict.indicators import judge_indicators
from platodef_cli.audit.verdict.intervals import SampleSize
from platodef_cli.audit.verdict.power import unknown_lines
from platodef_cli.features.cache import FeatureCache
from platodef_cli.plugins import Plugin, recording
from platodef_cli.progress import SILENT, Progress
from platodef_cli.records import (
    AuditReport,
    ContextRecord,
    ProbeRecord,
    SearchPowerRecord,
    SearchRecord,
    Timing,
)
from platodef_cli.triggers.battery import battery
from platodef_cli.version import __version__


def audit(
    config: AuditConfig,
    *,
    progress: Progress = SILENT,
    partial: PartialReport | None = None,
    told: Callable[[Plan, Countdown], None] | None = None,
) -> AuditReport:
    """Audit an encoder.

    Args:
        config: What to audit, against what, and how.
        progress: Receives the steps and the warnings.
        partial: Is filled with what becomes known; it makes a report of an audit that ends with an error.
        told: Is given the plan before anything is computed, and what knows the time that is left.

    Returns:
        The report; equal configurations and inputs give equal reports apart from ``timing``.

    Raises:
        UsageError: An input is wrong.
        RefusedError: The suspect's files are unsafe; nothing of it was loaded.
        HubError: The Hub does not give an encoder or the images.
        IncompleteError: Memory, time or disk ran out, or the suspect's process died.
        InconclusiveError: There are too few images to begin, the time budget is too small for an answer, or
            the suspect is no encoder of the images.
    """
    recorder = ProgressRecorder(progress)
    partial = partial or PartialReport(str(config.model))
    partial.config, partial.warnings, partial.seconds = config, recorder.messages, recorder.seconds
    with ExitStack() as stack:
        stack.enter_context(recording(partial.plugins))
        threads = stack.enter_context(_half_of_the_threads())
        # a plug-in that cannot be used shall not cost a download
        battery(config.battery, config.plugins)
        chosen(config, settings_of(config))
        cache = FeatureCache(config.cache_dir, progress=recorder) if config.use_cache else None
        if cache is not None:
            cache.tidy()
        with recorder.timed("load"):
            inputs = stack.enter_context(open_inputs(config, recorder, partial.note_images, cache))
        partial.note(inputs)
        config, plan = _planned(config, inputs, cache, threads, recorder)
        partial.config = config
        _warn_of_memory(plan, progress)
        countdown = Countdown(plan)
        recorder.count_down(countdown.enter, countdown.watching(progress.step))
        if told is not None:
            told(plan, countdown)
        state = prepare(config, inputs, cache, recorder)
        with recorder.timed("align"):
            alignment = align(state)
            partial.note_alignment(alignment.pairs, alignment.share)
            stop_unless_encoder(alignment.share, config.limits)
        with recorder.timed("battery"):
            triggers = try_battery(state)
        with recorder.timed("search"):
            results = run_search(inputs, state.parts, config, cache, recorder, threads)
            searches = search_records(results, state.features.suspect)
            power = power_of(inputs, state.parts, config, cache, recorder, threads)
            indicators = judge_indicators(
                triggers,
                searches,
                config.limits,
                deciding=state.defences.deciding,
                sample=SampleSize(len(state.parts.rows), config.probe_images),
                power=power,
            )
            found = try_found(state, tuple(results[state.features.suspect].values()), indicators)
        with recorder.timed("measure"):
            others = measure_others(state, indicators, found, alignment)
            accused = accused_change(state, indicators, found)
            lineage = lineage_of(state, found)
    context = context_of(
        config.to_json(),
        config.limits.to_json(),
        signature=inputs.signature,
        card=inputs.card,
        accused=accused,
        lineage=lineage,
    )
    kinds = tuple(dict.fromkeys(record.kind for record in searches))
    measurements = _measurements(
        *(state, triggers, searches, power, found, others, context, partial.plugins),
        unknown=unknown_lines(indicators.power, kinds),
    )
    return judge(measurements, Gate(config.limits), indicators)


def plan(config: AuditConfig, *, progress: Progress = SILENT) -> Plan:
    """Return what an audit would compute, and how long that takes here; nothing else is computed.

    Args:
        config: The audit.
        progress: Receives the steps and the warnings.

    Raises:
        PlatodefError: As for :func:`audit`.
    """
    recorder = ProgressRecorder(progress)
    with _half_of_the_threads() as threads:
        chosen(config, settings_of(config))
        cache = FeatureCache(config.cache_dir, progress=recorder) if config.use_cache else None
        with open_inputs(config, recorder, cache=cache) as inputs:
            return _planned(config, inputs, cache, threads, recorder)[1]


def _warn_of_memory(plan: Plan, progress: Progress) -> None:
    """Say where an audit needs more than is free; not in the report, which tells nothing of the moment."""
    free = free_memory()
    if free is not None and plan.memory_mb * 2**20 > free:
        progress.warn(
            f"this audit takes about {plan.memory_mb / 1024:.1f} GB of memory and {free / 2**30:.1f} GB are "
            "free; a smaller --memory-limit or --batch-size takes fewer images at once"
        )


def _planned(
    config: AuditConfig,
    inputs: Inputs,
    cache: FeatureCache | None,
    threads: int,
    recorder: ProgressRecorder,
) -> tuple[AuditConfig, Plan]:
    """Return the audit as it fits into its budget, and its plan."""
    if config.budget is None:
        parts = split(len(inputs.images.refs), config.seed, config.sample)
        return config, planned(config, inputs, parts, cache, threads, recorder)
    config, found = fitted(config, inputs, cache, threads, recorder, recorder.clock.seconds())
    if found.left_out:
        words = " ".join(f"{name} {value}" for name, value in found.options.items())
        recorder.warn(
            f"to fit into {config.budget} this audit leaves out: {'; '.join(found.left_out)}; the same "
            f"without a budget: {words}"
        )
    return config, found


@contextmanager
def _half_of_the_threads() -> Iterator[int]:
    """The suspect's process and this one compute side by side: threads of both on one core only wait.

    Yields:
        The threads of both together.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // 2))
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def _measurements(
    state: AuditState,
    triggers: tuple[ProbeRecord, ...],
    searches: tuple[SearchRecord, ...],
    power: tuple[SearchPowerRecord, ...],
    found: FoundTriggers,
    others: OtherMeasurements,
    context: ContextRecord,
    plugins: set[Plugin],
    *,
    unknown: Sequence[str],
) -> Measurements:
    """Join what the steps measured with what was asked and what computed it."""
    config, inputs = state.config, state.inputs
    left_out = (f"{name}: {why}" for name, why in others.not_applicable.items())
    return Measurements(
        tool_version=__version__,
        target=inputs.suspect.record,
        references=tuple(inputs.reference_records.values()),
        images=image_set(state),
        head=state.head,
        seed=config.seed,
        configuration=config.to_json(),
        libraries=libraries(plugins),
        device=device_name(config.device),
        deciding=state.defences.deciding,
        findings=(*inputs.checked.findings, *signature_findings(inputs.signature)),
        not_examined=(*not_examined(state), *left_out, *unknown),
        warnings=tuple(state.recorder.messages),
        metrics=others.metrics,
        thresholds=state.defences.thresholds,
        triggers=triggers,
        found_triggers=found.probes,
        searches=searches,
        search_power=power,
        alignment=others.alignment,
        accuracy=others.accuracy,
        found=found.evidence,
        slices=others.slices,
        suspicious_images=others.suspicious_images,
        histograms=others.histograms,
        roc=others.roc,
        calibration=shipped(),
        timing=_timing(state),
        context=context,
    )


def _timing(state: AuditState) -> Timing:
    recorder = state.recorder
    recorder.seconds["total"] = round(recorder.clock.seconds(), 3)
    return Timing(
        started=recorder.clock.started,
        finished=recorder.clock.now(),
        seconds=recorder.seconds,
        processor_seconds=recorder.processor_seconds,
        processors=cores(),
        ready=recorder.ready,
        peak_memory_mb=peak_memory(),
        costs=state.defences.costs(),
        cache_hits=recorder.hits,
        cache_misses=recorder.misses,
    )
