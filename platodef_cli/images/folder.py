"""Images of a folder; its sub-folders are the classes, where it has several."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from platodef_cli.errors import UsageError
from platodef_cli.images.columns import Columns, caption_cell
from platodef_cli.images.decode import MAX_BYTES, SUFFIXES, ImageError, decode
from platodef_cli.images.interface import ImageRef
from platodef_cli.images.metadata import read_metadata
from platodef_cli.images.rows import Skipped, digest, label_notes, labelled_refs, subset

OUTSIDE = "it is a link to a folder outside the given one"
_UNREAD = frozenset(
    ".heic .heif .jp2 .j2k .jxl .svg .tga .ico .psd .cr2 .nef .arw .dng .dcm .exr .hdr .eps .pdf".split()
)
"""Formats of images that are not decoded."""
_PACKED = frozenset(".zip .gz .tgz .7z .rar .xz .zst .bz2".split())
_SPLITS = frozenset({"train", "training", "test", "val", "valid", "validation", "dev"})


class FolderSource:
    """A folder as an :class:`~platodef_cli.images.interface.ImageSource`.

    With two or more sub-folders that hold images, each of them is a class (in the order of their
    names), at any depth inside; else the images have no labels. Files are told by their suffix; names
    that start with a dot, and links to folders, are ignored.
    """

    def __init__(
        self, path: str | Path, *, limit: int | None = None, seed: int = 0, columns: Columns | None = None
    ):
        """List and hash the images, in the order of their paths.

        Args:
            path: The folder.
            limit: Random subset of that many files.
            seed: Draws the subset.
            columns: The column of the labels in ``metadata.jsonl`` or ``.csv``, and whether labels are used.

        Raises:
            UsageError: The folder is missing, holds no usable image, or holds the splits of a data
                set side by side.
        """
        self._root = Path(path).absolute()
        self.uri = str(self._root)
        columns = columns or Columns()
        names, self.skipped, unread = _listing(self._root)
        self.notes = (*_notes(self.skipped, self._root), *unread)
        self.classes: tuple[str, ...] | None = None
        self._inside = ""
        chosen = [names[i] for i in subset(len(names), limit, seed)]
        self.caption_column: str | None = None
        said = self._captions(columns, names) if columns.captions else {}
        table = read_metadata(self._root, columns, images=names) if columns.labels else None
        if table is not None:
            found = [(ref.id, ref.digest) for ref in map(self._ref, chosen) if ref is not None]
            cells = [table.get(name) for name, _ in found]
            self.notes += label_notes(cells, self._root.name)
            self.classes, refs, _ = labelled_refs(found, cells, None, self.skipped)
            self.refs: Sequence[ImageRef] = refs
        else:
            self._inside = _around(names)
            self.classes = _classes(names, self._inside, self._root) if columns.labels else None
            self.refs = [ref for ref in map(self._ref, chosen) if ref is not None]
        if not self.refs:
            name, reason = self.skipped[0]
            raise UsageError(f"no image in {self._root} can be used (first: {name}: {reason})")
        if said:
            self.refs = [replace(ref, captions=caption_cell(said.get(ref.id))) for ref in self.refs]

    def _captions(self, columns: Columns, names: Sequence[str]) -> dict[str, Any]:
        """Return path -> caption of the metadata tables."""

        def pick(names: Sequence[str], where: str) -> str | None:
            found = columns.caption_of(names, where)
            self.caption_column = found or self.caption_column
            return found

        return read_metadata(self._root, columns, pick, names) or {}

    def open(self, index: int) -> Image.Image:
        """Decode image ``index`` to RGB.

        Raises:
            ImageError: The image is broken, gone or changed; it is then also in ``skipped``.
        """
        ref = self.refs[index]
        try:
            data = _read(self._root / ref.id, ref.id)
            if digest(data) != ref.digest:
                raise ImageError(ref.id, "the file changed after it was listed", transient=True)
            return decode(data, ref.id)
        except ImageError as error:
            self.skipped.append((ref.id, error.reason))
            raise

    def _ref(self, name: str) -> ImageRef | None:
        label = None
        if self.classes is not None:
            folder, separator, _ = name.removeprefix(self._inside).partition("/")
            if not separator:
                self.skipped.append((name, "it lies beside the class folders, not in one"))
                return None
            label = self.classes.index(folder)
        try:
            return ImageRef(name, digest(_read(self._root / name, name)), label)
        except ImageError as error:
            self.skipped.append((name, error.reason))
            return None


def _notes(skipped: Skipped, root: Path) -> tuple[str, ...]:
    """Say that folders were left out."""
    links = [name for name, reason in skipped if reason == OUTSIDE]
    if not links:
        return ()
    if len(links) > 1:
        what = f"{links[0]} and {len(links) - 1} more links lead out of it and are not followed"
    else:
        what = f"{links[0]}, a link, leads out of it and is not followed"
    return (f"{root}: {what}; give a folder that holds what it leads to, or copy that",)


def _listing(root: Path) -> tuple[list[str], Skipped, tuple[str, ...]]:
    """Return the relative paths of all image files, links that lead out, and a note of unread formats.

    Paths have forward slashes and are sorted.
    """
    if not root.is_dir():
        raise UsageError(f"image folder {root} does not exist; give a folder of images")
    found = []
    others = 0
    unread: list[str] = []
    outside: Skipped = []
    real = root.resolve()
    for folder, folders, files in os.walk(root, onerror=_cannot_list, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in [name for name in folders if Path(folder, name).is_symlink()]:
            target = Path(folder, name).resolve()
            if target.is_relative_to(real) and not Path(folder).resolve().is_relative_to(target):
                continue
            folders.remove(name)
            if not target.is_relative_to(real):
                outside.append((Path(folder, name).relative_to(root).as_posix(), OUTSIDE))
        for name in files:
            if name.startswith("."):
                continue
            path = Path(folder, name)
            if path.suffix.lower() in SUFFIXES:
                found.append(path.relative_to(root).as_posix())
            else:
                others += 1
                unread.append(path.suffix.lower())
    if not found:
        held = f"{others} other files" if others else "nothing"
        held += f", {len(outside)} links to folders outside of it" if outside else ""
        kinds = _unread(unread)
        held += f": {kinds}" if kinds else ""
        packed = sorted({suffix for suffix in unread if suffix in _PACKED})
        hint = f"; unpack the {packed[0]} first" if packed else ""
        raise UsageError(
            f"{root} holds no image ({held}); give a folder of .jpg, .png, .webp, .avif ... files, "
            f"or a .parquet file itself{hint}"
        )
    kinds = _unread(unread)
    notes = (f"{root}: {kinds}, which are not read; convert them, e.g. to PNG",) if kinds else ()
    return sorted(found), outside, notes


def _unread(suffixes: Sequence[str]) -> str:
    """Return in words how many images are of formats that are not decoded; empty where none are."""
    found = [suffix for suffix in suffixes if suffix in _UNREAD]
    return f"{len(found)} {'/'.join(sorted(set(found)))} files" if found else ""


def _around(names: Sequence[str]) -> str:
    """Return the folders, one in another, that hold all images and are no classes themselves: ``images/``."""
    inside = ""
    while True:
        tops = {name.removeprefix(inside).partition("/")[0] for name in names}
        below = all("/" in name.removeprefix(inside) for name in names)
        if len(tops) != 1 or not below:
            return inside
        inside += f"{tops.pop()}/"


def _cannot_list(error: OSError) -> None:
    raise UsageError(f"cannot list {error.filename}: {error.strerror}; make the folder readable") from None


def _classes(names: Sequence[str], inside: str, root: Path) -> tuple[str, ...] | None:
    """Return the names of the class folders, which lie in ``inside``."""
    root = root / inside
    names = [name.removeprefix(inside) for name in names]
    folders = sorted({name.partition("/")[0] for name in names if "/" in name})
    if len(folders) < 2:
        return None
    if {folder.lower() for folder in folders} <= _SPLITS:
        raise UsageError(
            f"the sub-folders of {root} are splits ({', '.join(folders)}), not classes; give one of them, "
            f"e.g. {root / folders[0]}"
        )
    return tuple(folders)


def _read(path: Path, name: str) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ImageError(name, f"{size:,} bytes, more than the limit of {MAX_BYTES:,}")
        if not path.is_file():  # a pipe or a device would block
            raise ImageError(name, "it is not a regular file")
        return path.read_bytes()
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise ImageError(name, f"it cannot be read: {reason}", transient=True) from None
