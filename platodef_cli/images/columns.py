"""Which columns of a table are the images and the labels."""

from collections.abc import Sequence
from dataclasses import dataclass

from platodef_cli.errors import UsageError

IMAGE_NAMES = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "pixel_values")
LABEL_NAMES = ("label", "labels", "class", "fine_label", "coarse_label", "target", "category", "cls")


@dataclass(frozen=True)
class Columns:
    """What the user says about a table.

    Attributes:
        image: Name of the image column; None looks for a usual one.
        label: Name of the label column; None looks for a usual one.
        labels: Whether labels are used at all.
    """

    image: str | None = None
    label: str | None = None
    labels: bool = True

    def image_of(self, names: Sequence[str], where: str) -> str:
        """Return the name of the image column among those of a table.

        Raises:
            UsageError: There is none, or two of that name.
        """
        listed = ", ".join(names) or "none"
        found = self.image or next((name for name in IMAGE_NAMES if name in names), None)
        if found is None or found not in names:
            asked = (
                f"no column {found!r}" if found else f"no column of images ({', '.join(IMAGE_NAMES[:3])} ...)"
            )
            raise UsageError(f"{where} has {asked}; its columns are {listed}; name it with --image-column")
        if list(names).count(found) > 1:
            raise UsageError(
                f"{where} has {list(names).count(found)} columns called {found!r}; rename one of them"
            )
        return found

    def label_of(self, names: Sequence[str], where: str) -> str | None:
        """Return the name of the label column among those of a table; None where labels are not used.

        Raises:
            UsageError: The one that was asked for is not there, or there are two of that name.
        """
        if not self.labels:
            return None
        if self.label is not None and self.label not in names:
            raise UsageError(f"{where} has no column {self.label!r}; its columns are {', '.join(names)}")
        found = self.label or next((name for name in LABEL_NAMES if name in names), None)
        if found is not None and list(names).count(found) > 1:
            raise UsageError(
                f"{where} has {list(names).count(found)} columns called {found!r}; rename one of them"
            )
        return found
