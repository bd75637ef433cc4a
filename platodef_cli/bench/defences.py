"""Every defence on planted encoders: AUROC of detectors, CA, PA and ASR of purifiers, and what each costs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from platodef_cli.bench.defence_records import DefenceRow, DefenceTable, PlantedRow
from platodef_cli.defences import (
    DETECTORS,
    ENCODER_DETECTORS,
    PURIFIERS,
    make_detector,
    make_encoder_detector,
    make_purifier,
)
from platodef_cli.defences.interface import Mode
from platodef_cli.defences.zip import ImageDiffusion, fit_small_diffusion
from platodef_cli.encoders.interface import Encoder
from platodef_cli.encoders.load import open_encoder
from platodef_cli.errors import NotApplicable, UsageError
from platodef_cli.features.access import Access, EncoderAccess
from platodef_cli.features.extract import CLEAN, Extraction, Request, extract, image_seeds, load_pixels
from platodef_cli.features.interface import FeatureTuples, Samples, Variant
from platodef_cli.heads.config import FitConfig
from platodef_cli.heads.fit import fit_heads
from platodef_cli.heads.heads import Heads
from platodef_cli.images.interface import ImageSource
from platodef_cli.images.open import open_source
from platodef_cli.metrics.backdoor import accuracy, attack_success, concentration
from platodef_cli.metrics.costs import Cost, measure_cost
from platodef_cli.metrics.detection import auroc_metric
from platodef_cli.metrics.linear_probe import LinearProbe
from platodef_cli.progress import SILENT, Progress
from platodef_cli.triggers.stored import load_planted_trigger

UNDEFENDED = "none"


@dataclass(frozen=True)
class DefenceConfig:
    """What is measured.

    Attributes:
        encoders: Folders of planted encoders with their trigger beside them (``trigger.json``).
        clean: Clean encoders that encoder-level detectors are also run on, for comparison.
        references: Trusted encoders.
        images: Labelled clean images; half fit and serve as a bank, the rest is tested on.
        limit: Images used at most.
        detectors: Rows of ``DETECTORS``.
        encoder_detectors: Rows of ``ENCODER_DETECTORS``.
        purifiers: Rows of ``PURIFIERS``.
        modes: Modes of the detectors.
        bank: Clean samples that a detector or purifier may keep or be fitted on.
        heads: How the heads are fitted.
        diffusion: Folder of a diffusers pipeline for ``zip``, or None for the small one.
        seed: Every random choice.
    """

    encoders: tuple[str, ...]
    references: tuple[str, ...]
    images: str
    clean: tuple[str, ...] = ()
    limit: int = 2000
    detectors: tuple[str, ...] = DETECTORS.names()
    encoder_detectors: tuple[str, ...] = ENCODER_DETECTORS.names()
    purifiers: tuple[str, ...] = PURIFIERS.names()
    modes: tuple[Mode, ...] = ("default", "published")
    bank: int = 1000
    heads: FitConfig | None = None
    diffusion: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.encoders or not self.references:
            raise UsageError("the defences need at least one planted encoder and one reference")
        for table, names in (
            (DETECTORS, self.detectors),
            (ENCODER_DETECTORS, self.encoder_detectors),
            (PURIFIERS, self.purifiers),
        ):
            for name in names:
                table.load(name)


@dataclass(frozen=True)
class _Case:
    """One planted encoder, ready to be defended.

    Attributes:
        name: Name of the encoder.
        encoder: The encoder.
        model: Access to it.
        fit: Fits the heads on the bank's images.
        bank: Clean samples for defences.
        clean: Clean test samples, with labels.
        triggered: The same images with the trigger, without those of the target class.
        every: The same images with the trigger, all of them.
        probe: Linear probe on the encoder's clean features.
        target: Class that the trigger leads to.
    """

    name: str
    encoder: Encoder
    model: EncoderAccess
    fit: Callable[[], Heads]
    bank: Samples
    clean: Samples
    triggered: Samples
    every: Samples
    probe: LinearProbe
    target: int

    @cached_property
    def heads(self) -> Heads:
        """The heads, fitted once and only where a defence asks for them."""
        return self.fit()


def measure_defences(config: DefenceConfig, *, progress: Progress = SILENT) -> DefenceTable:
    """Measure every defence on every planted encoder, on one thread.

    Args:
        config: What is measured.
        progress: Receives the steps.

    Raises:
        UsageError: An encoder has no trigger beside it, or the images have no labels.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # costs are those of one core
    try:
        return _measure(config, progress)
    finally:
        torch.set_num_threads(threads)


