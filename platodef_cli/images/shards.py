"""Images of several files, as data sets are stored: parquet or tar shards, in the order of their names."""

import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path

from PIL import Image

from platodef_cli.errors import UsageError
from platodef_cli.images.columns import Columns
from platodef_cli.images.decode import ImageError
from platodef_cli.images.interface import ImageRef, ImageSource, caption_column
from platodef_cli.images.parquet import ParquetSource, rows_of
from platodef_cli.images.rows import Skipped, subset
from platodef_cli.images.tar import TarSource, members_of

SUFFIXES = (".parquet", ".tar")
_SPLITS = ("train", "training", "test", "val", "valid", "validation", "dev")


class ShardsSource:
    """A folder of ``.parquet`` or ``.tar`` files as an :class:`~platodef_cli.images.interface.ImageSource`.

    Ids are those of the files behind their names: ``train-00001.parquet/row-000012``.
    """

    def __init__(
        self, path: str | Path, *, limit: int | None = None, seed: int = 0, columns: Columns | None = None
    ):
        """Open every shard.

        Args:
            path: The folder.
            limit: Random subset of that many images.
            seed: Draws the subset.
            columns: Names of the columns.

        Raises:
            UsageError: There are none, or none can be used, or some have labels and others not.
        """
        root = Path(path).absolute()
        self.uri = str(root)
        files = shards_of(root) or shards_below(root)
        if not files:
            raise UsageError(f"{root} holds no {' or '.join(SUFFIXES)} file")
        self.skipped: Skipped = []
        self._shards: list[ImageSource] = []
        refs: list[ImageRef] = []
        notes: list[str] = _splits(files, root)
        for file, part in zip(files, _parts(files, limit, seed), strict=True):
            if part == 0:
                continue
            kind = ParquetSource if file.suffix.lower() == ".parquet" else TarSource
            shard: ImageSource = kind(file, limit=part, seed=seed, columns=columns)
            self._shards.append(shard)
            name = file.relative_to(root).as_posix()
            self.skipped += [(f"{name}/{row}", reason) for row, reason in shard.skipped]
            refs += [replace(ref, id=f"{name}/{ref.id}") for ref in shard.refs]
            notes += [note.replace(file.name, name, 1) for note in getattr(shard, "notes", ())]
        self.notes = (*notes[:3], *([f"{len(notes) - 3} more shards say so"] if len(notes) > 3 else []))
        self.classes, labels = _joined(self._shards, root)
        self.refs: Sequence[ImageRef] = [
            replace(ref, label=label) for ref, label in zip(refs, labels, strict=True)
        ]
        self.caption_column = next(filter(None, (caption_column(shard) for shard in self._shards)), None)
        self._starts = [0, *accumulate(len(shard.refs) for shard in self._shards)]

    def open(self, index: int) -> Image.Image:
        """Decode image ``index`` to RGB; see :class:`~platodef_cli.images.interface.ImageSource`."""
        number = next(n for n, start in enumerate(self._starts[1:]) if index < start)
        try:
            return self._shards[number].open(index - self._starts[number])
        except ImageError as error:
            name = self.refs[index].id
            self.skipped.append((name, error.reason))
            raise ImageError(name, error.reason, transient=error.transient) from None


def shards_of(folder: Path) -> list[Path]:
    """Return the shards at the top of a folder, sorted by name."""
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.suffix.lower() in SUFFIXES and not entry.name.startswith(".") and entry.is_file()
    )


def shards_below(folder: Path) -> list[Path]:
    """Return the shards in the folders below a folder, as the Hub stores data sets (``data/``), by path."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(place, name)
            for name in names
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
        ]
    return sorted(found)


def _splits(files: Sequence[Path], root: Path) -> list[str]:
    """Return a note where the files are of several splits, as their names or folders say."""
    parts = {
        part
        for file in files
        for word in file.relative_to(root).with_suffix("").parts
        if (part := word.lower().partition("-")[0]) in _SPLITS
    }
    if len(parts) < 2:
        return []
    return [f"{root}: takes the images of all its splits ({', '.join(sorted(parts))}); give a folder of one"]


def _parts(files: Sequence[Path], limit: int | None, seed: int) -> list[int | None]:
    """Return how many images each shard gives; None for all."""
    if limit is None:
        return [None] * len(files)
    starts = [0, *accumulate(map(_rows, files))]
    drawn = subset(starts[-1], limit, seed)
    return [sum(first <= row < last for row in drawn) for first, last in pairwise(starts)]


def _rows(file: Path) -> int:
    """Return how many images a shard lists, without reading them."""
    return rows_of(file) if file.suffix.lower() == ".parquet" else members_of(file)


def _joined(shards: Sequence[ImageSource], root: Path) -> tuple[tuple[str, ...] | None, list[int | None]]:
    """Return the classes of all shards, and the labels in them; names are joined, not numbers."""
    labelled = [shard.classes is not None for shard in shards]
    if not any(labelled):
        return None, [None for shard in shards for _ in shard.refs]
    if not all(labelled):
        raise UsageError(f"some shards in {root} have labels and others none; give --no-labels")
    longest = max((shard.classes or () for shard in shards), key=len)
    numbered = all(longest[: len(shard.classes or ())] == shard.classes for shard in shards)
    names = longest if numbered else tuple(sorted({name for shard in shards for name in shard.classes or ()}))
    index = {name: number for number, name in enumerate(names)}
    labels = [
        None if ref.label is None else index[(shard.classes or ())[ref.label]]
        for shard in shards
        for ref in shard.refs
    ]
    return names, labels
