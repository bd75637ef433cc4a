"""Features of many encoders under many variants, from one decoding pass over the images."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from platodef_cli.encoders.interface import Encoder, Geometry, to_levels
from platodef_cli.errors import UsageError
from platodef_cli.features.cache import FeatureCache
from platodef_cli.features.interface import Variant
from platodef_cli.features.keys import feature_key
from platodef_cli.features.pipeline import ExtractionJob, collect, decode_all, decoding_pool, run
from platodef_cli.features.shard import Shard
from platodef_cli.images.interface import ImageRef, ImageSource
from platodef_cli.progress import SILENT, Progress

CLEAN = "clean"
EXTRACTING = "extracting features"
SHARD = 256
"""Images per entry of the cache."""
_NAMED = 3  # broken images that a warning names


@dataclass(frozen=True)
class Request:
    """Features wanted of one variant.

    Attributes:
        variant: The change of the pixels, or None for clean images.
        indices: Images of the source, in the order wanted, or None for all.
    """

    variant: Variant | None = None
    indices: Sequence[int] | None = None

    @property
    def name(self) -> str:
        """Name of the variant, ``clean`` without one."""
        return CLEAN if self.variant is None else self.variant.name


@dataclass(frozen=True)
class Extraction:
    """The features of one call of :func:`extract`.

    Attributes:
        indices: Variant -> int64 ``[n]``, the usable images in the order of the request.
        values: (encoder, variant) -> float32 ``[n, D]``.
        broken: (id, reason) of the images that could not be decoded, in the order of the source.
        hits: Shards (of one encoder and variant) that came from the cache.
        misses: Shards that were computed.
    """

    indices: Mapping[str, Tensor]
    values: Mapping[tuple[str, str], Tensor]
    broken: tuple[tuple[str, str], ...]
    hits: int
    misses: int

    def features(self, encoder_name: str, variant_name: str = CLEAN) -> tuple[Tensor, Tensor]:
        """Return int64 ``[n]`` indices into the source and float32 ``[n, D]`` features.

        The indices are those of the request without the broken images, the same for every encoder.

        Raises:
            KeyError: That encoder or variant was not requested.
        """
        return self.indices[variant_name], self.values[encoder_name, variant_name]


def image_seeds(refs: Sequence[ImageRef]) -> Tensor:
    """Return int64 ``[len(refs)]``, the variants' seeds: 63 bits of every image's digest."""
    return torch.tensor([int(ref.digest[:16], 16) & (2**63 - 1) for ref in refs], dtype=torch.int64)


def extract(
    source: ImageSource,
    encoders: Mapping[str, Encoder],
    requests: Sequence[Request],
    *,
    cache: FeatureCache | None = None,
    batch_size: int = 64,
    shard_size: int = SHARD,
    max_broken_share: float = 0.05,
    progress: Progress = SILENT,
) -> Extraction:
    """Compute the features of every encoder for every request.

    Every image is decoded at most once, whatever the number of encoders and variants, and not at all
    where the cache holds its shard for all of them. The bytes do not depend on timing, nor on whether
    a shard came from the cache.

    Args:
        source: The images.
        encoders: Name -> encoder; they run concurrently.
        requests: The variants, each at most once, and their images.
        cache: Where finished shards are kept, or None.
        batch_size: Images per call of an encoder.
        shard_size: Images per cache entry; an interrupted run loses at most the shards in work.
        max_broken_share: Largest tolerated share of unusable images, those that the source skipped
            while listing included.
        progress: Told the number of finished features, and about broken images.

    Raises:
        UsageError: An argument is wrong, or too many images are broken.
        IncompleteError: An encoder failed or gave values that are not finite.
    """
    if batch_size < 1 or shard_size < 1:
        raise UsageError(f"batch size {batch_size} and shard size {shard_size} must be at least 1")
    wanted = {request.name: request for request in requests}
    if len(wanted) != len(requests) or not encoders or not requests:
        raise UsageError("extraction needs at least one encoder and one request per variant name")
    rows = {name: rows_of(request, len(source.refs)) for name, request in wanted.items()}
    listed = list(source.skipped)
    work = _Work(source, encoders, cache, batch_size, progress)
    total = sum(len(set(r)) for r in rows.values()) * len(encoders)
    with progress.step(EXTRACTING, total) as task:
        work.advance = task.advance
        shards = work.missing(wanted, rows, shard_size)
        run(source, encoders, shards, image_seeds(source.refs), batch_size=batch_size, done=work.done)
    requested = len(set().union(*rows.values()))
    _report_broken(source, requested, listed, work.broken, max_broken_share, progress)
    return work.result(rows)


def load_pixels(
    source: ImageSource, geometries: Sequence[Geometry], indices: Sequence[int], progress: Progress = SILENT
) -> dict[Geometry, Tensor]:
    """Decode images once to the inputs of several geometries.

    Args:
        source: The images.
        geometries: Resizes and crops; equal ones are computed once.
        indices: Images of the source that are known to be usable (as :meth:`Extraction.features`
            returns them).
        progress: Told the number of decoded images.

    Returns:
        Geometry -> uint8 ``[n, 3, H, W]`` in the order of ``indices``; also where the encoder takes floats,
        because triggers and searches change images of 8 bits.

    Raises:
        ImageError: An image is broken.
        UsageError: An index is outside the source.
    """
    rows = rows_of(Request(None, indices), len(source.refs))
    distinct = list(dict.fromkeys(geometries))
    loaded = {geometry: torch.empty(len(rows), 3, *geometry.size, dtype=torch.uint8) for geometry in distinct}
    places: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row, []).append(place)
    ordered = sorted(places)
    with decoding_pool() as pool, progress.step("decoding images", len(ordered)) as task:
        for start in range(0, len(ordered), 256):
            block = collect(decode_all(source, ordered[start : start + 256], distinct, pool))
            for error in block.errors.values():
                raise error
            for row, pixels in block.pixels.items():
                for geometry, value in pixels.items():
                    loaded[geometry][places[row]] = to_levels(value)
                task.advance()
    return loaded


def cut(
    wanted: Mapping[str, Request], rows: Mapping[str, Sequence[int]], size: int, encoders: tuple[str, ...]
) -> Iterator[list[ExtractionJob]]:
    """Yield the jobs of every shard.

    Shards are cut by position in the source, so that requests for different images share the decoding.

    Args:
        wanted: Name of the variant -> request.
        rows: Name of the variant -> its images.
        size: Images per shard.
        encoders: That take part.
    """
    shards: dict[int, dict[str, list[int]]] = {}
    for name, indices in rows.items():
        for row in sorted(set(indices)):
            shards.setdefault(row // size, {}).setdefault(name, []).append(row)
    for number in sorted(shards):
        yield [
            ExtractionJob(name, wanted[name].variant, tuple(part), encoders)
            for name, part in shards[number].items()
        ]


@dataclass
class _Work:
    """What one extraction collects; the encoders' threads share it."""

    source: ImageSource
    encoders: Mapping[str, Encoder]
    cache: FeatureCache | None
    batch_size: int
    progress: Progress
    advance: Any = None
    hits: int = 0
    misses: int = 0
    broken: dict[int, str] = field(default_factory=dict)
    parts: dict[tuple[str, str], list[tuple[Tensor, Tensor]]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def missing(
        self, wanted: Mapping[str, Request], rows: Mapping[str, Sequence[int]], shard_size: int
    ) -> Iterator[list[ExtractionJob]]:
        """Yield the jobs of every shard that the cache cannot serve completely."""
        for shard in cut(wanted, rows, shard_size, tuple(self.encoders)):
            jobs = []
            for job in shard:
                lacking = tuple(encoder for encoder in self.encoders if not self._cached(encoder, job))
                if lacking:
                    jobs.append(replace(job, encoders=lacking))
            if jobs:
                yield jobs

    def done(self, encoder: str, job: ExtractionJob, shard: Shard, lasting: bool) -> None:
        """Take a computed shard."""
        if self.cache is not None and lasting:
            self.cache.store(self._key(encoder, job), shard)
        with self.lock:
            self.misses += 1
            self._take(encoder, job, shard)

    def result(self, rows: Mapping[str, Sequence[int]]) -> Extraction:
        """Put the shards together, in the order of the requests, without the broken images."""
        indices, values = {}, {}
        for name, requested in rows.items():
            usable = [row for row in requested if row not in self.broken]
            indices[name] = torch.tensor(usable, dtype=torch.int64)
            for encoder in self.encoders:
                parts = self.parts.pop((encoder, name), [])
                position = {
                    int(row): i for i, row in enumerate(r for part in parts for r in part[0].tolist())
                }
                stacked = torch.cat([part[1] for part in parts])
                del parts
                order = torch.tensor([position[row] for row in usable], dtype=torch.int64)
                same = len(order) == len(stacked) and bool((order == torch.arange(len(order))).all())
                values[encoder, name] = stacked if same else stacked[order]
        broken = tuple((self.source.refs[row].id, self.broken[row]) for row in sorted(self.broken))
        return Extraction(indices, values, broken, self.hits, self.misses)

    def _cached(self, encoder: str, job: ExtractionJob) -> bool:
        if self.cache is None:
            return False
        key, dim = self._key(encoder, job), self.encoders[encoder].dim
        shard = self.cache.load(key, images=len(job.rows), dim=dim)
        if shard is None:
            return False
        with self.lock:
            self.hits += 1
            self._take(encoder, job, shard)
        return True

    def _take(self, encoder: str, job: ExtractionJob, shard: Shard) -> None:
        rows = torch.tensor(job.rows, dtype=torch.int64)
        self.parts.setdefault((encoder, job.name), []).append((rows[shard.kept], shard.features))
        self.broken.update((job.rows[position], reason) for position, reason in shard.broken)
        self.advance(len(job.rows))

    def _key(self, encoder: str, job: ExtractionJob) -> dict[str, Any]:
        return feature_key(self.source, self.encoders[encoder], job, self.batch_size)


def rows_of(request: Request, count: int) -> list[int]:
    """Return the images that a request wants of ``count``.

    Raises:
        UsageError: One is outside the source.
    """
    rows = list(range(count)) if request.indices is None else [int(index) for index in request.indices]
    outside = next((row for row in rows if not 0 <= row < count), None)
    if outside is not None:
        raise UsageError(f"image {outside} of {request.name!r} is outside the source of {count} images")
    return rows


def _report_broken(
    source: ImageSource,
    requested: int,
    listed: Sequence[tuple[str, str]],
    broken: Mapping[int, str],
    max_share: float,
    progress: Progress,
) -> None:
    """Warn about unusable images, or raise where they are too many; put ``skipped`` into a fixed order."""
    decoded = {source.refs[row].id: broken[row] for row in sorted(broken)}
    skipped = {name: reason for name, reason in listed if name not in decoded}
    outside = len(skipped.keys() - {ref.id for ref in source.refs}) if skipped else 0
    skipped.update(decoded)
    source.skipped[:] = skipped.items()
    if not skipped:
        return
    # images that an earlier call found broken and this one did not ask for are no part of its share
    elsewhere = {ref.id for ref in source.refs} - decoded.keys()
    counted = {name: reason for name, reason in skipped.items() if name not in elsewhere}
    if not counted:
        return
    total = requested + outside
    named = "; ".join(f"{name}: {reason}" for name, reason in list(counted.items())[:_NAMED])
    rest = f"; and {len(counted) - _NAMED} more" if len(counted) > _NAMED else ""
    message = f"{len(counted)} of {total} images cannot be used ({named}{rest})"
    if len(counted) > max_share * total or len(decoded) == requested:
        raise UsageError(f"{message}; at most {max_share:.0%} may be broken: repair or remove them")
    progress.warn(message)
