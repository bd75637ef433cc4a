"""Which columns of a table are the images and the labels."""

from collections.abc import Sequence
from dataclasses import dataclass

from platodef_cli.errors import UsageError

IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "pixel_values")
CAPTION_NAMES = ("caption", "captions", "text", "sentence", "sentences", "description", "txt")
LABEL_NAMES = ("label", "labels", "class", "fine_label", "coarse_label", "target", "category", "cls")


@dataclass(frozen=True)
class Columns:
    """What the user says about a table.

    Attributes:
        image: Name of the image column; None looks for a usual one.
        label: Name of the label column; None looks for a usual one.
        labels: Whether labels are used at all.
        caption: Name of the column of captions; None looks for a usual one.
        captions: Whether captions are read.
    """

    image: str | None = None
    label: str | None = None
    labels: bool = True
    caption: str | None = None
    captions: bool = False

    def image_of(self, names: Sequence[str], where: str, holders: Sequence[str] = ()) -> str:
        """Return the name of the image column among those of a table.

        Args:
            names: Of all columns.
            where: The table, for messages.
            holders: Columns that hold bytes, for messages.

        Raises:
            UsageError: There is none, or two of that name.
        """
        listed = ", ".join(names) or "none"
        found = self.image or _usual(IMAGE_NAMES, names)
        if found is None or found not in names:
            asked = (
                f"no column {found!r}" if found else f"no column of images ({', '.join(IMAGE_NAMES[:3])} ...)"
            )
            hint = f" {holders[0]}" if len(holders) == 1 else ""
            raise UsageError(
                f"{where} has {asked}; its columns are {listed}; name it with --image-column{hint}"
            )
        _check_once(found, names, where)
        return found

    def label_of(self, names: Sequence[str], where: str) -> str | None:
        """Return the name of the label column among those of a table; None where labels are not used.

        Raises:
            UsageError: The one that was asked for is not there, or there are two of that name.
        """
        return _chosen(self.label, LABEL_NAMES, names, where) if self.labels else None

    def caption_of(self, names: Sequence[str], where: str) -> str | None:
        """Return the name of the column of captions; None where they are not read, or there is no usual one.

        Raises:
            UsageError: The one that was asked for is not there, or there are two of that name.
        """
        return _chosen(self.caption, CAPTION_NAMES, names, where) if self.captions else None


def _chosen(asked: str | None, usual: Sequence[str], names: Sequence[str], where: str) -> str | None:
    """Return the column that was asked for, else one of the usual names, else None."""
    if asked is not None and asked not in names:
        raise UsageError(f"{where} has no column {asked!r}; its columns are {', '.join(names)}")
    found = asked or _usual(usual, names)
    if found is not None:
        _check_once(found, names, where)
    return found


def _check_once(name: str, names: Sequence[str], where: str) -> None:
    """Refuse a name that several columns of a table have."""
    count = list(names).count(name)
    if count > 1:
        raise UsageError(f"{where} has {count} columns called {name!r}; rename one of them")


def _usual(usual: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the first of the usual names that a table has, else the first in capitals (``Image``)."""
    found = next((name for name in usual if name in names), None)
    return found or next((own for name in usual for own in names if own.lower() == name), None)


def caption_cell(cell: object) -> tuple[str, ...]:
    """Return the sentences of a cell: a text, or a list of texts (several captions of one image)."""
    if isinstance(cell, bytes):
        cell = cell.decode("utf-8", "replace")
    if isinstance(cell, str):
        text = " ".join(cell.split())
        return (text,) if text else ()
    if isinstance(cell, list | tuple):
        return tuple(text for part in cell if isinstance(part, str | bytes) for text in caption_cell(part))
    return ()
