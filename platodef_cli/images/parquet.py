"""Images of one parquet file, as the Hub stores them: encoded bytes in a column."""

import json
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from platodef_cli.errors import UsageError
from platodef_cli.images.columns import Columns
from platodef_cli.images.decode import ImageError, decode
from platodef_cli.images.interface import ImageRef
from platodef_cli.images.rows import Skipped, cell_bytes, digest, label_notes, labelled_refs, row_id, subset
from platodef_cli.images.stubs import refuse_stub

MAX_GROUP_BYTES = 4 * 2**30
MAX_ROWS = 10_000_000
"""Rows that are listed without ``--limit``: every one takes some hundred bytes of memory."""
MAX_LABEL_BYTES = 2**30
MAX_EXPANSION = 1000
"""Times that cells may be larger than the file: encoded images do not shrink any more."""
_FREE_EXPANSION = 2**30  # bytes below which any share is allowed: the same image a few times
_BATCH_BYTES = 2**28
_BATCH_ROWS = 64


class ParquetSource:
    """A ``.parquet`` file as an :class:`~platodef_cli.images.interface.ImageSource`.

    The image column (``image``, ``img``, ``jpg`` ...) holds bytes or ``{bytes, path}`` structs; the optional
    label column holds integers or strings. One row group is held in memory at a time.

    Attributes:
        notes: What the user should know about the labels.
        caption_column: Column that the captions are from, or None.
    """

    def __init__(
        self, path: str | Path, *, limit: int | None = None, seed: int = 0, columns: Columns | None = None
    ):
        """List and hash the images.

        Args:
            path: The file.
            limit: Random subset of that many rows, in file order.
            seed: Draws the subset.
            columns: Names of the columns.

        Raises:
            UsageError: The file is missing, no parquet file, has no image column or no usable image.
        """
        self._path = Path(path).absolute()
        self.uri = str(self._path)
        self._file = _open_parquet(self._path)
        with _read_errors(self._path):
            schema = self._file.schema_arrow
            columns = columns or Columns()
            self._image, self._label = _columns(schema, self._path, columns)
            self.caption_column = columns.caption_of(schema.names, str(self._path))
        metadata = self._file.metadata
        if metadata.num_rows > MAX_ROWS and limit is None:
            raise UsageError(
                f"{self._path} says that it has {metadata.num_rows:,} rows, more than {MAX_ROWS:,}; take "
                "some of them with --limit"
            )
        self._unpacked: dict[int, int] = {}
        sizes = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]
        if min(sizes, default=0) < 0 or sum(sizes) != metadata.num_rows:
            raise UsageError(
                f"cannot read {self._path} as parquet: it says that it has {metadata.num_rows} rows, and its "
                f"row groups say {sum(sizes)}"
            )
        self._starts = [0, *accumulate(sizes)]
        self._lock = threading.Lock()
        self._group: tuple[int, pa.ChunkedArray] | None = None
        self.skipped: Skipped = []
        found, cells, rows = self._list(subset(metadata.num_rows, limit, seed))
        names = _class_names(schema, self._label)
        self.notes = label_notes(cells, self._path.name)
        captions = self._values(self.caption_column)
        said = None if captions is None else [captions[row] for row in rows]
        self.classes, refs, kept = labelled_refs(found, cells, names, self.skipped, said)
        self.refs: Sequence[ImageRef] = refs
        self._rows = [rows[position] for position in kept]
        if not refs:
            first = f" (first: {': '.join(self.skipped[0])})" if self.skipped else ""
            raise UsageError(f"{self._path} holds no usable image{first}; give a file with image bytes")

    def open(self, index: int) -> Image.Image:
        """Decode image ``index`` to RGB.

        Raises:
            ImageError: The image is broken; it is then also in ``skipped``.
        """
        ref = self.refs[index]
        try:
            data = cell_bytes(self._cell(self._rows[index]), ref.id)
            if digest(data) != ref.digest:
                raise ImageError(ref.id, "the file changed after it was listed", transient=True)
            return decode(data, ref.id)
        except ImageError as error:
            self.skipped.append((ref.id, error.reason))
            raise

    def _list(self, rows: list[int]) -> tuple[list[tuple[str, str]], list[Any], list[int]]:
        """Return (id, digest), label cell and row number of every row that holds bytes."""
        found: list[tuple[str, str]] = []
        cells: list[Any] = []
        usable: list[int] = []
        labels = self._values(self._label)
        for row, cell in self._cells(rows):
            name = row_id(row)
            try:
                found.append((name, digest(cell_bytes(cell, name))))
            except ImageError as error:
                self.skipped.append((name, error.reason))
                continue
            cells.append(None if labels is None else labels[row])
            usable.append(row)
        return found, cells, usable

    def _values(self, name: str | None) -> list[Any] | None:
        """Return all cells of a column of labels or captions."""
        if name is None:
            return None
        cells: list[Any] = []
        for number in range(self._file.metadata.num_row_groups):
            column = self._unpack(number, name, MAX_LABEL_BYTES)
            cells += column.to_pylist()
        return cells

    def _cells(self, rows: list[int]) -> Iterator[tuple[int, Any]]:
        for row in rows:
            yield row, self._cell(row)

    def _cell(self, row: int) -> Any:
        group = bisect_right(self._starts, row) - 1
        with self._lock:
            if self._group is None or self._group[0] != group:
                self._group = None  # free the old group before the new one is read
                self._group = (group, self._read(group))
            column = self._group[1]
        return column[row - self._starts[group]].as_py()

    def _read(self, group: int) -> pa.ChunkedArray:
        size = self._file.metadata.row_group(group).total_byte_size
        if size > MAX_GROUP_BYTES:
            raise UsageError(
                f"row group {group} of {self._path} unpacks to {size:,} bytes, more than "
                f"{MAX_GROUP_BYTES:,}; write the file with smaller row groups"
            )
        here = self._path.stat().st_size
        others = sum(size for number, size in self._unpacked.items() if number != group)
        left = max(_FREE_EXPANSION, MAX_EXPANSION * here) - others
        if left < MAX_GROUP_BYTES:
            advice = (
                f"{MAX_EXPANSION} times its {here:,} bytes, which encoded images do not; store the images"
            )
            column = self._unpack(group, self._image, left, advice)
        else:
            column = self._unpack(group, self._image, MAX_GROUP_BYTES)
        self._unpacked[group] = column.nbytes
        return column

    def _unpack(self, group: int, name: str, most: int, than: str = "") -> pa.ChunkedArray:
        """Read a column of a row group a few rows at a time: what the file says of its size may be wrong.

        A cell that is stored once and used by every row counts once in the file, and in memory each time.

        Args:
            group: The row group.
            name: The column.
            most: Bytes.
            than: What that is and what to do, where it is not the limit of a row group.

        Raises:
            UsageError: It takes more than ``most`` bytes, has other rows than announced, or is damaged.
        """
        metadata = self._file.metadata.row_group(group)
        stored = max(1, metadata.total_byte_size)
        rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // stored))
        chunks: list[pa.Array] = []
        size = 0
        with _read_errors(self._path):
            for batch in self._file.iter_batches(rows, row_groups=[group], columns=[name]):
                size += batch.nbytes
                if size > most:
                    than = than or f"{most:,} bytes; write the file with smaller row groups"
                    raise UsageError(
                        f"column {name!r} of {self._path} unpacks to more than {than} (row group {group})"
                    )
                chunks.append(batch.column(0))
        column = pa.chunked_array(chunks) if chunks else pa.chunked_array([], pa.null())
        if len(column) != metadata.num_rows:
            raise UsageError(
                f"cannot read {self._path} as parquet: row group {group} holds {len(column)} of its "
                f"{metadata.num_rows} rows"
            )
        return column


