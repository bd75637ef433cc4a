"""What tabular sources (parquet, datasets) share: image cells, label cells, subsets."""

import hashlib
import random
from collections.abc import Sequence
from typing import Any

from platodef_cli.errors import UsageError
from platodef_cli.images.columns import caption_cell
from platodef_cli.images.decode import ImageError
from platodef_cli.images.interface import ImageRef

Skipped = list[tuple[str, str]]
_MOST_UNLABELLED = 0.05
"""Share of images without a label up to which those are left out; past it the labels are."""


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
        UsageError: Integers and strings are mixed, or an integer is too large for a class.
    """
    values = [_plain(cell) for cell in cells]
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return None, [None] * len(values)
    if kinds == {str}:
        classes = tuple(sorted({str(value) for value in values if value is not None}))
        index = {name: i for i, name in enumerate(classes)}
        return classes, [None if value is None else index[str(value)] for value in values]
    if kinds == {int}:
        numbers = [None if value is None else int(value) for value in values]
        highest = max(value for value in numbers if value is not None)
        if highest > 1_000_000:
            raise UsageError(
                f"label {highest} is too large for a class index; give 0, 1, 2 ... or class names"
            )
        declared = tuple(names or ())
        return declared + tuple(str(i) for i in range(len(declared), highest + 1)), numbers
    raise UsageError(
        f"labels are of type {', '.join(sorted(k.__name__ for k in kinds))}; give integers or strings, or "
        "--no-labels"
    )


def _plain(cell: Any) -> int | str | None:
    """Return a label cell as a class; None where it is none, or a negative number."""
    if isinstance(cell, bool):
        return int(cell)
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    if isinstance(cell, bytes):
        cell = cell.decode("utf-8", "replace")
    if isinstance(cell, int):
        return cell if cell >= 0 else None
    return cell if isinstance(cell, str) and cell.strip() else None


def number_or_text(text: str) -> int | float | str | None:
    """Return what the text of a label means: a number where it is one, None where it is empty."""
    text = text.strip()
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text) if text[:1] in "+-.0123456789" else text or None
    except ValueError:
        return text or None


def no_classes(cells: Sequence[Any]) -> str:
    """Return why label cells are not used (fractions, lists, many missing), or nothing where they are."""
    for cell in cells:
        if isinstance(cell, float) and cell == cell and not cell.is_integer():
            return f"its labels are numbers such as {cell:g}, not classes"
        if isinstance(cell, list | dict | tuple) or hasattr(cell, "tolist"):
            return "its labels are lists, not one class per image"
        if cell is not None and not isinstance(cell, str | bytes | int | float):
            return f"its labels are of the type {type(cell).__name__}, not classes"
    lacking = sum(_plain(cell) is None for cell in cells)
    if _MOST_UNLABELLED * len(cells) < lacking < len(cells):
        return f"{lacking} of its {len(cells)} labels are missing"
    return ""


def label_notes(cells: Sequence[Any], where: str) -> tuple[str, ...]:
    """Return what the user should know about label cells: why they are not used, where they are not."""
    reason = no_classes(cells)
    return (f"{where}: {reason}; they are not used",) if reason else ()


def labelled_refs(
    found: Sequence[tuple[str, str]],
    cells: Sequence[Any],
    names: Sequence[str] | None,
    skipped: Skipped,
    captions: Sequence[Any] | None = None,
) -> tuple[tuple[str, ...] | None, list[ImageRef], list[int]]:
    """Return classes, references and the kept positions of ``found`` (id, digest) pairs.

    Where nearly all images have a label, those without one are skipped: an audit either uses labels for all
    images or for none. Labels that are no classes, or often missing, are left aside, see :func:`no_classes`.
    """
    if no_classes(cells):
        cells = [None] * len(cells)
    classes, labels = class_labels(cells, names)
    refs, kept = [], []
    for position, ((name, sha), label) in enumerate(zip(found, labels, strict=True)):
        if classes is not None and label is None:
            skipped.append((name, "it has no label, unlike others; --no-labels uses it"))
            continue
        sentences = () if captions is None else caption_cell(captions[position])
        refs.append(ImageRef(name, sha, label, sentences))
        kept.append(position)
    return classes, refs, kept
