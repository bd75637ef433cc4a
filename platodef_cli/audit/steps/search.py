"""The trigger search of an audit, on the suspect and on the references as its control group."""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from platodef_cli.audit.config import PROBE_IMAGES, AuditConfig
from platodef_cli.audit.inputs import Inputs, Split, split
from platodef_cli.encoders.bounded import at_once
from platodef_cli.encoders.computed_by import encoding_libraries
from platodef_cli.encoders.interface import Encoder
from platodef_cli.errors import IncompleteError
from platodef_cli.features.cache import FeatureCache
from platodef_cli.features.extract import load_pixels, plugin_key
from platodef_cli.images.interface import digest_of
from platodef_cli.progress import Progress, Task
from platodef_cli.records import Metric, SearchRecord
from platodef_cli.search import SEARCH_KINDS
from platodef_cli.search.interface import SearchConfig, SearchedTrigger, SearchResult, default_searches
from platodef_cli.search.resampling import interval_of
from platodef_cli.search.run import SEARCH_VERSION, search
from platodef_cli.search.statistics import Effect

REFERENCE_SEED = 0  # of every audit's searches on the references: the user's seed draws those on the suspect


@dataclass(frozen=True)
class _Work:
    """One encoder to search, with what decides the result.

    Attributes:
        encoder: The suspect or a reference.
        rows: Images in the order of the search.
        seed: Draws the starts and the batches.
        key: In the cache.
    """

    encoder: Encoder
    rows: tuple[int, ...]
    seed: int
    key: Mapping[str, object]


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
    inputs: Inputs, parts: Split, config: AuditConfig, cache: FeatureCache | None, progress: Progress
) -> dict[str, tuple[SearchResult, ...]]:
    """Search the suspect and every reference under equal budgets, from the cache where it is there.

    The suspect lives in its own process, so its search runs beside the references'. What is searched on the
    references does not depend on the audit's seed, nor do the images that it is searched with, so that
    another seed costs a search of the suspect only.
    """
    # its intervals shrink like those of the battery where more images are probed
    held_out = max(SearchConfig.held_out, SearchConfig.held_out * config.probe_images // PROBE_IMAGES)
    settings = SearchConfig(default_searches(config.plugins), held_out=held_out)
    broken = {name for name, _ in inputs.images.skipped}
    wanted = settings.pool + settings.held_out
    # fit images: nothing that the search of the suspect saw may test its result
    fit = {REFERENCE_SEED: split(len(inputs.images.refs), REFERENCE_SEED).fit, config.seed: parts.fit}
    rows = {
        seed: tuple(row for row in order if inputs.images.refs[row].id not in broken)[:wanted]
        for seed, order in fit.items()
    }
    digests = {seed: digest_of(inputs.images, chosen) for seed, chosen in rows.items()}
    works: dict[str, _Work] = {}
    for name, encoder in inputs.encoders.items():
        seed = config.seed if name == inputs.suspect.record.name else REFERENCE_SEED
        key = _search_key(encoder, digests[seed], settings, config, seed)
        works[name] = _Work(encoder, rows[seed], seed, {**key, **plugin_key(encoder, inputs.images)})
    results: dict[str, tuple[SearchResult, ...]] = {}
    for name, work in works.items():
        stored = cache.load_artifact("search", work.key) if cache else None
        if stored is not None:
            results[name] = _read(stored)
    missing = {name: work for name, work in works.items() if name not in results}
    if missing:
        results.update(_search_all(inputs, missing, settings, cache, progress))
    # in one order, whatever the cache held: equal audits shall give equal bytes
    return {name: results[name] for name in inputs.encoders}


def _search_all(
    inputs: Inputs,
    missing: Mapping[str, _Work],
    settings: SearchConfig,
    cache: FeatureCache | None,
    progress: Progress,
) -> dict[str, tuple[SearchResult, ...]]:
    """Search encoders two at a time, and keep what is finished."""
    pixels = {}
    for rows in dict.fromkeys(work.rows for work in missing.values()):
        geometries = [work.encoder.geometry for work in missing.values() if work.rows == rows]
        pixels[rows] = load_pixels(inputs.images, geometries, rows, progress)

    def one(name: str) -> tuple[SearchResult, ...]:
        work = missing[name]
        result = search(
            work.encoder,
            pixels[work.rows][work.encoder.geometry],
            settings,
            seed=work.seed,
            progress=stoppable,
        )
        if cache is not None:
            cache.store_artifact("search", work.key, lambda folder: _write(folder, result))
        return result

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    stoppable = Stoppable(progress)
    try:
        with ThreadPoolExecutor(max_workers=2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
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


def _search_key(
    encoder: Encoder, images: str, settings: SearchConfig, config: AuditConfig, seed: int
) -> dict[str, object]:
    record = encoder.record
    return {
        "version": SEARCH_VERSION,
        "libraries": encoding_libraries(),
        "encoder": record.digest,
        "transform": record.transform.model_dump(mode="json"),
        "pooling": record.pooling,
        "dtype": record.dtype,
        "device": getattr(encoder, "device", config.device),
        "images": images,
        "settings": json.loads(json.dumps(settings.key())),
        "seed": seed,
        "images at once": at_once(encoder, config.batch_size, gradients=True),
    }


def _write(folder: Path, results: Sequence[SearchResult]) -> None:
    save_file(
        {str(number): entry.variant.values for number, entry in enumerate(results)},
        folder / "values.safetensors",
    )
    described = [
        {
            "trigger": {
                own.name: getattr(entry.variant, own.name)
                for own in fields(entry.variant)
                if own.name != "values"
            },
            "budget": entry.budget,
            "steps": entry.steps,
            "effect": asdict(entry.effect),
            "draws": entry.draws,
            "held_out": entry.held_out,
        }
        for entry in results
    ]
    (folder / "found.json").write_text(json.dumps(described))


def _read(folder: Path) -> tuple[SearchResult, ...]:
    values = load_file(folder / "values.safetensors")
    return tuple(
        SearchResult(
            _trigger(entry["trigger"], values[str(number)]),
            entry["budget"],
            entry["steps"],
            Effect(**entry["effect"]),
            tuple(entry["draws"]),
            entry["held_out"],
        )
        for number, entry in enumerate(json.loads((folder / "found.json").read_text()))
    )


def _trigger(described: Mapping[str, Any], values: Tensor) -> SearchedTrigger:
    # JSON has no tuples
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in described.items()
    }
    trigger: type[SearchedTrigger] = SEARCH_KINDS.load(given["kind"]).trigger
    return trigger(values=values, **given)


def search_records(results: Mapping[str, Sequence[SearchResult]], suspect: str) -> tuple[SearchRecord, ...]:
    """Return the searches with their collapses and distances; a policy gives them scores.

    The intervals resample the held-out images alike for every encoder, so that distances are paired where
    suspect and references were searched with the same images, as they are with the default seed.
    """
    records = []
    for number in range(len(results[suspect])):
        entries = {name: every[number] for name, every in results.items()}
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
                    gap=_gap(entry, others),
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
