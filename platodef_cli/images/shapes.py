"""``builtin:shapes``: procedural, labelled images without end.

One textured shape (its kind is the label) lies at a random place, scale and angle (up to 30 degrees)
before a coloured gradient with clutter, under uneven light and sensor noise. Every number of image
``index`` is a hash of ``(seed, index)``, so an image does not depend on how many others are made.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from platodef_cli.errors import UsageError
from platodef_cli.images.counter import uniform
from platodef_cli.images.interface import ImageRef

Floats = NDArray[np.floating[Any]]  # float32 throughout; the type checker cannot see it

RECIPE = "platodef shapes v1"
CLASSES = (
    "circle",
    "ring",
    "semicircle",
    "crescent",
    "square",
    "frame",
    "triangle",
    "star",
    "cross",
    "bar",
    "ell",
    "pair",
)
TEXTURES = ("plain", "stripes", "checks", "dots", "speckle")
MAX_SIZE = 1024
MAX_INDEX = 2**62

_CLUTTER = 4
_FIELDS = 32  # uniform numbers of one scene, before those of the clutter
_CLUTTER_FIELDS = 8
_PIXEL_STREAM = 1_000_000  # the noise of single pixels must not repeat the numbers of the scene


@dataclass(frozen=True)
class Scene:
    """What is in each of B images; angles in radians, places and lengths in half image sides.

    Attributes:
        label: int64 ``[B]``, index into :data:`CLASSES`.
        texture: int64 ``[B]``, index into :data:`TEXTURES`.
        centre: ``[B, 2]``, x (to the right) and y (down), 0 is the middle of the image.
        radius: ``[B]``, radius of the circle around the shape.
        angle: ``[B]``.
        colour: ``[B, 3]``, RGB of the shape in 0..1 before lighting.
        background: ``[B, 3]``, RGB of the middle of the background in 0..1 before lighting.
        uniform: ``[B, P]``, the uniform random numbers of the whole scene.
    """

    label: NDArray[np.int64]
    texture: NDArray[np.int64]
    centre: Floats
    radius: Floats
    angle: Floats
    colour: Floats
    background: Floats
    uniform: Floats


def _colour(lightness: Floats, saturation: Floats, hue: Floats) -> Floats:
    """Return RGB ``[B, 3]`` from three ``[B]`` in 0..1: a cosine wheel around the grey axis."""
    phase = hue[:, None] + np.asarray([0, 1 / 3, 2 / 3], np.float32)
    rgb: Floats = lightness[:, None] + saturation[:, None] * np.cos(2 * np.pi * phase)
    return rgb.clip(0, 1).astype(np.float32)


def scenes(seed: int, indices: ArrayLike) -> Scene:
    """Return the scenes of images ``indices`` (``[B]``, from 0) of the source with seed ``seed``.

    Raises:
        UsageError: The seed or an index is negative or too large.
    """
    ids = np.asarray(indices, dtype=np.int64).reshape(-1)
    if not 0 <= seed < MAX_INDEX:
        raise UsageError(f"builtin:shapes seed={seed} is out of range; give 0 to {MAX_INDEX - 1}")
    if ids.size and not (ids.min() >= 0 and ids.max() < MAX_INDEX):
        raise UsageError(f"builtin:shapes index is out of range; give 0 to {MAX_INDEX - 1}")
    u = uniform(seed, ids, _FIELDS + _CLUTTER * _CLUTTER_FIELDS)
    radius = 0.5 + 0.25 * u[:, 2]
    reach = (1 - 0.9 * radius)[:, None]
    # The shape differs from its background by a least lightness, or its kind could not be seen.
    ground = 0.15 + 0.7 * u[:, 6]
    gap = 0.25 + 0.25 * u[:, 7]
    lightness = np.where((ground < 0.5) ^ (u[:, 8] < 0.15) | (ground < 0.3), ground + gap, ground - gap)
    lightness = np.where(ground > 0.7, ground - gap, lightness)
    return Scene(
        label=(u[:, 0] * len(CLASSES)).astype(np.int64),
        texture=(u[:, 1] * len(TEXTURES)).astype(np.int64),
        centre=(2 * u[:, 3:5] - 1) * reach,
        radius=radius,
        angle=np.pi / 3 * (u[:, 5] - 0.5),
        colour=_colour(lightness, 0.3 * u[:, 9], u[:, 10]),
        background=_colour(ground, 0.22 * u[:, 11], u[:, 12]),
        uniform=u,
    )


def _box(x: Floats, y: Floats, half_width: float, half_height: float) -> Floats:
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


def _star(x: Floats, y: Floats) -> Floats:
    fold = np.pi / 5
    theta = np.abs(np.mod(np.arctan2(y, x) + fold, 2 * fold) - fold)
    length = np.hypot(x, y)
    px, py = length * np.cos(theta), length * np.sin(theta)
    wx, wy = 0.42 * np.cos(fold), 0.42 * np.sin(fold)  # from the tip (1, 0) to the notch (wx, wy)
    ex, ey = wx - 1, wy
    field: Floats = (ey * (px - 1) - ex * py) / np.hypot(ex, ey)
    return field


def _distance(label: int, x: Floats, y: Floats) -> Floats:
    """Return the signed distance (negative inside, exact near the edge) to the unit shape."""
    field: Floats
    match CLASSES[label]:
        case "circle":
            field = np.hypot(x, y) - 0.85
        case "ring":
            field = np.abs(np.hypot(x, y) - 0.74) - 0.19
        case "semicircle":
            field = np.maximum(np.hypot(x, y + 0.4) - 1, -(y + 0.4))
        case "crescent":
            field = np.maximum(np.hypot(x, y) - 0.95, 0.78 - np.hypot(x - 0.46, y))
        case "square":
            field = _box(x, y, 0.74, 0.74)
        case "frame":
            field = np.abs(_box(x, y, 0.66, 0.66)) - 0.17
        case "triangle":
            field = np.maximum(np.abs(x) * 0.8660254 + y * 0.5, -y) - 0.5
        case "star":
            field = _star(x, y)
        case "cross":
            field = np.minimum(_box(x, y, 0.95, 0.27), _box(x, y, 0.27, 0.95))
        case "bar":
            field = _box(x, y, 1.0, 0.27)
        case "ell":
            field = np.minimum(_box(x + 0.4, y, 0.26, 0.9), _box(x, y - 0.64, 0.66, 0.26))
        case _:
            field = np.hypot(np.abs(x) - 0.56, y) - 0.4
    return field


def _texture(kind: int, x: Floats, y: Floats, frequency: Floats, noise: Floats) -> Floats:
    """Return a modulation in -1..1 over coordinates of the shape itself."""
    pattern: Floats
    match TEXTURES[kind]:
        case "plain":
            pattern = np.zeros_like(x)
        case "stripes":
            pattern = np.sin(frequency * x)
        case "checks":
            pattern = np.sign(np.sin(frequency * x) * np.sin(frequency * y))
        case "dots":
            pattern = np.tanh(4 * (np.cos(frequency * x) + np.cos(frequency * y) - 1))
        case _:
            pattern = 2 * noise - 1
    return pattern


def _paint(canvas: Floats, colour: Floats, cover: Floats) -> None:
    """Lay ``colour`` (``[B, 3, 1, 1]`` or ``[B, 3, H, W]``) over the canvas where ``cover [B, H, W]``."""
    canvas += (colour - canvas) * cover[:, None]


def _clutter(canvas: Floats, u: Floats, x: Floats, y: Floats, pixel: float) -> None:
    """Draw short thick strokes and dots of random colours."""
    for i in range(_CLUTTER):
        v = u[:, _FIELDS + i * _CLUTTER_FIELDS :][:, :_CLUTTER_FIELDS, None, None]
        angle = np.pi * v[:, 2]
        length = np.where(v[:, 3] < 0.4, 0, 0.25 * v[:, 3])
        dx, dy = x - (2 * v[:, 0] - 1), y - (2 * v[:, 1] - 1)
        along = dx * np.cos(angle) + dy * np.sin(angle)
        across = dy * np.cos(angle) - dx * np.sin(angle)
        field = np.hypot(np.maximum(np.abs(along) - length, 0), across) - (0.04 + 0.05 * v[:, 4])
        cover = 0.8 * np.clip(0.5 - field / pixel, 0, 1)
        colour = _colour(0.15 + 0.7 * v[:, 5, 0, 0], 0.3 * v[:, 6, 0, 0], v[:, 7, 0, 0])
        _paint(canvas, colour[:, :, None, None], cover)


def _object(canvas: Floats, scene: Scene, x: Floats, y: Floats, noise: Floats, pixel: float) -> None:
    """Draw the labelled shape with its texture."""
    u = scene.uniform[:, :, None, None]
    cos, sin = np.cos(scene.angle)[:, None, None], np.sin(scene.angle)[:, None, None]
    radius = scene.radius[:, None, None]
    dx = (x - scene.centre[:, 0, None, None]) / radius
    dy = (y - scene.centre[:, 1, None, None]) / radius
    px, py = dx * cos + dy * sin, dy * cos - dx * sin
    cover, pattern = np.empty_like(px), np.empty_like(px)
    for label in np.unique(scene.label):
        rows = scene.label == label
        field = _distance(int(label), px[rows], py[rows]) * radius[rows]
        cover[rows] = np.clip(0.5 - field / pixel, 0, 1)
    for kind in np.unique(scene.texture):
        rows = scene.texture == kind
        frequency = 6 + 6 * u[rows, 13]
        pattern[rows] = _texture(int(kind), px[rows], py[rows], frequency, noise[rows])
    contrast = 0.08 + 0.1 * u[:, 14]
    colour = scene.colour[:, :, None, None] + (contrast * pattern)[:, None]
    _paint(canvas, colour, cover)


def _render_block(seed: int, ids: NDArray[np.int64], scene: Scene, size: int) -> NDArray[np.uint8]:
    u = scene.uniform[:, :, None, None]
    pixel = 2 / size
    line = ((np.arange(size, dtype=np.float32) + 0.5) * pixel - 1).astype(np.float32)
    x, y = line[None, None, :], line[None, :, None]
    noise = uniform(seed, ids, size * size, start=_PIXEL_STREAM).reshape(-1, size, size)

    turn = 2 * np.pi * u[:, 15]
    ramp = (x * np.cos(turn) + y * np.sin(turn)) * (0.25 * u[:, 16])
    wave = np.sin(2 * np.pi * (u[:, 17] + (1 + 2 * u[:, 18]) * (x * np.sin(turn) - y * np.cos(turn)) / 2))
    ground = ramp + (0.08 * u[:, 19]) * wave
    canvas = (scene.background[:, :, None, None] + ground[:, None]).astype(np.float32)
    _clutter(canvas, scene.uniform, x, y, pixel)
    _object(canvas, scene, x, y, noise, pixel)

    light = 2 * np.pi * u[:, 20]
    gain = (0.8 + 0.35 * u[:, 21]) * (1 + 0.25 * u[:, 22] * (x * np.cos(light) + y * np.sin(light)))
    grain = (0.12 * u[:, 23]) * (noise - 0.5)
    canvas = canvas * gain[:, None] + grain[:, None]
    return np.asarray(np.clip(canvas * 255 + 0.5, 0, 255)).astype(np.uint8)


def render(seed: int, indices: ArrayLike, size: int = 32) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw images ``indices`` (``[B]``) of the source with seed ``seed``.

    Returns:
        Pixels uint8 ``[B, 3, size, size]`` and labels int64 ``[B]``.

    Raises:
        UsageError: Seed, index or size out of range.
    """
    if not 8 <= size <= MAX_SIZE:
        raise UsageError(f"builtin:shapes size={size} is out of range; give 8 to {MAX_SIZE}")
    ids = np.asarray(indices, dtype=np.int64).reshape(-1)
    labels = scenes(seed, ids).label
    pixels = np.empty((len(ids), 3, size, size), np.uint8)
    block = max(1, 128 * 32 * 32 // (size * size))  # the working set of a block stays in the cache
    for start in range(0, len(ids), block):
        rows = ids[start : start + block]
        pixels[start : start + block] = _render_block(seed, rows, scenes(seed, rows), size)
    return pixels, labels


_REFS_BLOCK = 512


class ShapesRefs(Sequence[ImageRef]):
    """References made on demand, so that a source of millions costs nothing.

    Args:
        seed: Of the source.
        count: Images.
        size: Side of an image, pixels.
    """

    def __init__(self, seed: int, count: int, size: int):
        self._seed, self._count, self._size = seed, count, size
        self._blocks: dict[int, list[ImageRef]] = {}

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> ImageRef: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ImageRef]: ...
    def __getitem__(self, index: int | slice) -> ImageRef | Sequence[ImageRef]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        i = range(self._count)[index]
        if i // _REFS_BLOCK not in self._blocks:
            self._blocks[i // _REFS_BLOCK] = self.made(i // _REFS_BLOCK * _REFS_BLOCK)
        return self._blocks[i // _REFS_BLOCK][i % _REFS_BLOCK]

    def made(self, start: int) -> list[ImageRef]:
        """Make one block of references: a scene at a time would cost as much as drawing it."""
        rows = range(start, min(start + _REFS_BLOCK, self._count))
        return self.of(rows, scenes(self._seed, list(rows)))

    def of(self, rows: range, scene: Scene) -> list[ImageRef]:
        """Return the references of images ``rows``, whose scenes are ready."""
        labels = scene.label.tolist()
        recipes = (f"{RECIPE}; seed={self._seed}; index={i}; size={self._size}" for i in rows)
        digests = (hashlib.sha256(recipe.encode()).hexdigest() for recipe in recipes)
        return [
            ImageRef(f"shape-{i:06d}", digest, label)
            for i, digest, label in zip(rows, digests, labels, strict=True)
        ]


class ShapesSource:
    """``builtin:shapes[?seed=..&count=..&size=..]`` as an :class:`ImageSource`.

    Attributes:
        uri: The full address with every parameter.
        classes: :data:`CLASSES`; the label is the kind of shape.
        refs: ``count`` references; the digest is the SHA-256 of the versioned recipe.
        skipped: Always empty: nothing can be broken.
    """

    def __init__(self, seed: int = 0, count: int = 3000, size: int = 32):
        """Describe ``count`` images of ``size`` x ``size`` pixels; nothing is drawn yet.

        Raises:
            UsageError: A parameter is out of range.
        """
        if not 1 <= count <= MAX_INDEX:
            raise UsageError(f"builtin:shapes count={count} is out of range; give 1 to {MAX_INDEX}")
        scenes(seed, [count - 1])  # refuses a bad seed here, not at the first image
        if not 8 <= size <= MAX_SIZE:
            raise UsageError(f"builtin:shapes size={size} is out of range; give 8 to {MAX_SIZE}")
        self.uri = f"builtin:shapes?seed={seed}&count={count}&size={size}"
        self.classes: tuple[str, ...] | None = CLASSES
        self.refs: Sequence[ImageRef] = ShapesRefs(seed, count, size)
        self.skipped: list[tuple[str, str]] = []
        self._seed, self._size = seed, size

    def open(self, index: int) -> Image.Image:
        """Draw image ``index`` (RGB).

        Raises:
            IndexError: There is no such image.
        """
        pixels, _ = render(self._seed, [range(len(self.refs))[index]], self._size)
        return Image.fromarray(np.ascontiguousarray(pixels[0].transpose(1, 2, 0)))
