"""The settings of any image processor of transformers, found by what it does to test images.

Its classes differ in names and defaults, but most resize, crop and normalise. So it is run on a few pictures,
and the geometry is the one that gives the same pixels; a processor that does anything else fits none.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from platodef_cli.encoders.geometry import Geometry, to_pixels
from platodef_cli.errors import UnsupportedError

INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
_SIZES = ((300, 200), (180, 260), (40, 56))
_COLOURS = ((0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255))
_TOLERANCE = 0.75
"""Mean difference in levels of 255 up to which pixels count as the same: resizes round differently."""


@dataclass(frozen=True)
class Fitted:
    """What a processor does.

    Attributes:
        geometry: Resize and crop.
        mean: Of red, green and blue, as a share of the pixel range.
        std: The same.
        flipped: The network takes blue, green and red, in this order.
    """

    geometry: Geometry
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flipped: bool = False


def fit(processor: Any, where: str) -> Fitted:
    """Return what a processor does to images.

    Args:
        processor: An image processor of transformers.
        where: Its file, for messages.

    Raises:
        UnsupportedError: It does not give one input of a fixed size per image, or does something that
            resizing, cropping and normalising cannot express.
    """
    name = type(processor).__name__
    pictures = [_picture(*size) for size in _SIZES]
    outputs = [_run(processor, picture, where) for picture in pictures]
    sizes = {tuple(output.shape[1:]) for output in outputs}
    if len(sizes) > 1:
        raise UnsupportedError(
            f"{where}: {name} gives inputs of any size ({', '.join(f'{h}x{w}' for h, w in sorted(sizes))}); "
            "only a fixed one is supported: set size to height and width, or do_center_crop"
        )
    mean, std, flipped = _normalisation(processor, where)
    shape = (3, 1, 1)
    scale, shift = torch.tensor(std).view(shape), torch.tensor(mean).view(shape)
    levels = [255 * (output * scale + shift) for output in outputs]
    levels = [level.flip(0) if flipped else level for level in levels]
    best, difference = None, float("inf")
    for geometry in _candidates(processor, (levels[0].shape[1], levels[0].shape[2]), where):
        error = max(
            float((to_pixels(picture, geometry).float() - level).abs().mean())
            for picture, level in zip(pictures, levels, strict=True)
        )
        if error < difference:
            best, difference = geometry, error
    if best is None or difference > _TOLERANCE:
        raise UnsupportedError(
            f"{where}: {name} does more than resize, crop and normalise (pixels differ by {difference:.1f} "
            "of 255 on average); this is not supported"
        )
    return Fitted(best, *((mean[::-1], std[::-1]) if flipped else (mean, std)), flipped)


def _run(processor: Any, picture: Image.Image, where: str) -> Tensor:
    """Return the input ``[3, H, W]`` that a processor makes of a picture."""
    values = processor(images=picture, return_tensors="pt").get("pixel_values")
    if not isinstance(values, Tensor) or values.ndim != 4 or values.shape[:2] != (1, 3):
        shape = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise UnsupportedError(
            f"{where}: {type(processor).__name__} turns an image into {shape}, not into one of three channels"
        )
    return values[0].float()


def _normalisation(processor: Any, where: str) -> tuple[tuple[float, ...], tuple[float, ...], bool]:
    """Return mean and std per channel of the network, and whether its channels are reversed."""
    values = []
    for colour in _COLOURS:
        output = _run(processor, Image.new("RGB", (256, 256), colour), where).double()
        values.append(output[:, output.shape[1] // 2, output.shape[2] // 2])
    black, white, *colours = values
    matrix = torch.stack(colours, dim=1) - black[:, None]  # [channel of the network, colour]
    straight = torch.diag(matrix)
    reverse = torch.diag(matrix.flip(1))
    flipped = bool(reverse.abs().sum() > straight.abs().sum())
    slope = reverse if flipped else straight
    rest = matrix - (torch.diag(slope).flip(1) if flipped else torch.diag(slope))
    fits = bool((slope > 0).all()) and bool(rest.abs().max() <= 1e-3 * slope.min())
    if not fits or not torch.allclose(white - black, slope, rtol=1e-3):
        raise UnsupportedError(
            f"{where}: {type(processor).__name__} mixes or reshapes colours, which mean and std cannot say"
        )
    std = 1 / (white - black)
    return tuple((-black * std).tolist()), tuple(std.tolist()), flipped


def _candidates(processor: Any, final: tuple[int, int], where: str) -> Iterator[Geometry]:
    """Yield geometries that a processor with such settings may stand for."""
    resample = getattr(processor, "resample", None)
    number = 2 if resample is None else int(resample)
    if number not in INTERPOLATIONS:
        raise UnsupportedError(
            f"{where}: resample = {number} is none of nearest (0), lanczos (1), bilinear (2), bicubic (3)"
        )
    stated: Any = getattr(processor, "size", None)
    size: dict[str, Any] = dict(stated) if isinstance(stated, Mapping) else {}
    if not size and stated is not None:
        names = ("height", "width", "shortest_edge", "longest_edge")
        size = {name: getattr(stated, name, None) for name in names}
    sides = {final[0], final[1], *(int(value) for value in size.values() if value)}
    ratios = {1.0, 256 / 224}
    if isinstance(share := getattr(processor, "crop_pct", None), float):
        ratios.add(1 / share)
    lengths = [side * ratio for side, ratio in itertools.product(sides, ratios)]
    shorter = {*map(int, lengths), *map(round, lengths)}
    pairs = {final, *((side, side) for side in shorter)}
    if size.get("height") and size.get("width"):
        pairs.add((int(size["height"]), int(size["width"])))
    # the plainest first: of two that fit alike the first one stays
    targets: list[tuple[int, int] | int] = [final, *sorted(pairs - {final}), *sorted(shorter)]
    for target in targets:
        if max(target if isinstance(target, tuple) else (target,)) <= 8 * max(final):
            yield Geometry(final, target, INTERPOLATIONS[number], crop="floor")


def _picture(width: int, height: int) -> Image.Image:
    """Return a picture with smooth colours, edges and noise; the same in every process."""
    generator = np.random.default_rng(width)
    coarse = generator.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    resized = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    smooth = np.array(resized, dtype=float)
    smooth[height // 3 : height // 2, width // 4 : width // 2] = (250, 20, 60)
    noisy = smooth + generator.normal(0, 12, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