def rows_of(path: Path) -> int:
    """Return the number of rows of a parquet file.

    Raises:
        UsageError: It is none.
    """
    rows: int = _open_parquet(path).metadata.num_rows
    return rows


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    """Turn pyarrow's errors into one line."""
    try:
        yield
    except (pa.ArrowException, OSError, RecursionError, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())[:160]
        raise UsageError(f"cannot read {path} as parquet: {text}") from None


def _open_parquet(path: Path) -> pq.ParquetFile:
    if not path.is_file():
        raise UsageError(
            f"image file {path} does not exist; give a folder, a .parquet file or builtin:shapes"
        )
    refuse_stub(path)
    with _read_errors(path):
        return pq.ParquetFile(path)


def _columns(schema: pa.Schema, path: Path, columns: Columns) -> tuple[str, str | None]:
    """Return the names of the image column and of the label column."""
    holders = [field.name for field in schema if _holds_bytes(field.type)]
    image = columns.image_of(schema.names, str(path), holders)
    if not _holds_bytes(schema.field(image).type):
        kind = str(schema.field(image).type)
        raise UsageError(
            f"column {image!r} of {path} is {kind[:80]}, not image bytes or a {{bytes, path}} struct; store "
            "the encoded images in it, or name another one with --image-column"
        )
    return image, columns.label_of(schema.names, str(path))


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _class_names(schema: pa.Schema, label: str | None) -> tuple[str, ...] | None:
    """Return the class names that the ``datasets`` library stored in the file, if any."""
    try:
        stored = json.loads((schema.metadata or {})[b"huggingface"])
        names = stored["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) else None