def _measure(config: DefenceConfig, progress: Progress) -> DefenceTable:
    source = open_source(config.images, limit=config.limit, seed=config.seed)
    if source.classes is None or any(ref.label is None for ref in source.refs):
        raise UsageError(f"{config.images} has no labels; clean accuracy and attack success need them")
    triggers = {folder: load_planted_trigger(Path(folder)) for folder in config.encoders}
    rows: list[DefenceRow] = []
    planted: list[PlantedRow] = []
    diffusions: dict[tuple[int, int], tuple[ImageDiffusion, Cost]] = {}
    for folder, trigger in triggers.items():
        with _case(folder, trigger, source, config, progress) as case:
            planted.append(_undefended(case, trigger))
            rows += _detect(case, config, progress)
            rows += _purify(case, config, diffusions, progress)
            rows += _examine(case.name, case.encoder, case.bank, "planted", config, progress)
    for uri in config.clean:
        encoder = open_encoder(uri, progress=progress)
        pixels = load_pixels(source, [encoder.geometry], range(min(config.bank, len(source.refs))), progress)
        images = pixels[encoder.geometry]
        empty = Samples(torch.zeros(len(images), encoder.dim), {}, images=images)
        rows += _examine(encoder.record.name, encoder, empty, "clean", config, progress)
        encoder.close()
    return DefenceTable.of(config, planted, rows)


@contextmanager
def _case(
    folder: str, trigger: Variant, source: ImageSource, config: DefenceConfig, progress: Progress
) -> Iterator[_Case]:
    """Extract, fit the heads and the probe, split: half for defences, half for tests."""
    name = Path(folder).name
    encoder = open_encoder(folder, name=name, progress=progress)
    references = {
        f"reference {number}": open_encoder(uri, name=f"reference {number}", progress=progress)
        for number, uri in enumerate(config.references, start=1)
    }
    order = torch.randperm(len(source.refs), generator=torch.Generator().manual_seed(config.seed)).tolist()
    half = len(order) // 2
    fit, test = order[:half], order[half:]
    found = extract(
        source,
        {name: encoder, **references},
        [Request(None), Request(trigger, test)],
        progress=progress,
    )
    samples = _Extracted(source, encoder, found, name, tuple(references))
    bank, clean = samples.of(fit, None), samples.of(test, None)
    assert bank.labels is not None
    probe = LinearProbe.fit(bank.source, bank.labels, seed=config.seed)
    every = samples.of(test, trigger)
    assert every.labels is not None
    target = concentration(probe.predict(every.source), every.labels)[1]
    if target is None:
        raise UsageError(f"{folder}: the test images are all of one class; give images of several")
    yield _Case(
        name=name,
        encoder=encoder,
        model=EncoderAccess(encoder),
        fit=lambda: fit_heads(
            FeatureTuples(bank.source, bank.references), config.heads, seed=config.seed, progress=progress
        ),
        bank=bank.select(torch.arange(min(config.bank, len(bank)))),
        clean=clean,
        triggered=every.select(every.labels != target),
        every=every,
        probe=probe,
        target=target,
    )
    for opened in (encoder, *references.values()):
        opened.close()


@dataclass(frozen=True)
class _Extracted:
    """Features of one extraction as samples with images and labels."""

    source: ImageSource
    encoder: Encoder
    found: Extraction
    name: str
    references: tuple[str, ...]

    def of(self, rows: Sequence[int], trigger: Variant | None) -> Samples:
        """Return the usable images among ``rows``."""
        variant = CLEAN if trigger is None else trigger.name
        indices, source = self.found.features(self.name, variant)
        place = {int(row): position for position, row in enumerate(indices.tolist())}
        usable = [row for row in rows if row in place]
        keep = torch.tensor([place[row] for row in usable], dtype=torch.int64)
        images = load_pixels(self.source, [self.encoder.geometry], usable)[self.encoder.geometry]
        if trigger is not None:
            images = trigger(images, image_seeds([self.source.refs[row] for row in usable]))
        labels = torch.tensor([cast(int, self.source.refs[row].label) for row in usable])
        references = {name: self.found.features(name, variant)[1][keep] for name in self.references}
        return Samples(source[keep], references, labels, images=images)


def _undefended(case: _Case, trigger: Variant) -> PlantedRow:
    assert case.clean.labels is not None
    assert case.every.labels is not None
    clean, attacked = (case.probe.predict(part.source) for part in (case.clean, case.every))
    return PlantedRow(
        encoder=case.name,
        architecture=case.encoder.record.architecture,
        trigger=trigger.name,
        clean_accuracy=accuracy(clean, case.clean.labels),
        poisoned_accuracy=accuracy(attacked, case.every.labels, name="poisoned_accuracy"),
        attack_success=attack_success(attacked, case.every.labels, case.target),
        baseline_success=attack_success(clean, case.clean.labels, case.target, name="baseline_success"),
    )


def _detect(case: _Case, config: DefenceConfig, progress: Progress) -> list[DefenceRow]:
    rows = []
    for name in config.detectors:
        kind: Any = DETECTORS.load(name)
        for mode in config.modes if kind.published else ("default",):
            row = DefenceRow(encoder=case.name, kind="detector", defence=name, mode=mode)
            with progress.step(f"{case.name}: {name} ({mode})"):
                rows.append(_detected(row, case, config, mode))
    return rows


