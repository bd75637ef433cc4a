"""Images of a data set on the Hub, streamed at a pinned commit through the ``datasets`` library."""

import os
import random
import re
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image

from platodef_cli.errors import HubError, PlatodefError, UsageError
from platodef_cli.images.columns import Columns
from platodef_cli.images.decode import ImageError, decode
from platodef_cli.images.interface import ImageRef
from platodef_cli.images.rows import Skipped, cell_bytes, digest, label_notes, labelled_refs, row_id

FORM = "hf://datasets/org/name[@revision][:split]"
HELD_OUT_FIRST = ("validation", "test", "train")
MAX_SPOOL_BYTES = 16 * 2**30
_WINDOW = 10  # with a limit, so many times more rows are read for the draw,
_LEAST_WINDOW = 5000  # and at least this many

_URI = re.compile(
    r"hf://datasets/(?P<repo>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[^:@]+))?(?::(?P<split>[\w.-]+))?"
)


@dataclass(frozen=True)
class _Stored:
    """Where the bytes of one image lie in the spool file."""

    start: int
    size: int


class DatasetsSource:
    """A Hub data set as an :class:`~platodef_cli.images.interface.ImageSource`.

    The rows are streamed once into a temporary file, which is gone when the process ends. With a
    limit, the images are a uniform draw from the first ``max(10 * limit, 5000)`` rows, so that a large
    data set is not downloaded as a whole.
    """

    def __init__(
        self,
        uri: str,
        *,
        limit: int | None = None,
        seed: int = 0,
        offline: bool = False,
        columns: Columns | None = None,
    ):
        """Resolve the revision to a commit, then stream, hash and store the images.

        Args:
            uri: ``hf://datasets/org/name[@revision][:split]``; without a split the first of
                validation, test and train.
            limit: Number of images to draw.
            seed: Of the draw.
            offline: The network must not be used.
            columns: Names of the columns.

        Raises:
            UsageError: The address is malformed, the split or image column is missing, there is no usable
                image, or the network would be needed offline.
            HubError: The Hub did not serve the data set.
        """
        match = _URI.fullmatch(uri)
        if match is None:
            raise UsageError(f"{uri!r} is not a data set address; give {FORM}")
        if offline:
            raise UsageError(
                f"{uri!r} needs the network; save the images as .parquet or a folder and give that"
            )
        repo, split = match["repo"], match["split"]
        with _hub_errors(uri), _no_bars():
            commit = _resolve(repo, match["revision"])
            dataset, split = _stream(repo, commit, split)
            self._take(dataset, f"hf://datasets/{repo}@{commit}/", limit, seed, columns)
        self.uri = f"hf://datasets/{repo}@{commit}:{split}"

    @classmethod
    def from_stream(
        cls, dataset: Any, uri: str, *, paths: str = "", limit: int | None = None, seed: int = 0
    ) -> "DatasetsSource":
        """Take the images of a ``datasets`` object that is already open, streaming or not.

        Args:
            dataset: A ``Dataset`` or ``IterableDataset``.
            uri: What the report calls it.
            paths: Rows that hold a path instead of bytes are read if it starts with this prefix
                (of a folder or repository), and are broken otherwise; empty: always broken.
            limit: Number of images to draw.
            seed: Of the draw.

        Raises:
            UsageError: There is no image column, or no usable image.
        """
        source = cls.__new__(cls)
        source.uri = uri
        source._take(dataset, paths, limit, seed)
        return source

    def open(self, index: int) -> Image.Image:
        """Decode image ``index`` to RGB.

        Raises:
            ImageError: The image is broken; it is then also in ``skipped``.
        """
        stored, ref = self._stored[index], self.refs[index]
        try:
            return decode(self._read(stored), ref.id)
        except ImageError as error:
            self.skipped.append((ref.id, error.reason))
            raise

    def _take(
        self, dataset: Any, paths: str, limit: int | None, seed: int, columns: Columns | None = None
    ) -> None:
        import datasets

        columns = columns or Columns()
        image, label, names = _columns(dataset, columns)
        self.caption_column = columns.caption_of(list(dataset.features or {}), "the data set")
        captions: list[Any] = []
        if isinstance(dataset, datasets.IterableDataset):
            # Image folders on the Hub come with decoding threads of their own, which a cast leaves in place.
            dataset = dataset.decode(False)
        else:
            dataset = dataset.cast_column(image, datasets.Image(decode=False))
        with tempfile.TemporaryFile() as file:
            self._spool = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._spool)
        self._end, self._turn = 0, threading.Lock()
        self.skipped: Skipped = []
        rows: list[tuple[int, str, _Stored, Any]] = []
        for row, record in _draw(enumerate(dataset), limit, seed):
            try:
                data = _bytes(record[image], row_id(row), paths)
            except ImageError as error:
                self.skipped.append((error.name, error.reason))
                continue
            captions.append(None if self.caption_column is None else record[self.caption_column])
            rows.append((row, digest(data), self._store(data), None if label is None else record[label]))
        found = [(row_id(row), sha) for row, sha, _, _ in rows]
        cells = [cell for *_, cell in rows]
        self.notes = label_notes(cells, "the data set")
        self.classes, refs, kept = labelled_refs(found, cells, names, self.skipped, captions)
        self.refs: Sequence[ImageRef] = refs
        self._stored = [rows[position][2] for position in kept]
        if not refs:
            first = f" (first: {': '.join(self.skipped[0])})" if self.skipped else ""
            raise UsageError(f"the data set holds no usable image{first}; give another split or data set")

    def _store(self, data: bytes) -> _Stored:
        stored = _Stored(self._end, len(data))
        if self._end + len(data) > MAX_SPOOL_BYTES:
            raise UsageError(
                f"the data set holds more than {MAX_SPOOL_BYTES:,} bytes of images; take a part with --limit"
            )
        written = 0
        with self._turn:
            os.lseek(self._spool, stored.start, os.SEEK_SET)
            while written < len(data):
                written += os.write(self._spool, data[written:])
        self._end += len(data)
        return stored

    def _read(self, stored: _Stored) -> bytes:
        """Return the bytes of an image; threads take turns, because Windows cannot read at a place."""
        with self._turn:
            os.lseek(self._spool, stored.start, os.SEEK_SET)
            return os.read(self._spool, stored.size)


