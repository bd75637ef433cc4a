"""What tabular sources (parquet, datasets) share: image cells, label cells, subsets."""

import hashlib
import random
from collections.abc import Sequence
from typing import Any

from platodef_cli.errors import UsageError
from platodef_cli.images.decode import ImageError
from platodef_cli.images.interface import ImageRef

Skipped = list[tuple[str, str]]


def row_id(row: int) -> str:
    """Return the id of a row: ``row-000012``."""
    return f"row-{row:06d}"


def digest(data: bytes) -> str:
    """Return the SHA-256 of ``data`` in hex."""
    return hashlib.sha256(data).hexdigest()


def subset(count: int, limit: int | None, seed: int) -> list[int]:
    """Return ``limit`` of the numbers ``0..count-1``, drawn by ``seed``, in ascending order.

    Raises:
        UsageError: ``limit`` is below 1.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"the limit of images is {limit}; give at least 1")
    if limit is None or limit >= count:
        return list(range(count))
    return sorted(random.Random(seed).sample(range(count), limit))


def cell_bytes(cell: Any, name: str) -> bytes:
    """Return the encoded bytes of an image cell: bytes, or a ``{bytes, path}`` struct.

    A cell that only names a path is broken on purpose: opening it would let a table read any file of
    this machine.

    Raises:
        ImageError: The cell holds no bytes.
    """
    if isinstance(cell, dict):
        if cell.get("bytes") is None and cell.get("path"):
            raise ImageError(name, "it names a file path instead of holding bytes; paths are never opened")
        cell = cell.get("bytes")
    if isinstance(cell, bytes | bytearray | memoryview):
        return bytes(cell)
    raise ImageError(name, "it holds no image bytes")


def class_labels(
    cells: Sequence[Any], names: Sequence[str] | None
) -> tuple[tuple[str, ...] | None, list[int | None]]:
    """Return class names and indices of label cells: integers (negative: none), strings or None.

    Args:
        cells: One per image.
        names: Class names by integer label, where the table declares them.

    Returns:
        The class names (None where nothing is labelled) and one index or None per cell.

    Raises:
        UsageError: A cell is neither an integer nor a string, or they are mixed.
    """
    values = [None if cell is None or (isinstance(cell, int) and cell < 0) else cell for cell in cells]
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return None, [None] * len(values)
    if kinds == {str}:
        classes = tuple(sorted({value for value in values if value is not None}))
        index = {name: i for i, name in enumerate(classes)}
        return classes, [None if value is None else index[value] for value in values]
    if kinds == {int}:
        highest = max(value for value in values if value is not None)
        if highest > 1_000_000:
            raise UsageError(
                f"label {highest} is too large for a class index; give 0, 1, 2 ... or class names"
            )
        declared = tuple(names or ())
        return declared + tuple(str(i) for i in range(len(declared), highest + 1)), list(values)
    raise UsageError(
        f"labels are of type {', '.join(sorted(k.__name__ for k in kinds))}; give integers or strings"
    )


def labelled_refs(
    found: Sequence[tuple[str, str]], cells: Sequence[Any], names: Sequence[str] | None, skipped: Skipped
) -> tuple[tuple[str, ...] | None, list[ImageRef], list[int]]:
    """Return classes, references and the kept positions of ``found`` (id, digest) pairs.

    Where some images have a label, those without one are skipped: an audit either uses labels for all
    images or for none.
    """
    classes, labels = class_labels(cells, names)
    refs, kept = [], []
    for position, ((name, sha), label) in enumerate(zip(found, labels, strict=True)):
        if classes is not None and label is None:
            skipped.append((name, "it has no label, unlike others"))
            continue
        refs.append(ImageRef(name, sha, label))
        kept.append(position)
    return classes, refs, kept
