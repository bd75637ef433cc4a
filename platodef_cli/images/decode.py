"""Encoded bytes -> RGB image, with limits; nothing a file holds can crash or exhaust the caller.

Colour is converted as the encoders' own libraries do it (``Image.convert("RGB")`` in timm, open_clip
and transformers): alpha is dropped, not composited, palettes are looked up, CMYK is inverted by
Pillow's own formula. 16-bit and float greyscale, which that call clips to white, is scaled to 8 bits.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from platodef_cli.errors import UsageError
from platodef_cli.images.stubs import stub

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM")
"""What is decoded; AVIF is read by Pillow 11.3 and newer, if it was built with libavif, as its wheels are."""
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .avif .avifs .bmp .dib .gif .tif .tiff .ppm .pgm .pbm .pnm".split()
)
_AVIF = (b"ftypavif", b"ftypavis")
MAX_PIXELS = 64_000_000
MAX_BYTES = 256 * 2**20
DECODE_VERSION = 2  # part of the feature cache's key: raise it when any pixel can change


class ImageError(UsageError):
    """An image cannot be used.

    Attributes:
        name: Id of the image.
        reason: Why, in a few words.
        transient: The cause lies outside the bytes (an unreadable or changed file), so that it must
            not be remembered.
    """

    def __init__(self, name: str, reason: str, *, transient: bool = False):
        self.name, self.reason, self.transient = name, reason, transient
        super().__init__(f"image {name!r} cannot be used: {reason}")


def decode(
    data: bytes, name: str = "image", *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES
) -> Image.Image:
    """Decode one image to RGB: the first frame, upright as its EXIF orientation says.

    Args:
        data: The encoded bytes.
        name: Id for messages.
        max_pixels: Largest width x height; checked before anything is decoded.
        max_bytes: Largest length of ``data``.

    Raises:
        ImageError: The bytes are empty, too many, truncated, corrupt, of a format that is not in
            :data:`FORMATS`, or hold too many pixels.
    """
    if not data:
        raise ImageError(name, "the file is empty")
    if len(data) > max_bytes:
        raise ImageError(name, f"{len(data):,} bytes, more than the limit of {max_bytes:,}")
    if data[4:12] in _AVIF and not features.check("avif"):
        raise ImageError(
            name,
            "AVIF, which the Pillow of this machine was built without; install Pillow from PyPI",
            transient=True,
        )
    # Pillow warns (about bombs above a limit of its own, odd EXIF blocks) where we give errors. This
    # filter is process-wide because ``catch_warnings`` is not safe with the threads that decode.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    found = stub(data[:256])
    if found:
        raise ImageError(name, f"it is {found}")
    with _one_line_errors(name), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise ImageError(name, f"{width} x {height} pixels, more than the limit of {max_pixels:,}")
        if width < 1 or height < 1:
            raise ImageError(name, "it has no pixels")
        image.load()
        return _rgb(ImageOps.exif_transpose(image))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image, dtype=np.float32)
        brightest = float(values.max())
        if image.mode == "F" and brightest <= 1:
            white = 1.0
        else:
            # I;16 says its range; wider types do not, so that 8-bit content is taken for what it is.
            white = 65535.0 if image.mode.startswith("I;16") or brightest > 255 else 255.0
        scaled = np.nan_to_num(values * (255.0 / white), nan=0.0, posinf=255.0, neginf=0.0)
        image = Image.fromarray(scaled.clip(0, 255).round().astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


@contextmanager
def _one_line_errors(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into an :class:`ImageError`; a hostile file may raise anything."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(name, f"not a readable image (accepted: {', '.join(FORMATS)})") from None
    except MemoryError:
        raise ImageError(name, "not enough memory to decode it", transient=True) from None
    except Exception as error:
        text = " ".join(str(error).split())[:120] or type(error).__name__
        raise ImageError(name, f"broken: {text}") from None