def _draw(rows: Iterable[tuple[int, Any]], limit: int | None, seed: int) -> Iterator[tuple[int, Any]]:
    """Yield all rows, or a uniform draw of ``limit`` of the first ones, in ascending order.

    The draw is a reservoir (Vitter 1985, algorithm R), since the number of rows is not known.
    """
    if limit is None:
        yield from rows
        return
    generator = random.Random(seed)
    reservoir: list[tuple[int, Any]] = []
    for row, record in rows:
        if row >= max(_WINDOW * limit, _LEAST_WINDOW):
            break
        if row < limit:
            reservoir.append((row, record))
        elif (place := generator.randrange(row + 1)) < limit:
            reservoir[place] = (row, record)
    yield from sorted(reservoir, key=lambda item: item[0])


def _columns(dataset: Any, columns: Columns) -> tuple[str, str | None, list[str] | None]:
    """Return the image column, the label column and the class names of a ``datasets`` object."""
    import datasets

    features = dataset.features or {}
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    if columns.image is not None:
        images = [name for name in images if name == columns.image]
    if not images:
        listed = ", ".join(features) or "unknown"
        raise UsageError(f"the data set has no image column (its columns: {listed}); give another data set")
    labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    label = columns.label_of(list(features), "the data set")
    if labels and columns.labels and columns.label is None:
        label = labels[0]
    return images[0], label, features[label].names if label in labels else None


def _bytes(cell: Any, name: str, paths: str) -> bytes:
    """Return the encoded bytes of a cell; a path is read only inside the data set itself."""
    path = cell.get("path") if isinstance(cell, dict) and cell.get("bytes") is None else None
    if not path or not paths:
        return cell_bytes(cell, name)
    from datasets.utils.file_utils import xopen

    # "zip://inner.jpg::hf://datasets/..." is a file inside an archive of the last part.
    place = path.rpartition("::")[2]
    if not place.startswith(paths) or ".." in place.split("/"):
        raise ImageError(name, f"it names a path outside the data set: {path[:80]}")
    try:
        with xopen(path, "rb") as file:
            data: bytes = file.read()
    except OSError as error:
        raise ImageError(name, f"it cannot be read: {error}"[:120], transient=True) from None
    return data


def _resolve(repo: str, revision: str | None) -> str:
    """Return the commit of a revision.

    Raises:
        HubError: There is no such data set or revision, or access is denied.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        sha = HfApi().dataset_info(repo, revision=revision).sha
    except GatedRepoError:  # a kind of RepositoryNotFoundError
        raise HubError(f"data set {repo} is gated; ask for access on the Hub and set HF_TOKEN") from None
    except RepositoryNotFoundError:
        raise HubError(
            f"data set {repo} does not exist, or is private; check its name, or set HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise HubError(
            f"data set {repo} has no revision {revision!r}; give a branch, tag or commit"
        ) from None
    if not sha:
        raise HubError(f"the Hub names no commit of data set {repo}; give a revision")
    return sha


def _stream(repo: str, commit: str, split: str | None) -> tuple[Any, str]:
    import datasets

    found = datasets.load_dataset(repo, revision=commit, streaming=True)
    chosen = split or next((name for name in HELD_OUT_FIRST if name in found), next(iter(found)))
    if chosen not in found:
        raise UsageError(f"data set {repo} has no split {chosen!r}; its splits: {', '.join(found)}")
    return found[chosen], chosen


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep the library's progress bars off the console, which belongs to the command line."""
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


@contextmanager
def _hub_errors(uri: str) -> Iterator[None]:
    """Turn the errors of the client libraries into one line each."""
    try:
        yield
    except (PlatodefError, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise HubError(f"cannot load {uri!r}: {text}") from error
