"""Positive controls of the searches: references with planted backdoors, searched as a suspect is.

What a search finds of them is what it would have found in the suspect; a kind of search that finds none
clears nobody. One control is one reference, one random trigger of the search's own family, one target and one
seed of planting and search, so that the share that is found includes all of that.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.controls import search_digest, shipped_power
from platodef_cli.audit.inputs import Inputs, Split, gradient_precision, split
from platodef_cli.audit.steps.search import Searches, chosen, search_records
from platodef_cli.audit.steps.search_store import REFERENCE_SEED
from platodef_cli.audit.verdict.power import judge_power
from platodef_cli.encoders.interface import Encoder
from platodef_cli.features.cache import FeatureCache
from platodef_cli.features.extract import load_pixels
from platodef_cli.images.interface import digest_of
from platodef_cli.progress import Progress, Task
from platodef_cli.records import ControlRecord, ReachedRecord, SearchPowerRecord
from platodef_cli.search.interface import SearchConfig, SearchKind, SearchResult
from platodef_cli.search.planting import (
    Planted,
    Planting,
    can_be_planted,
    effect_of,
    planted,
    random_trigger,
    strengths_of,
)
from platodef_cli.search.run import EncoderSearch

REPEATS = 10  # controls per kind and strength, the references in turn
MEASURED = "measured in this audit"
_TRAINING = 1.5  # cost of the gradients of weights and pixels in units of those of pixels alone
_MOST, _LEAST = 1024, 256  # images that a backdoor is planted with


def run_controls(
    inputs: Inputs,
    searches: Searches,
    config: AuditConfig,
    progress: Progress,
    *,
    repeats: int = REPEATS,
    planting: Planting | None = None,
    origin: str = MEASURED,
) -> tuple[SearchPowerRecord, ...]:
    """Plant backdoors into the references, one at a time, and search for them, where the cache lacks that.

    The references are searched as they are, too: what a search reaches there is what a control must exceed.
    Weaker backdoors are planted as long as the policy would accuse the stronger ones.

    Args:
        inputs: Encoders and images; nobody else may use the references meanwhile.
        searches: Of the audit.
        config: The audit.
        progress: Receives the steps.
        repeats: Controls per kind of search and strength.
        planting: How hard the backdoors are trained in.
        origin: Said in the records.

    Returns:
        One record per kind and strength; none where no reference can be planted.

    Raises:
        IncompleteError: Memory or disk ran out; finished controls are in the cache.
    """
    names = [name for name, encoder in inputs.references.items() if can_be_planted(encoder)]
    groups = kinds_of(config, searches)
    if not names:
        progress.warn("no reference runs in this process in float32: no positive control can be planted")
        return ()
    clean = searches.of(list(inputs.references), chosen(config, searches.settings))
    work = _Controls(inputs, searches, config, clean, planting or Planting(), progress)
    todo = sum(
        repeats
        * len(strengths_of(kind))
        * (work.planting.cost() + len(numbers) * kind.restarts * kind.cost())
        for kind, numbers in groups
    )
    records = []
    with progress.step("searching for planted backdoors", todo) as task:
        for kind, numbers in groups:
            for strength in reversed(strengths_of(kind)):
                record = SearchPowerRecord(
                    kind=kind.name,
                    strength=strength,
                    change=kind.budget_text(strength),
                    origin=origin,
                    controls=tuple(
                        work.one(names[turn % len(names)], kind, numbers, strength, 1 + turn, task)
                        for turn in range(repeats)
                    ),
                )
                records.append(record)
                # what is weaker than what is missed is missed, too: no time is spent on it
                if not judge_power([record], config.limits)[0].enough:
                    break
    return tuple(records)


def power_of(
    inputs: Inputs,
    parts: Split,
    config: AuditConfig,
    cache: FeatureCache | None,
    progress: Progress,
    threads: int = 1,
) -> tuple[SearchPowerRecord, ...]:
    """Return what the searches of an audit would find: measured where that was asked for, else as shipped.

    Arguments and errors are those of :func:`run_controls` and of
    :func:`platodef_cli.audit.steps.search.run_search`.
    """
    searches = Searches.of_audit(inputs, parts, config, cache, progress, threads)
    if not config.positive_controls:
        return shipped_power(
            references=[encoder.record.digest for encoder in inputs.references.values()],
            images=inputs.images.uri,
            search_images=len(searches.rows[REFERENCE_SEED]),
            digests=digests_of(inputs, searches, config),
        )
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return run_controls(inputs, searches, config, progress)
    finally:
        torch.set_num_threads(before)


def kinds_of(config: AuditConfig, searches: Searches) -> list[tuple[SearchKind, tuple[int, ...]]]:
    """Return every kind of search of an audit with the places of its searches."""
    groups: dict[str, tuple[SearchKind, tuple[int, ...]]] = {}
    for number in chosen(config, searches.settings):
        kind = searches.settings.searches()[number][0]
        groups[kind.name] = (kind, (*groups.get(kind.name, (kind, ()))[1], number))
    return list(groups.values())


def control_images(config: AuditConfig, settings: SearchConfig) -> int:
    """Return how many images go through the references with gradients for all positive controls, at most."""
    total = 0.0
    for number in chosen(config, settings):
        kind = settings.searches()[number][0]
        total += REPEATS * len(strengths_of(kind)) * kind.restarts * kind.cost()
        total += REPEATS * len(strengths_of(kind)) * _TRAINING * Planting().cost() / len(kind.budgets)
    return int(total)


def digests_of(inputs: Inputs, searches: Searches, config: AuditConfig) -> dict[str, str]:
    """Return kind of search -> what its power depends on beside references and images."""
    precisions = [gradient_precision(config, encoder) for encoder in inputs.references.values()]
    return {
        kind.name: search_digest(searches.settings, numbers, precisions)
        for kind, numbers in kinds_of(config, searches)
    }


class _Controls:
    """Makes controls, and keeps them."""

    def __init__(
        self,
        inputs: Inputs,
        searches: Searches,
        config: AuditConfig,
        clean: Mapping[str, Mapping[int, SearchResult]],
        planting: Planting,
        progress: Progress,
    ):
        self.planting = planting
        self._inputs, self._searches, self._clean, self._progress = inputs, searches, clean, progress
        self._searched = searches.rows[REFERENCE_SEED]
        self._rows = self._others(config)
        self._digest = digest_of(inputs.images, self._rows)
        self._pixels: dict[str, tuple[Tensor, Tensor]] = {}

    def _others(self, config: AuditConfig) -> tuple[int, ...]:
        """Return the images that backdoors are planted with: not those of the search, where there are any."""
        images = self._inputs.images
        broken = {name for name, _ in images.skipped}
        order = split(len(images.refs), REFERENCE_SEED, config.sample).fit
        taken = set(self._searched)
        free = [row for row in order if row not in taken and images.refs[row].id not in broken]
        settings = self._searches.settings
        pool = len(self._searched) - min(settings.held_out, len(self._searched) // 2)
        return tuple(free[:_MOST]) if len(free) >= _LEAST else tuple(self._searched[:pool])

    def one(
        self,
        name: str,
        kind: SearchKind,
        numbers: Sequence[int],
        strength: float,
        seed: int,
        task: Task,
    ) -> ControlRecord:
        """Return one control: planted and searched now or before."""
        encoder, store = self._inputs.references[name], self._searches.store
        key = {"strength": strength, "planting": asdict(self.planting), "images": self._digest}
        kept = [store.read_control(encoder, number, seed, key) for number in numbers]
        if not all(kept):
            kept = list(self._make(name, kind, numbers, strength, seed, task))
            for number, found in zip(numbers, kept, strict=True):
                assert found is not None
                store.write_control(encoder, number, seed, key, found)
        found_all = [found for found in kept if found is not None]
        results = {number: found[0] for number, found in zip(numbers, found_all, strict=True)}
        clean = {other: {n: self._clean[other][n] for n in numbers} for other in self._clean}
        control = f"{name} with a backdoor"
        records = [r for r in search_records({control: results} | clean, control) if r.encoder == control]
        effect = found_all[0][1]
        reached = []
        for record in records:
            assert record.gap is not None  # every reference was searched, too
            assert record.gap.value is not None
            reached.append(
                ReachedRecord(
                    budget=record.budget,
                    collapse=record.collapse,
                    interval=record.interval,
                    gap=record.gap.value,
                    gap_interval=record.gap.interval,
                )
            )
        return ControlRecord(
            reference=name,
            seed=seed,
            success=round(effect.success, 4),
            kept=round(effect.kept, 4),
            reached=tuple(reached),
        )

    def _make(
        self, name: str, kind: SearchKind, numbers: Sequence[int], strength: float, seed: int, task: Task
    ) -> list[tuple[SearchResult, Planted]]:
        encoder = self._inputs.references[name]
        searched, others = self._of(name, encoder)
        word = f"{kind.name} {strength!r} {seed}"
        drawn = int(hashlib.sha256(word.encode()).hexdigest()[:15], 16)
        generator = torch.Generator().manual_seed(drawn)
        trigger = random_trigger(kind, strength, encoder.geometry.size, generator)
        held = searched[-min(self._searches.settings.held_out, len(searched) // 2) :]
        before = encoder.embed(held)
        with planted(encoder, others, trigger, generator, self.planting, task) as goal:
            changed = encoder.embed(trigger(held, torch.zeros(len(held), dtype=torch.int64)))
            effect = effect_of(before, encoder.embed(held), changed, goal)
            own = EncoderSearch(encoder, searched, self._searches.settings, seed=seed)
            return [(own.run(number, task), effect) for number in numbers]

    def _of(self, name: str, encoder: Encoder) -> tuple[Tensor, Tensor]:
        """Return the images that are searched with, and those that backdoors are planted with."""
        if name not in self._pixels:
            rows = (*self._searched, *self._rows)
            pixels = load_pixels(self._inputs.images, [encoder.geometry], rows, self._progress)
            both = pixels[encoder.geometry]
            self._pixels[name] = (both[: len(self._searched)], both[len(self._searched) :])
        return self._pixels[name]
