"""Images of a folder; its sub-folders are the classes, where it has several."""

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from platodef_cli.errors import UsageError
from platodef_cli.images.decode import MAX_BYTES, SUFFIXES, ImageError, decode
from platodef_cli.images.interface import ImageRef
from platodef_cli.images.rows import Skipped, digest, subset

_SPLITS = frozenset({"train", "training", "test", "val", "valid", "validation", "dev"})


class FolderSource:
    """A folder as an :class:`~platodef_cli.images.interface.ImageSource`.

    With two or more sub-folders that hold images, each of them is a class (in the order of their
    names), at any depth inside; else the images have no labels. Files are told by their suffix; names
    that start with a dot, and links to folders, are ignored.
    """

    def __init__(self, path: str | Path, *, limit: int | None = None, seed: int = 0):
        """List and hash the images, in the order of their paths.

        Args:
            path: The folder.
            limit: Random subset of that many files.
            seed: Draws the subset.

        Raises:
            UsageError: The folder is missing, holds no usable image, or holds the splits of a data
                set side by side.
        """
        self._root = Path(path).absolute()
        self.uri = str(self._root)
        self.skipped: Skipped = []
        names = _listing(self._root)
        self.classes = _classes(names, self._root)
        chosen = [names[i] for i in subset(len(names), limit, seed)]
        self.refs: Sequence[ImageRef] = [ref for ref in map(self._ref, chosen) if ref is not None]
        if not self.refs:
            name, reason = self.skipped[0]
            raise UsageError(f"no image in {self._root} can be used (first: {name}: {reason})")

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
            folder, separator, _ = name.partition("/")
            if not separator:
                self.skipped.append((name, "it lies beside the class folders, not in one"))
                return None
            label = self.classes.index(folder)
        try:
            return ImageRef(name, digest(_read(self._root / name, name)), label)
        except ImageError as error:
            self.skipped.append((name, error.reason))
            return None


def _listing(root: Path) -> list[str]:
    """Return the relative paths, with forward slashes, of all image files, sorted."""
    if not root.is_dir():
        raise UsageError(f"image folder {root} does not exist; give a folder of images")
    found = []
    others = 0
    for folder, folders, files in os.walk(root, onerror=_cannot_list):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.startswith("."):
                continue
            path = Path(folder, name)
            if path.suffix.lower() in SUFFIXES:
                found.append(path.relative_to(root).as_posix())
            else:
                others += 1
    if not found:
        held = f"{others} other files" if others else "nothing"
        raise UsageError(
            f"{root} holds no image ({held}); give a folder of {', '.join(sorted(SUFFIXES)[:6])} ... files, "
            "or a .parquet file itself"
        )
    return sorted(found)


def _cannot_list(error: OSError) -> None:
    raise UsageError(f"cannot list {error.filename}: {error.strerror}; make the folder readable") from None


def _classes(names: Sequence[str], root: Path) -> tuple[str, ...] | None:
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
