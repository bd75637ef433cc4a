"""The plan of an audit: what it computes, at which measured speed, in which time and memory."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.inputs import Inputs, Split, gradient_precision
from platodef_cli.audit.plan.speed import (
    Speed,
    changing,
    cores,
    matrix_rate,
    speed_of,
)
from platodef_cli.audit.plan.work import Work, work_of
from platodef_cli.audit.provenance import peak_memory
from platodef_cli.audit.steps.search import settings_of
from platodef_cli.encoders.bounded import at_once
from platodef_cli.features.cache import FeatureCache
from platodef_cli.features.sampled import Pictures, pictures_of
from platodef_cli.progress import Progress
from platodef_cli.search.interface import usual_kinds
from platodef_cli.triggers.battery import battery

PHASES = ("features", "heads", "search", "references", "controls", "measure", "base")
_CHILD_MB = 450  # libraries of the suspect's process
# Multiplications of the steps without encoders, fitted to measured ones with 150 to 1000 images of 256
# to 1280 features: a minute or so, which is most of an audit of small encoders.
_FITTING, _FITTING_ROW = 1.4e12, 1.9e9
_ALIGNING_ROW = 0.5e9
_JUDGING, _JUDGING_ROW = 4e9, 1e8  # per change of the battery


@dataclass(frozen=True)
class Measured:
    """What was measured on this machine.

    Attributes:
        speeds: Encoder -> its speed.
        decoding: Seconds per image, on one core.
        changing: Seconds per changed image, on one core.
        rate: Multiplications and additions per second of one thread.
        cores: Processors.
        share: Threads of one encoder while all of them extract.
    """

    speeds: Mapping[str, Speed]
    decoding: float
    changing: float
    rate: float
    cores: int
    share: int


@dataclass(frozen=True)
class Phase:
    """One phase of an audit.

    Attributes:
        name: One of :data:`PHASES`.
        seconds: Estimated wall time.
        certain: False where it is only computed if the suspect gives cause.
    """

    name: str
    seconds: float
    certain: bool = True


@dataclass(frozen=True)
class EncoderPlan:
    """One encoder in a plan.

    Attributes:
        work: Images that go through it.
        speed: Measured seconds per image.
        precision: Of forward passes.
        gradient_precision: Of gradients.
        at_once: Images in one forward pass.
        memory_mb: Of its weights and of what it computes at once, estimated.
        why: Why it is not run in bfloat16 where the processor is built for that.
    """

    work: Work
    speed: Speed
    precision: str
    gradient_precision: str
    at_once: int
    memory_mb: float
    why: str = ""


@dataclass(frozen=True)
class Plan:
    """What an audit will do.

    Attributes:
        images: Role -> how many.
        probe_images: Test images under every change of the battery.
        changes: Changes of the battery.
        encoders: The suspect, then the references, then the base where one was given.
        phases: With their estimated times.
        memory_mb: Estimated peak of all processes together.
        left_out: What a time budget leaves out, in words.
        options: Option -> value that gives the same audit without a budget.
        seconds: Estimated wall time from now.
        at_most: The same if every search is made on every reference.
    """

    images: Mapping[str, int]
    probe_images: int
    changes: int
    encoders: tuple[EncoderPlan, ...]
    phases: tuple[Phase, ...]
    memory_mb: float
    left_out: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Estimated wall time from now."""
        return sum(phase.seconds for phase in self.phases if phase.certain)

    @property
    def at_most(self) -> float:
        """Estimated wall time if the references are searched for everything."""
        return sum(phase.seconds for phase in self.phases)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**asdict(self), "seconds": self.seconds, "at_most_seconds": self.at_most}


