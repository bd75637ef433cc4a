"""The trigger search of an audit, on the suspect and on the references as its control group.

The references answer one question: whether a change that makes the suspect forget what it sees does the same
to any encoder. Where a search does not reach its limit on the suspect there is no such question, so the same
search of the references is left out, unless ``--search-controls all`` wants it.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager

import torch
from torch import Tensor

from platodef_cli.audit.config import PROBE_IMAGES, AuditConfig
from platodef_cli.audit.inputs import Inputs, Split, split
from platodef_cli.audit.steps.search_store import REFERENCE_SEED, SearchStore
from platodef_cli.audit.verdict.rules import compares_with_references
from platodef_cli.audit.verdict.search import need_controls
from platodef_cli.encoders.interface import Encoder
from platodef_cli.errors import IncompleteError, UsageError
from platodef_cli.features.cache import FeatureCache
from platodef_cli.features.extract import load_pixels
from platodef_cli.progress import Progress, Task
from platodef_cli.records import Metric, SearchRecord
from platodef_cli.search.interface import SearchConfig, SearchResult, default_searches, usual_kinds
from platodef_cli.search.resampling import interval_of
from platodef_cli.search.run import EncoderSearch


class Stoppable:
    """A progress whose tasks raise once it has been stopped; implements :class:`Progress`."""

    def __init__(self, progress: Progress):
        self._progress = progress
        self._stopped = threading.Event()
        self.warn = progress.warn

    def stop(self) -> None:
        """Make every task raise :class:`IncompleteError` the next time it advances."""
        self._stopped.set()

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Task]:
        """Open a step of the wrapped progress."""
        with self._progress.step(title, total) as task:
            yield _StoppableTask(task, self._stopped)


class _StoppableTask:
    def __init__(self, task: Task, stopped: threading.Event):
        self._task = task
        self._stopped = stopped

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        """Report progress, or raise where nobody waits for the result any more."""
        if self._stopped.is_set():
            raise IncompleteError("the computation was stopped")
        self._task.advance(amount, note=note)


def run_search(
    inputs: Inputs,
    parts: Split,
    config: AuditConfig,
    cache: FeatureCache | None,
    progress: Progress,
    threads: int = 1,
) -> dict[str, dict[int, SearchResult]]:
    """Search the suspect, and the references where that is needed, from the cache where it is there.

    What is searched on the references does not depend on the audit's seed, nor do the images that it is
    searched with, so that another seed costs a search of the suspect only.

    Args:
        inputs: Encoders and images.
        parts: Roles of the images.
        config: The audit.
        cache: Of finished searches, or None.
        progress: Receives the steps.
        threads: Of all encoders together.

    Returns:
        Encoder -> place of a search -> what it found; the suspect has every place that was asked for.
    """
    suspect = inputs.suspect.record.name
    searches = Searches.of_audit(inputs, parts, config, cache, progress, threads)
    needed = chosen(config, searches.settings)
    results = searches.of([suspect], needed)
    if config.search_controls == "needed" and not compares_with_references(config.limits):
        needed = [needed[place] for place in need_controls(search_records(results, suspect), config.limits)]
    results.update(searches.of([name for name in inputs.encoders if name != suspect], needed))
    # in one order, whatever the cache held: equal audits shall give equal bytes
    return {name: results[name] for name in inputs.encoders}


def settings_of(config: AuditConfig) -> SearchConfig:
    """Return the searches of an audit, those that it leaves out included."""
    # its intervals shrink like those of the battery where more images are probed
    held_out = max(SearchConfig.held_out, SearchConfig.held_out * config.probe_images // PROBE_IMAGES)
    return SearchConfig(default_searches(config.plugins), held_out=held_out)


def rows_of(
    inputs: Inputs, parts: Split, config: AuditConfig, settings: SearchConfig
) -> dict[int, tuple[int, ...]]:
    """Return seed -> the images that are searched with, without those that are known to be broken."""
    refs = inputs.images.refs
    broken = {name for name, _ in inputs.images.skipped}
    wanted = settings.pool + settings.held_out
    # fit images: nothing that the search of the suspect saw may test its result
    fit = {REFERENCE_SEED: split(len(refs), REFERENCE_SEED, config.sample).fit, config.seed: parts.fit}
    return {
        seed: tuple(row for row in order if refs[row].id not in broken)[:wanted]
        for seed, order in fit.items()
    }


def search_title(name: str) -> str:
    """Return the title of the step that searches an encoder."""
    return f"searching for a trigger in {name}"


def chosen(config: AuditConfig, settings: SearchConfig) -> list[int]:
    """Return the places of the searches that an audit runs; they keep their random numbers.

    Raises:
        UsageError: A kind was asked for whose plug-in was not.
    """
    kinds = {kind.name for kind in settings.kinds}
    absent = [name for name in config.searches if name not in kinds]
    if absent:
        raise UsageError(f"the search {absent[0]!r} is that of a plug-in; give --plugin {absent[0]} as well")
    wanted = set(config.searches or usual_kinds(settings.kinds))
    return [place for place, (kind, _) in enumerate(settings.searches()) if kind.name in wanted]


class Searches:
    """Searches encoders, and keeps what is finished.

    Attributes:
        settings: Kinds of search.
        rows: Seed -> the images that are searched with.
        store: Of finished searches.
    """

    def __init__(
        self,
        inputs: Inputs,
        settings: SearchConfig,
        rows: Mapping[int, Sequence[int]],
        seeds: Mapping[str, int],
        store: SearchStore,
        progress: Progress,
        threads: int,
    ):
        self._threads = threads
        self.settings, self.rows, self.store = settings, rows, store
        self._inputs, self._seeds, self._progress = inputs, seeds, progress

    @classmethod
    def of_audit(
        cls,
        inputs: Inputs,
        parts: Split,
        config: AuditConfig,
        cache: FeatureCache | None,
        progress: Progress,
        threads: int = 1,
    ) -> "Searches":
        """Return those of an audit; arguments as for :func:`run_search`."""
        settings = settings_of(config)
        rows = rows_of(inputs, parts, config, settings)
        store = SearchStore(cache, config, settings, inputs.images, rows)
        suspect = inputs.suspect.record.name
        seeds = {name: config.seed if name == suspect else REFERENCE_SEED for name in inputs.encoders}
        return cls(inputs, settings, rows, seeds, store, progress, threads)

    def of(self, names: Sequence[str], numbers: Sequence[int]) -> dict[str, dict[int, SearchResult]]:
        """Return encoder -> place -> what was found; two encoders at a time where they share the cores."""
        encoders = {name: self._inputs.encoders[name] for name in names}
        found: dict[str, dict[int, SearchResult]] = {name: {} for name in names}
        for name, encoder in encoders.items():
            for number in numbers:
                stored = self.store.read(encoder, number, self._seeds[name])
                if stored is not None:
                    found[name][number] = stored
        open_ones = {name: [n for n in numbers if n not in found[name]] for name in names}
        missing = {name: places for name, places in open_ones.items() if places}
        if missing:
            for name, results in self._compute(missing).items():
                both = found[name] | results
                found[name] = {number: both[number] for number in numbers}
        return found

    def _compute(self, missing: Mapping[str, Sequence[int]]) -> dict[str, dict[int, SearchResult]]:
        inputs, stoppable = self._inputs, Stoppable(self._progress)
        encoders = {name: inputs.encoders[name] for name in missing}
        pixels = {}
        for seed in dict.fromkeys(self._seeds[name] for name in missing):
            geometries = [encoders[name].geometry for name in missing if self._seeds[name] == seed]
            pixels[seed] = load_pixels(inputs.images, geometries, self.rows[seed], self._progress)
        # one encoder has all cores, two have half of them each
        share = self._threads if len(missing) == 1 else max(1, self._threads // 2)

        def one(name: str) -> dict[int, SearchResult]:
            seed, encoder = self._seeds[name], encoders[name]
            return self._search(encoder, pixels[seed][encoder.geometry], missing[name], seed, stoppable)

        threads = torch.get_num_threads()
        inputs.suspect.tune(threads=share)
        torch.set_num_threads(share)
        try:
            with ThreadPoolExecutor(
                max_workers=2, initializer=torch.set_num_threads, initargs=(share,)
            ) as pool:
                futures = {name: pool.submit(one, name) for name in missing}
                try:
                    for future in wait(futures.values(), return_when=FIRST_EXCEPTION).done:
                        future.result()
                except BaseException:
                    # a failure and Ctrl-C must not wait for minutes of searching that nobody will see
                    stoppable.stop()
                    inputs.suspect.close()
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
            return {name: future.result() for name, future in futures.items()}
        finally:
            torch.set_num_threads(threads)
            inputs.suspect.tune(threads=threads)

    def _search(
        self, encoder: Encoder, pixels: Tensor, numbers: Sequence[int], seed: int, progress: Progress
    ) -> dict[int, SearchResult]:
        found = {}
        searches = EncoderSearch(encoder, pixels, self.settings, seed=seed)
        kinds = [self.settings.searches()[number][0] for number in numbers]
        cost = sum(kind.restarts * kind.cost() for kind in kinds)
        with progress.step(search_title(encoder.record.name), cost) as task:
            for number in numbers:
                found[number] = searches.run(number, task)
                self.store.write(encoder, number, seed, found[number])
        return found


def search_records(
    results: Mapping[str, Mapping[int, SearchResult]], suspect: str
) -> tuple[SearchRecord, ...]:
    """Return the searches with their collapses and distances; a policy gives them scores.

    The intervals resample the held-out images alike for every encoder, so that distances are paired where
    suspect and references were searched with the same images, as they are with the default seed. A search
    that no reference ran has no distance.
    """
    records = []
    for number in results[suspect]:
        entries = {name: found[number] for name, found in results.items() if number in found}
        for name, entry in entries.items():
            others = [other for key, other in entries.items() if key not in (suspect, name)]
            records.append(
                SearchRecord(
                    encoder=name,
                    role="suspect" if name == suspect else "control",
                    kind=entry.variant.kind,
                    budget=entry.budget,
                    place=entry.variant.place_text(),
                    steps=entry.steps,
                    collapse=entry.effect.collapse,
                    score=0.0,
                    interval=interval_of(_draws(entry), entry.effect.collapse),
                    gap=_gap(entry, others) if len(entries) > 1 else None,
                )
            )
    return tuple(records)


def _gap(entry: SearchResult, others: Sequence[SearchResult]) -> Metric:
    """Return how much more a search collapses its encoder than the same search the other references."""
    value = entry.effect.collapse - max((other.effect.collapse for other in others), default=0.0)
    draws = _draws(entry)
    if others:
        draws = draws - torch.stack([_draws(other) for other in others]).amax(dim=0)
    return Metric(
        name="collapse beyond the references",
        value=value,
        interval=interval_of(draws, value),
        direction="higher is more suspicious",
        n_positive=entry.held_out,
        unit="cosine",
    )


def _draws(result: SearchResult) -> Tensor:
    return torch.tensor(result.draws, dtype=torch.float64)
