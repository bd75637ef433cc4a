"""From what the user writes to an image source."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl

from PIL import Image

from platodef_cli.errors import UsageError
from platodef_cli.images import SOURCES
from platodef_cli.images.columns import Columns
from platodef_cli.images.interface import ImageRef, ImageSource, caption_column
from platodef_cli.images.rows import subset
from platodef_cli.plugins import blaming
from platodef_cli.registry import shortcomings

KINDS = "a folder, a .parquet or .tar file, hf://datasets/org/name[@revision][:split] or builtin:shapes"


def open_source(
    uri: str,
    *,
    limit: int | None = None,
    seed: int = 0,
    offline: bool = False,
    columns: Columns | None = None,
    warn: Callable[[str], None] | None = None,
) -> ImageSource:
    """Open images, and tell what the user should know about them.

    Args:
        uri: What the user wrote.
        limit: Take a random subset of that many images, in the order of the source.
        seed: Draws the subset.
        offline: Never use the network.
        columns: Names of the columns of a table, and whether labels are used.
        warn: Told every note of the source.

    Raises:
        UsageError: There is no such source, it holds no usable image, or the limit is below 1.
    """
    columns = columns or Columns()
    source = _open(uri, limit, seed, offline, columns)
    for note in getattr(source, "notes", ()) if warn else ():
        assert warn is not None
        warn(note)
    if columns.labels or source.classes is None:
        return source
    bare: ImageSource = Unlabelled(source)
    return bare


def _open(uri: str, limit: int | None, seed: int, offline: bool, columns: Columns) -> ImageSource:
    """Open a folder, a ``.parquet`` file, ``hf://datasets/...`` or ``builtin:shapes[?seed=..&count=..]``.

    ``NAME://...`` is for the source that a plug-in calls NAME; it gets all of the arguments but the columns.
    """
    if not uri:
        raise UsageError(f"the image source is empty; give {KINDS}")
    if limit is not None and limit < 1:
        raise UsageError(f"the limit of images is {limit}; give at least 1")
    source: ImageSource
    if uri.startswith("builtin:"):
        source = _builtin(uri, columns)
        return source if limit is None or limit >= len(source.refs) else Subset(source, limit, seed)
    if uri.startswith("hf://"):
        source = SOURCES.load("datasets")(uri, limit=limit, seed=seed, offline=offline, columns=columns)
    elif "://" in uri:
        scheme = uri.partition("://")[0]
        if scheme not in SOURCES.plugins():
            raise UsageError(f"image source {uri!r} has an unknown scheme; give {KINDS}")
        opened = SOURCES.load(scheme)
        with blaming(SOURCES.plugin(scheme)):
            source = opened(uri, limit=limit, seed=seed, offline=offline)
            wrong = shortcomings(source, ("uri: str", "classes", "refs", "skipped", "open(index)"))
            if wrong:
                raise TypeError(f"what it opened is no image source: {wrong}")
    elif Path(uri).is_dir():
        kind = "shards" if _only_shards(Path(uri)) else "folder"
        source = SOURCES.load(kind)(uri, limit=limit, seed=seed, columns=columns)
    elif not Path(uri).exists():
        raise UsageError(f"image source {uri!r} does not exist{_pattern(uri)}; give {KINDS}")
    elif Path(uri).suffix.lower() == ".parquet":
        source = SOURCES.load("parquet")(uri, limit=limit, seed=seed, columns=columns)
    elif Path(uri).suffix.lower() == ".tar":
        source = SOURCES.load("tar")(uri, limit=limit, seed=seed, columns=columns)
    else:
        raise UsageError(
            f"image source {uri!r} is neither a folder nor a .parquet or .tar{_single(Path(uri))}; "
            f"give {KINDS}"
        )
    return source


def _pattern(uri: str) -> str:
    """Return a hint where a path that does not exist is a pattern of shells and of webdataset."""
    found = any(mark in uri for mark in "*?{[")
    return (
        f", and patterns are not expanded: give the folder of the shards, {str(Path(uri).parent)!r}"
        if found
        else ""
    )


def _single(path: Path) -> str:
    """Return a hint for a file that holds images in another way."""
    from platodef_cli.images.decode import SUFFIXES

    if path.suffix.lower() in SUFFIXES:
        return f" but one image (give its folder, {str(path.parent)!r})"
    if path.suffix.lower() in (".zip", ".gz", ".tgz", ".7z", ".rar", ".xz", ".zst", ".bz2"):
        return " but packed (unpack it first)"
    if path.suffix.lower() in (".arrow", ".feather", ".npz", ".npy", ".h5", ".csv", ".json", ".jsonl"):
        return " (write the encoded images into a parquet file, e.g. with datasets' to_parquet)"
    return ""


def _only_shards(folder: Path) -> bool:
    """Tell whether a folder holds shards, and no images where they lie or below."""
    from platodef_cli.images.decode import SUFFIXES
    from platodef_cli.images.shards import shards_below, shards_of

    try:
        if shards_of(folder):
            return not any(entry.suffix.lower() in SUFFIXES for entry in folder.iterdir())
        return bool(shards_below(folder)) and not any(
            Path(name).suffix.lower() in SUFFIXES for _, _, names in os.walk(folder) for name in names
        )
    except OSError:
        return False  # the folder source says what is wrong


class Unlabelled:
    """Another source without its labels."""

    def __init__(self, source: ImageSource):
        self._source = source
        self.uri, self.skipped = source.uri, source.skipped
        self.classes: tuple[str, ...] | None = None
        self.refs: Sequence[ImageRef] = [replace(ref, label=None) for ref in source.refs]
        self.caption_column = caption_column(source)

    def open(self, index: int) -> Image.Image:
        """Decode image ``index`` to RGB; see :class:`~platodef_cli.images.interface.ImageSource`."""
        return self._source.open(index)


class Subset:
    """A random part of another source, in its order."""

    def __init__(self, source: ImageSource, limit: int, seed: int):
        self._source = source
        self._rows = subset(len(source.refs), limit, seed)
        self.uri = source.uri
        self.classes = source.classes
        self.refs: Sequence[ImageRef] = [source.refs[row] for row in self._rows]
        self.skipped = source.skipped
        self.caption_column = caption_column(source)

    def open(self, index: int) -> Image.Image:
        """Decode image ``index`` to RGB; see :class:`~platodef_cli.images.interface.ImageSource`."""
        return self._source.open(self._rows[index])


def _builtin(uri: str, columns: Columns) -> ImageSource:
    name, _, query = uri.removeprefix("builtin:").partition("?")
    if name != "shapes":
        raise UsageError(f"unknown built-in images {uri!r}; the only built-in images are builtin:shapes")
    known = ("seed", "count", "size")
    arguments: dict[str, int] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in known:
            raise UsageError(f"unknown option {key!r} in {uri!r}; the options are {', '.join(known)}")
        try:
            arguments[key] = int(value)
        except ValueError:
            raise UsageError(f"option {key}={value!r} in {uri!r} is not a whole number") from None
    source: ImageSource
    if columns.captions:
        from platodef_cli.images.shape_sentences import DescribedShapes

        source = DescribedShapes(**arguments, columns=columns)
    else:
        source = SOURCES.load("shapes")(**arguments)
    return source
