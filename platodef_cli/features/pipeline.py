"""Runs shards in this process: decoding threads, one thread per encoder, bounded queues between them.

Decoding and the encoders release the interpreter lock, so threads are enough. What is computed does
not depend on timing: batches are cut inside a shard, and every encoder sees them in one order.
"""

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from platodef_cli.encoders.interface import Encoder, Geometry, to_levels, to_pixels
from platodef_cli.errors import IncompleteError, PlatodefError
from platodef_cli.features.interface import Variant
from platodef_cli.features.shard import Shard
from platodef_cli.images.decode import ImageError
from platodef_cli.images.interface import ImageSource
from platodef_cli.plugins import blaming, plugin_of

_QUEUE = 4  # batches that may wait for one encoder
_POLL_SECONDS = 0.2
_MAX_DECODERS = 16

Pixels = dict[Geometry, Tensor]  # [3, H, W] of one image: uint8, or float32 where the geometry says so


@dataclass(frozen=True)
class ExtractionJob:
    """Features that are missing of one shard under one variant.

    Attributes:
        name: Name of the variant.
        variant: The change of the pixels, or None.
        rows: Indices into the source, ascending.
        encoders: Names of the encoders that lack it.
    """

    name: str
    variant: Variant | None
    rows: tuple[int, ...]
    encoders: tuple[str, ...]


Done = Callable[[str, ExtractionJob, Shard, bool], None]  # (encoder, job, shard, whether it may be stored)


@dataclass(frozen=True)
class Decoded:
    """Decoded images of one shard, and the errors of those that are broken, by row."""

    pixels: Mapping[int, Pixels]
    errors: Mapping[int, ImageError]


def decode_all(
    source: ImageSource, rows: Sequence[int], geometries: Sequence[Geometry], pool: ThreadPoolExecutor
) -> dict[int, "Future[Pixels | ImageError]"]:
    """Start decoding ``rows`` of ``source`` to the pixels of every geometry."""
    return {row: pool.submit(_pixels, source, row, geometries) for row in rows}


def collect(futures: "Mapping[int, Future[Pixels | ImageError]]") -> Decoded:
    """Wait for the images that :func:`decode_all` started."""
    pixels: dict[int, Pixels] = {}
    errors: dict[int, ImageError] = {}
    for row, future in futures.items():
        result = future.result()
        if isinstance(result, ImageError):
            errors[row] = result
        else:
            pixels[row] = result
    return Decoded(pixels, errors)


def decoding_pool() -> ThreadPoolExecutor:
    """Return a pool of decoding threads, one per core but one; each resizes on one core."""
    available = getattr(os, "sched_getaffinity", None)  # missing outside Linux
    cores = len(available(0)) if available else os.cpu_count() or 1
    size = min(_MAX_DECODERS, max(1, cores - 1))
    return ThreadPoolExecutor(size, "decode", initializer=torch.set_num_threads, initargs=(1,))


