"""The contract of an image source, beside its table of implementations."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from PIL import Image


@dataclass(frozen=True)
class ImageRef:
    """One image, not yet decoded.

    Attributes:
        id: Stable name inside the source: a relative path, or ``row-000012``.
        digest: SHA-256 of the encoded bytes (or of the recipe, for generated images), hex.
        label: Class index, or None where the source has no labels.
        captions: Sentences about it, where captions were asked for and the source has them.
    """

    id: str
    digest: str
    label: int | None
    captions: tuple[str, ...] = ()


class ImageSource(Protocol):
    """An ordered, finite set of images with stable ids.

    Attributes:
        uri: What the user wrote, made absolute and pinned (``builtin:shapes?seed=0&count=3000``).
        classes: Class names in label order, or None where there are no labels.
        refs: The images in a fixed order.
        skipped: Images that were listed but cannot be used, as ``(id, reason)``; grows while decoding.
    """

    uri: str
    classes: tuple[str, ...] | None
    refs: Sequence[ImageRef]
    skipped: list[tuple[str, str]]

    def open(self, index: int) -> Image.Image:
        """Decode image ``index`` to RGB.

        Raises:
            ImageError: The image is broken, too large or of a format that is not allowed;
                the message names the image and the reason. Callers count it and go on.
        """


def digest_of(source: ImageSource, rows: Sequence[int]) -> str:
    """Return the SHA-256 over the digests of the given images, in order."""
    total = sha256()
    for row in rows:
        total.update(source.refs[row].digest.encode())
    return total.hexdigest()


def caption_column(source: ImageSource) -> str | None:
    """Return the column that the captions of a source are from, or None where it has none."""
    name: str | None = getattr(source, "caption_column", None)
    return name