def measure(
    config: AuditConfig,
    inputs: Inputs,
    works: Sequence[Work],
    parts: Split,
    threads: int,
    progress: Progress,
    *,
    everything: bool = False,
) -> Measured:
    """Measure the speed of what has to be computed.

    Args:
        config: The audit.
        inputs: Its encoders and images.
        works: What is to do: an encoder without work is not run.
        parts: Roles of the images.
        threads: Of all encoders together.
        progress: Receives the step.
        everything: Measure encoders without work too.

    Raises:
        ImageError: The first images are all broken.
        IncompleteError: An encoder failed.
    """
    geometries = [encoder.geometry for encoder in inputs.planned.values()]
    pictures = Pictures({}, 0.0)
    needed = everything or any(work.passes or work.search.gradients or work.controls for work in works)
    share = max(1, torch.get_num_threads() // len(inputs.encoders))
    speeds: dict[str, Speed] = {}
    with progress.step("measuring speed", len(works) + 1) as task:
        if needed:
            pictures = pictures_of(inputs.images, geometries, parts.fit)
        items = battery(config.battery, config.plugins)
        changed = changing(pictures, items) if any(work.battery for work in works) or everything else 0.0
        task.advance()
        before = torch.get_num_threads()
        try:
            for work in works:
                encoder = inputs.planned[work.name]
                forward = everything or bool(work.passes or work.search.passes)
                gradient = bool(work.search.gradients or work.controls)
                gradient = gradient or (everything and work.role != "base")
                speed = Speed()
                if forward:
                    # all extract side by side, but the base, which comes last
                    with_others = before if work.role == "base" else share
                    torch.set_num_threads(with_others)
                    encoder.tune(threads=with_others)
                    pixels = pictures.pixels[encoder.geometry]
                    speed = speed_of(encoder, pixels, config.batch_size, forward=True, gradient=False)
                if gradient:
                    alone = threads if work.role == "suspect" else max(1, threads // 2)
                    torch.set_num_threads(alone)
                    encoder.tune(threads=alone)
                    found = speed_of(encoder, pixels, config.batch_size, forward=False, gradient=True)
                    speed = Speed(speed.forward, found.gradient)
                speeds[work.name] = speed
                encoder.tune(threads=before)
                task.advance(note=work.name)
        finally:
            torch.set_num_threads(before)
    return Measured(speeds, pictures.decoding, changed, matrix_rate(), cores(), share)


def plan_of(
    config: AuditConfig,
    inputs: Inputs,
    parts: Split,
    works: Sequence[Work],
    measured: Measured,
    *,
    left_out: Sequence[str] = (),
    options: Mapping[str, str] | None = None,
) -> Plan:
    """Return the plan of an audit, from its work and measured speeds."""
    items = battery(config.battery, config.plugins)
    return Plan(
        images={
            "fit": len(parts.fit),
            "calibration": len(parts.calibration),
            "test": len(parts.test),
        },
        probe_images=min(config.probe_images, len(parts.test)),
        changes=len(items),
        encoders=tuple(_encoder(config, inputs, work, measured) for work in works),
        phases=phases_of(config, inputs, parts, works, measured),
        memory_mb=_memory(inputs, parts, len(items) * min(config.probe_images, len(parts.test))),
        left_out=tuple(left_out),
        options=dict(options or {}),
    )


def planned(
    config: AuditConfig,
    inputs: Inputs,
    parts: Split,
    cache: FeatureCache | None,
    threads: int,
    progress: Progress,
) -> Plan:
    """Measure, and return the plan of an audit without a time budget."""
    works = work_of(config, inputs, parts, cache)
    return plan_of(config, inputs, parts, works, measure(config, inputs, works, parts, threads, progress))


def phases_of(
    config: AuditConfig, inputs: Inputs, parts: Split, works: Sequence[Work], measured: Measured
) -> tuple[Phase, ...]:
    """Return how long every phase takes: all processors share its work, and no chain is shorter than itself.

    The references' searches run two at a time, and count as certain only where they are.
    """
    bases = [work for work in works if work.role == "base"]
    works = [work for work in works if work.role != "base"]
    decoded = max((work.clean for work in works), default=0)
    changed = max((work.battery for work in works), default=0)
    chains = [_seconds(measured, work.name, work.clean + work.battery) * measured.share for work in works]
    feeding = changed * measured.changing
    extraction = _shared([*chains, feeding], decoded * measured.decoding, measured.cores)
    found = [_seconds(measured, work.name, work.found) * measured.share for work in works]
    changes = len(battery(config.battery, config.plugins))
    found_kinds = len(config.searches) or len(usual_kinds(settings_of(config).kinds))
    judging = _JUDGING + _JUDGING_ROW * min(config.probe_images, len(parts.test))
    heads = _FITTING + _FITTING_ROW * len(parts.fit) if inputs.head is None else 0.0
    heads += _ALIGNING_ROW * min(len(parts.test), 2000) + changes * judging
    ending = found_kinds * judging + 0.2 * _FITTING
    searching = {work.name: _search_seconds(measured, work) for work in works}
    own = sum(searching[work.name] for work in works if work.role == "suspect")
    controls = [searching[work.name] for work in works if work.role == "reference"]
    certain = not any(work.only_if_needed for work in works)
    planted = sum(work.controls * (measured.speeds[work.name].gradient or 0.0) for work in works)
    return (
        Phase("features", extraction),
        Phase("heads", heads / measured.rate),
        Phase("search", own),
        Phase("references", _shared(controls, 0.0, min(2, measured.cores)), certain),
        *([Phase("controls", planted)] if config.positive_controls else []),
        Phase("measure", _shared(found, 0.0, measured.cores) + ending / measured.rate),
        *(Phase("base", _alone(measured, work)) for work in bases),
    )


def _alone(measured: Measured, work: Work) -> float:
    """Return how long one encoder extracts by itself, with pictures decoded and changed beside it."""
    feeding = work.clean * measured.decoding + (work.battery + work.found) * measured.changing
    return max(_seconds(measured, work.name, work.passes), feeding / measured.cores)


def _seconds(measured: Measured, name: str, images: int) -> float:
    return images * (measured.speeds[name].forward or 0.0)


def _search_seconds(measured: Measured, work: Work) -> float:
    gradients = work.search.gradients * (measured.speeds[work.name].gradient or 0.0)
    return gradients + _seconds(measured, work.name, work.search.passes)


def _shared(chains: Sequence[float], divisible: float, processors: int) -> float:
    """Return the time of chains that run side by side, with work that is divided at will."""
    return max((sum(chains) + divisible) / processors, *chains, 0.0)


def _encoder(config: AuditConfig, inputs: Inputs, work: Work, measured: Measured) -> EncoderPlan:
    encoder = inputs.planned[work.name]
    return EncoderPlan(
        work=work,
        speed=measured.speeds[work.name],
        precision=encoder.record.dtype,
        gradient_precision=gradient_precision(config, encoder),
        at_once=at_once(encoder, config.batch_size),
        memory_mb=round(getattr(encoder, "taken", 0) / 2**20, 1),
        why=inputs.precisions.get(work.name, ""),
    )


def _memory(inputs: Inputs, parts: Split, changed: int) -> float:
    """Estimate the peak of all processes: libraries and weights are there, activations and rows are not."""
    rows = len(parts.rows) + changed
    features = 4 * rows * sum(encoder.dim for encoder in inputs.planned.values()) * 2
    taken = [getattr(encoder, "taken", 0) for encoder in inputs.references.values()]
    here = peak_memory() + (sum(sorted(taken)[-2:]) + features) / 2**20
    isolated = [each for each in (inputs.suspect, inputs.base) if each is not None]
    return round(here + sum(_CHILD_MB + getattr(each, "taken", 0) / 2**20 for each in isolated), 1)
