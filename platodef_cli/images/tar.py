"""Images of a tar of samples, as WebDataset writes them: ``KEY.jpg`` beside ``KEY.cls``."""

import json
import os
import tarfile
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from PIL import Image

from platodef_cli.errors import UsageError
from platodef_cli.images.columns import Columns
from platodef_cli.images.decode import MAX_BYTES, SUFFIXES, ImageError, decode
from platodef_cli.images.interface import ImageRef
from platodef_cli.images.rows import Skipped, digest, label_notes, labelled_refs, number_or_text, subset
from platodef_cli.images.stubs import refuse_stub

_MOST_MEMBERS = 2_000_000
_MOST_LABEL_BYTES = 64 * 1024


class TarSource:
    """An uncompressed ``.tar`` as an :class:`~platodef_cli.images.interface.ImageSource`.

    Every member with the suffix of an image is one; ``KEY.cls`` beside it holds its label, or ``KEY.json``
    with a ``label``; captions are ``KEY.txt``, or a ``caption`` in ``KEY.json``. Members are read in place,
    so that neither paths nor links in the archive lead anywhere.
    """

    def __init__(
        self, path: str | Path, *, limit: int | None = None, seed: int = 0, columns: Columns | None = None
    ):
        """List and hash the images, in the order of the archive.

        Args:
            path: The file.
            limit: Random subset of that many images.
            seed: Draws the subset.
            columns: Whether labels are used, and the key of the label in ``KEY.json``.

        Raises:
            UsageError: It is no tar, or holds no usable image.
        """
        self._path, columns = Path(path).absolute(), columns or Columns()
        self.uri = str(self._path)
        self.skipped: Skipped = []
        self._lock = threading.Lock()
        refuse_stub(self._path)
        try:
            self._stream = self._path.open("rb")
            weakref.finalize(self, self._stream.close)
            images, sides = _members(self._stream, self._path)
        except (tarfile.TarError, OSError, EOFError) as error:
            raise UsageError(
                f"cannot read {self._path} as tar: {str(error)[:120] or type(error).__name__}"
            ) from None
        chosen = [images[number] for number in subset(len(images), limit, seed)]
        self.caption_column: str | None = None
        found, cells, kept, said = [], [], [], []
        for name, start, size in chosen:
            try:
                found.append((name, digest(self._read(name, start, size))))
            except ImageError as error:
                self.skipped.append((name, error.reason))
                continue
            cells.append(self._label(name, sides, columns) if columns.labels else None)
            said.append(self._caption(name, sides, columns) if columns.captions else None)
            kept.append((start, size))
        self.notes = label_notes(cells, self._path.name)
        self.classes, refs, positions = labelled_refs(found, cells, None, self.skipped, said)
        self.refs: Sequence[ImageRef] = refs
        self._places = [kept[position] for position in positions]
        if not refs:
            first = f" (first: {': '.join(self.skipped[0])})" if self.skipped else ""
            raise UsageError(
                f"{self._path} holds no usable image{first}; give a tar of KEY.jpg and KEY.cls files"
            )

    def open(self, index: int) -> Image.Image:
        """Decode image ``index`` to RGB.

        Raises:
            ImageError: The image is broken; it is then also in ``skipped``.
        """
        ref, (start, size) = self.refs[index], self._places[index]
        try:
            data = self._read(ref.id, start, size)
            if digest(data) != ref.digest:
                raise ImageError(ref.id, "the file changed after it was listed", transient=True)
            return decode(data, ref.id)
        except ImageError as error:
            self.skipped.append((ref.id, error.reason))
            raise

    def _read(self, name: str, start: int, size: int) -> bytes:
        if size > MAX_BYTES:
            raise ImageError(name, f"{size:,} bytes, more than the limit of {MAX_BYTES:,}")
        with self._lock:
            self._stream.seek(start)
            return self._stream.read(size)

    def _label(self, name: str, sides: dict[str, tuple[int, int]], columns: Columns) -> Any:
        """Return the label beside an image."""
        key = _key(name)
        place = next((sides[f"{key}{end}"] for end in (".cls", ".cls.txt") if f"{key}{end}" in sides), None)
        if place:
            try:
                return number_or_text(self._read(name, *place).decode("utf-8"))
            except UnicodeDecodeError:
                return None  # a pickle, as older writers store numbers
        return self._record(name, sides).get(columns.label or "label")

    def _caption(self, name: str, sides: dict[str, tuple[int, int]], columns: Columns) -> Any:
        """Return the caption beside an image: ``KEY.txt``, or the column of ``KEY.json``."""
        key = _key(name)
        if columns.caption in (None, "txt") and f"{key}.txt" in sides:
            self.caption_column = "txt"
            return self._read(name, *sides[f"{key}.txt"])
        record = self._record(name, sides)
        column = columns.caption or columns.caption_of(list(record), name)
        if column in record:
            self.caption_column = column
        return record.get(column)

    def _record(self, name: str, sides: dict[str, tuple[int, int]]) -> dict[Any, Any]:
        """Return ``KEY.json`` beside an image; empty where there is none."""
        place = sides.get(f"{_key(name)}.json")
        try:
            record = json.loads(self._read(name, *place)) if place else {}
        except (ValueError, RecursionError):
            return {}
        return record if isinstance(record, dict) else {}


def _key(name: str) -> str:
    """Return the key of a sample, which ends at the first dot of its file name."""
    path = PurePosixPath(name)
    return str(path.with_name(path.name.partition(".")[0]))


def members_of(path: Path) -> int:
    """Return the number of images that a tar lists.

    Raises:
        UsageError: It is no tar.
    """
    try:
        with path.open("rb") as stream:
            return len(_members(stream, path)[0])
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UsageError(f"cannot read {path} as tar: {str(error)[:120] or type(error).__name__}") from None


def _members(stream: BinaryIO, path: Path) -> tuple[list[tuple[str, int, int]], dict[str, tuple[int, int]]]:
    """Return (name, place, size) of the images, and name -> place and size of what may hold labels."""
    images: list[tuple[str, int, int]] = []
    sides: dict[str, tuple[int, int]] = {}
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        for number, member in enumerate(archive):
            if number >= _MOST_MEMBERS:
                raise UsageError(f"{path} holds more than {_MOST_MEMBERS:,} files; split it")
            if not member.isreg() or PurePosixPath(member.name).name.startswith("."):
                continue
            suffix = PurePosixPath(member.name).suffix.lower()
            if suffix in SUFFIXES:
                images.append((member.name, member.offset_data, member.size))
            elif suffix in (".cls", ".json", ".txt") and member.size <= _MOST_LABEL_BYTES:
                ends = PurePosixPath(member.name).name.partition(".")[2].lower()
                sides[f"{_key(member.name)}.{ends}"] = (member.offset_data, member.size)
        # tarfile takes a piece of a header for the end, and the images after it would be missing in silence
        if 0 < stream.seek(0, os.SEEK_END) - archive.offset < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it ends inside a header, so it was not written or downloaded to its end")
    return images, sides
