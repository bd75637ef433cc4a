"""Sentences about ``builtin:shapes``: what a person would say of an image, from the numbers it is drawn by.

A function of the scene alone, so that the same image has the same sentence everywhere. It says size, colour,
texture, kind and place of the shape, and nothing of clutter, background, light and angle.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from platodef_cli.images.columns import Columns
from platodef_cli.images.interface import ImageRef
from platodef_cli.images.shapes import CLASSES, Scene, ShapesRefs, ShapesSource

COLUMN = "caption"
"""What the column of these sentences is called."""

SIZES = ("small", "medium", "large")
HUES = ("red", "yellow", "green", "cyan", "blue", "purple")
GREYS = ("black", "grey", "white")
TEXTURES = ("plain", "striped", "checked", "dotted", "speckled")  # in the order of shapes.TEXTURES
PLACES = (
    ("top left", "top", "top right"),
    ("left", "centre", "right"),
    ("bottom left", "bottom", "bottom right"),
)

_RADII = (0.5 + 0.25 / 3, 0.5 + 0.5 / 3)  # thirds of the radii that are drawn
_MIDDLE = 0.15  # of half an image side; nearer than this is neither left nor right
_CHROMA = 0.12  # largest less smallest channel; a colour with less is a grey
_DARK, _BRIGHT = 0.25, 0.75


def sentences(scene: Scene) -> list[str]:
    """Return one sentence for each of the B images of a scene.

    >>> from platodef_cli.images.shapes import scenes
    >>> sentences(scenes(seed=0, indices=[0, 1]))
    ['a small yellow striped square, centre', 'a small green speckled ring, bottom right']
    """
    size = np.searchsorted(_RADII, scene.radius)
    columns, rows = (np.searchsorted((-_MIDDLE, _MIDDLE), scene.centre[:, axis]) for axis in (0, 1))
    return [
        f"a {SIZES[size[i]]} {colour_name(scene.colour[i])} {TEXTURES[scene.texture[i]]} "
        f"{CLASSES[scene.label[i]]}, {PLACES[rows[i]][columns[i]]}"
        for i in range(len(scene.label))
    ]


def colour_name(rgb: NDArray[np.floating[Any]]) -> str:
    """Return the name of a colour ``[3]`` in 0..1: one of :data:`HUES`, or of :data:`GREYS` without a hue."""
    red, green, blue = map(float, rgb)
    high, low = max(red, green, blue), min(red, green, blue)
    if high - low < _CHROMA:
        light = (red + green + blue) / 3
        return GREYS[0 if light < _DARK else 2 if light > _BRIGHT else 1]
    if high == red:
        hue = (green - blue) / (high - low)
    elif high == green:
        hue = 2 + (blue - red) / (high - low)
    else:
        hue = 4 + (red - green) / (high - low)
    return HUES[round(hue) % len(HUES)]


class DescribedRefs(ShapesRefs):
    """References with the sentence of each image as its caption."""

    def of(self, rows: range, scene: Scene) -> list[ImageRef]:
        """Return the references of images ``rows``, whose scenes are ready."""
        refs = super().of(rows, scene)
        return [replace(ref, captions=(said,)) for ref, said in zip(refs, sentences(scene), strict=True)]


class DescribedShapes(ShapesSource):
    """``builtin:shapes`` with a column of captions.

    Attributes:
        caption_column: What the column is called.
    """

    def __init__(self, seed: int = 0, count: int = 3000, size: int = 32, columns: Columns | None = None):
        """Describe the images; see :class:`~platodef_cli.images.shapes.ShapesSource`.

        Raises:
            UsageError: A parameter is out of range, or another column of captions was asked for.
        """
        super().__init__(seed, count, size)
        self.caption_column = (columns or Columns(captions=True)).caption_of([COLUMN], self.uri)
        self.refs = DescribedRefs(seed, count, size)