def run(
    source: ImageSource,
    encoders: Mapping[str, Encoder],
    shards: Iterable[Sequence[ExtractionJob]],
    seeds: Tensor,
    *,
    batch_size: int,
    done: Done,
) -> None:
    """Compute the features of all jobs; each image of a shard is decoded once for all of them.

    Args:
        source: The images.
        encoders: Name -> encoder; each runs in a thread of its own.
        shards: The jobs of each shard; taken one shard ahead, so that decoding and encoding overlap.
        seeds: int64 ``[len(source.refs)]`` for the variants.
        batch_size: Images per call of an encoder.
        done: Called with every finished shard, from the encoder's thread.

    Raises:
        IncompleteError: An encoder failed.
    """
    threads = torch.get_num_threads()
    stop = threading.Event()
    share = max(1, threads // max(1, len(encoders)))
    workers = {name: _Worker(name, encoder, stop, done, share) for name, encoder in encoders.items()}
    pool = decoding_pool()
    try:
        for worker in workers.values():
            worker.start()
        for jobs, decoded in _ahead(source, encoders, shards, pool):
            if stop.is_set():
                break
            _feed(jobs, decoded, encoders, workers, seeds, batch_size)
        for worker in workers.values():
            worker.put(None)
        for worker in workers.values():
            worker.join()
        _raise_first(workers.values())
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        for worker in workers.values():
            if worker.is_alive():
                worker.join()
        # Threads set their own counts above, but the last one is what new threads inherit.
        torch.set_num_threads(threads)


def _pixels(source: ImageSource, row: int, geometries: Sequence[Geometry]) -> Pixels | ImageError:
    try:
        image = source.open(row)
    except ImageError as error:
        return error
    return {geometry: to_pixels(image, geometry) for geometry in geometries}


def _ahead(
    source: ImageSource,
    encoders: Mapping[str, Encoder],
    shards: Iterable[Sequence[ExtractionJob]],
    pool: ThreadPoolExecutor,
) -> Iterator[tuple[Sequence[ExtractionJob], Decoded]]:
    """Yield each shard with its decoded images, while the next one is being decoded."""
    waiting: deque[tuple[Sequence[ExtractionJob], dict[int, Future[Pixels | ImageError]]]] = deque()
    for jobs in shards:
        rows = sorted({row for job in jobs for row in job.rows})
        names = dict.fromkeys(name for job in jobs for name in job.encoders)
        geometries = list(dict.fromkeys(encoders[name].geometry for name in names))
        waiting.append((jobs, decode_all(source, rows, geometries, pool)))
        if len(waiting) > 1:
            ready, futures = waiting.popleft()
            yield ready, collect(futures)
    for ready, futures in waiting:
        yield ready, collect(futures)


def _feed(
    jobs: Sequence[ExtractionJob],
    decoded: Decoded,
    encoders: Mapping[str, Encoder],
    workers: Mapping[str, "_Worker"],
    seeds: Tensor,
    batch_size: int,
) -> None:
    """Queue the batches of one shard; equal geometries share the variant's work."""
    for job in jobs:
        good = [row for row in job.rows if row in decoded.pixels]
        groups: dict[Geometry, list[str]] = {}
        for name in job.encoders:
            groups.setdefault(encoders[name].geometry, []).append(name)
        for start in range(0, len(good), batch_size):
            rows = good[start : start + batch_size]
            for geometry, names in groups.items():
                pixels = torch.stack([decoded.pixels[row][geometry] for row in rows])
                if job.variant is not None:
                    pixels = _changed(job.variant, pixels, seeds[rows])
                for name in names:
                    workers[name].put(pixels)
        errors = {row: decoded.errors[row] for row in job.rows if row in decoded.errors}
        for name in job.encoders:
            workers[name].put(_End(job, errors))


def _changed(variant: Variant, pixels: Tensor, seeds: Tensor) -> Tensor:
    """Apply a change of 8-bit images; of floats, the pixels that it leaves alone keep their last digits."""
    levels = to_levels(pixels)
    with blaming(plugin_of(variant)):
        changed = variant(levels, seeds)
    if pixels.dtype == torch.uint8:
        return changed
    return torch.where(changed == levels, pixels, changed / 255)


@dataclass(frozen=True)
class _End:
    """All batches of a job have been queued."""

    job: ExtractionJob
    errors: Mapping[int, ImageError]


class _Worker(threading.Thread):
    """Embeds the batches of one encoder, in the order in which they are queued."""

    def __init__(self, label: str, encoder: Encoder, stop: threading.Event, done: Done, threads: int):
        super().__init__(name=f"encoder {label}", daemon=True)
        self.error: BaseException | None = None
        self._label, self._encoder, self._threads = label, encoder, threads
        self._halt, self._done = stop, done
        self._queue: queue.Queue[Tensor | _End | None] = queue.Queue(_QUEUE)

    def put(self, item: Tensor | _End | None) -> None:
        """Queue a batch, the end of a job, or None to finish.

        Raises:
            IncompleteError: Some encoder failed meanwhile.
        """
        while True:
            if self.error is not None:
                _raise_first([self])
            if self._halt.is_set():
                return  # another encoder failed; its own queue or the final check raises
            try:
                return self._queue.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue

    def run(self) -> None:
        """Work until None arrives, another encoder fails, or the caller stops."""
        torch.set_num_threads(self._threads)
        parts: list[Tensor] = []
        try:
            while not self._halt.is_set():
                try:
                    item = self._queue.get(timeout=_POLL_SECONDS)
                except queue.Empty:
                    continue
                if item is None:
                    return
                if isinstance(item, _End):
                    self._finish(item, parts)
                    parts = []
                else:
                    parts.append(self._embed(item))
        except BaseException as error:  # handed to the caller's thread
            self.error = error
            self._halt.set()

    def _embed(self, pixels: Tensor) -> Tensor:
        features = self._encoder.embed(pixels)
        expected = (len(pixels), self._encoder.dim)
        if tuple(features.shape) != expected:
            raise IncompleteError(
                f"encoder {self._label!r} returned features of shape {list(features.shape)}, expected "
                f"{list(expected)}"
            )
        if not torch.isfinite(features).all():
            raise IncompleteError(
                f"encoder {self._label!r} returned NaN or infinite features; use --dtype float32, or "
                "examine its weights"
            )
        return features

    def _finish(self, end: _End, parts: Sequence[Tensor]) -> None:
        position = {row: i for i, row in enumerate(end.job.rows)}
        kept = [i for row, i in position.items() if row not in end.errors]
        broken = tuple((position[row], error.reason) for row, error in end.errors.items())
        # Outside inference mode the concatenation is an ordinary tensor that heads can be fitted on.
        features = torch.cat([torch.empty(0, self._encoder.dim), *(part.float().cpu() for part in parts)])
        shard = Shard(features, torch.tensor(kept, dtype=torch.int64), broken)
        lasting = not any(error.transient for error in end.errors.values())
        self._done(self._label, end.job, shard, lasting)


def _raise_first(workers: Iterable[_Worker]) -> None:
    for worker in workers:
        if isinstance(worker.error, Exception) and not isinstance(worker.error, PlatodefError):
            text = " ".join(str(worker.error).split())[:160] or type(worker.error).__name__
            raise IncompleteError(f"{worker.name} failed: {text}") from worker.error
        if worker.error is not None:
            raise worker.error