def _detected(row: DefenceRow, case: _Case, config: DefenceConfig, mode: Mode) -> DefenceRow:
    """Score clean and triggered test samples; a batch that is its own reference holds both, mixed."""
    both = _joined(case.clean, case.triggered)
    order = torch.randperm(len(both), generator=torch.Generator().manual_seed(config.seed))
    heads = case.heads  # shared by all detectors, so no part of their costs
    try:
        with measure_cost() as fitting:
            # the members of the default carry held-out clean scores; a bank that they were fitted on has none
            bank = case.bank if _keeps_bank(row.defence, mode) else None
            detector = make_detector(row.defence, heads, bank, mode=mode, seed=config.seed, model=case.model)
        with measure_cost() as scoring:
            shuffled = detector.score(both.select(order))
    except NotApplicable as error:
        return replace(row, not_applicable=error.why)
    scores = torch.empty_like(shuffled)
    scores[order] = shuffled
    clean = len(case.clean)
    return replace(
        row,
        auroc=auroc_metric(scores[:clean], scores[clean:]),
        fit_seconds=fitting.seconds,
        seconds=scoring.per_thousand(len(both)).seconds,
        memory_mb=max(fitting.memory_mb, scoring.memory_mb),
    )


def _keeps_bank(name: str, mode: Mode) -> bool:
    kind: Any = DETECTORS.load(name)
    return bool(kind.bank) or mode == "published" or Access.images in kind.needs


def _joined(first: Samples, second: Samples) -> Samples:
    assert first.images is not None
    assert second.images is not None
    return Samples(
        torch.cat([first.source, second.source]),
        {name: torch.cat([first.references[name], second.references[name]]) for name in first.references},
        images=torch.cat([first.images, second.images]),
    )


def _purify(
    case: _Case,
    config: DefenceConfig,
    diffusions: dict[tuple[int, int], tuple[ImageDiffusion, Cost]],
    progress: Progress,
) -> list[DefenceRow]:
    rows = []
    for name in config.purifiers:
        row = DefenceRow(encoder=case.name, kind="purifier", defence=name, mode="default")
        with progress.step(f"{case.name}: {name}"):
            try:
                rows.append(_purified(row, case, config, diffusions, progress))
            except NotApplicable as error:
                rows.append(replace(row, not_applicable=error.why))
    return rows


def _purified(
    row: DefenceRow,
    case: _Case,
    config: DefenceConfig,
    diffusions: dict[tuple[int, int], tuple[ImageDiffusion, Cost]],
    progress: Progress,
) -> DefenceRow:
    extra: dict[str, Any] = {}
    shared = Cost()
    if row.defence == "zip":
        size = case.model.size
        if size not in diffusions:
            with measure_cost() as training:
                diffusions[size] = _diffusion(case.bank, config, progress), training
        extra["diffusion"], shared = diffusions[size]
    heads = case.heads
    with measure_cost() as fitting:
        purifier = make_purifier(
            row.defence, heads, clean=case.bank, model=case.model, seed=config.seed, **extra
        )
    generator = torch.Generator().manual_seed(config.seed)
    with measure_cost() as cleaning:
        clean = case.probe.predict(purifier.purify(case.clean, generator=generator))
        attacked = case.probe.predict(purifier.purify(case.every, generator=generator))
    assert case.clean.labels is not None
    assert case.every.labels is not None
    return replace(
        row,
        clean_accuracy=accuracy(clean, case.clean.labels),
        poisoned_accuracy=accuracy(attacked, case.every.labels, name="poisoned_accuracy"),
        attack_success=attack_success(attacked, case.every.labels, case.target),
        fit_seconds=fitting.seconds + shared.seconds,
        seconds=cleaning.per_thousand(len(case.clean) + len(case.every)).seconds,
        memory_mb=max(fitting.memory_mb, cleaning.memory_mb, shared.memory_mb),
    )


def _diffusion(bank: Samples, config: DefenceConfig, progress: Progress) -> ImageDiffusion:
    if config.diffusion is not None:
        from platodef_cli.defences.zip import PipelineDiffusion

        return PipelineDiffusion(config.diffusion)
    images: Tensor = cast(Tensor, bank.images)
    return fit_small_diffusion(images, seed=config.seed, progress=progress)


def _examine(
    name: str, encoder: Encoder, bank: Samples, truth: str, config: DefenceConfig, progress: Progress
) -> list[DefenceRow]:
    """Run the encoder-level detectors on one encoder."""
    rows = []
    assert bank.images is not None
    for detector in config.encoder_detectors:
        for mode in config.modes:
            row = DefenceRow(encoder=name, kind="encoder", defence=detector, mode=mode, truth=truth)
            tool = make_encoder_detector(detector, mode=mode, seed=config.seed, progress=progress)
            with measure_cost() as cost:
                try:
                    found = tool.examine(EncoderAccess(encoder), bank.images)
                except NotApplicable as error:
                    rows.append(replace(row, not_applicable=error.why))
                    continue
            rows.append(replace(row, statistic=found.value, seconds=cost.seconds, memory_mb=cost.memory_mb))
    return rows
