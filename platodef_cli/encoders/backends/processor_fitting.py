"""The settings of any image processor of transformers, found by what it does to test images.

Its classes differ in names and defaults, but most resize, crop and normalise. So it is run on a few pictures,
and the geometry is the one that gives the same pixels; a processor that does anything else fits none.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from platodef_cli.encoders.geometry import FLOAT, TORCH_LANCZOS, Geometry, to_pixels
from platodef_cli.errors import UnsupportedError

INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
_SIZES = ((300, 200), (180, 260), (40, 56))
_COLOURS = ((0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255))
_TOLERANCE = 0.3
"""Mean difference in levels of 255 up to which pixels count as the same: on processors without AVX2,
torchvision resizes 8 bits as floats and rounds them."""
_WHOLE = 0.01
"""Farthest that levels of 8 bits are from whole numbers after normalisation and back."""


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
    height, width = outputs[0].shape[1:]
    # larger than the input: some cut large images into tiles
    pictures.append(_picture(2 * width + 13, height + 301))
    outputs.append(_run(processor, pictures[-1], where))
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
    for geometry in _candidates(processor, (height, width), not _whole(levels), where):
        error = _difference(geometry, pictures, levels, difference)
        if error < difference:
            best, difference = geometry, error
    if best is None or difference > _TOLERANCE:
        raise UnsupportedError(
            f"{where}: {name} does more than resize, crop and normalise (pixels differ by {difference:.1f} "
            "of 255 on average); this is not supported"
        )
    return Fitted(best, *((mean[::-1], std[::-1]) if flipped else (mean, std)), flipped)


def settle(processor: Any, fitted: Fitted, where: str) -> Fitted:
    """Find how a processor computes the resize that its settings name, by what it makes of pictures.

    Settings do not say whether it resizes levels of 8 bits or numbers, nor whose Lanczos it runs.

    Args:
        processor: An image processor of transformers that gives inputs of a fixed size.
        fitted: What its settings say.
        where: Its file, for messages.

    Raises:
        UnsupportedError: It gives no image of three channels.
    """
    pictures = [_picture(*size) for size in _SIZES[1:]]  # of two sizes at least one is resized
    scale, shift = (torch.tensor(values).view(3, 1, 1) for values in (fitted.std, fitted.mean))
    levels = [255 * (_run(processor, picture, where) * scale + shift) for picture in pictures]
    variants = [
        replace(fitted.geometry, interpolation=kernel)
        for kernel in _kernels(fitted.geometry.interpolation, not _whole(levels))
    ]
    if len(variants) == 1:
        return replace(fitted, geometry=variants[0])
    return replace(fitted, geometry=min(variants, key=lambda each: _difference(each, pictures, levels)))


def _whole(levels: list[Tensor]) -> bool:
    """Tell whether all are whole numbers, as 8 bits hold them."""
    return all(float((level - level.round()).abs().max()) < _WHOLE for level in levels)


def _difference(
    geometry: Geometry, pictures: list[Image.Image], levels: list[Tensor], most: float = float("inf")
) -> float:
    """Return the mean difference between what a geometry makes of a picture and given levels of 255.

    Args:
        geometry: Resize and crop.
        pictures: N pictures, of which the worst one counts.
        levels: float32 ``[3, H, W]`` of each.
        most: Where a picture differs by more, the others are not looked at.
    """
    worst = 0.0
    for picture, level in zip(pictures, levels, strict=True):
        pixels = to_pixels(picture, geometry)
        mine = pixels * 255 if geometry.floats else pixels.float()
        worst = max(worst, float((mine - level).abs().mean()))
        if worst >= most:
            break
    return worst


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


def _kernels(name: str, floats: bool) -> tuple[str, ...]:
    """Return the interpolations that transformers may run for one.

    For Lanczos that is torch's; bicubic where torchvision is older than 0.27; in some processors Pillow's.
    """
    if name == "lanczos":
        own = ("lanczos" if floats else TORCH_LANCZOS,) if _has_lanczos() else ()
        names: tuple[str, ...] = (*own, "bicubic") if floats else (*own, "lanczos", "bicubic")
    else:
        names = (name,)
    return tuple(each + FLOAT for each in names) if floats else names


@cache
def _has_lanczos() -> bool:
    """Tell whether this torch resizes by Lanczos itself."""
    try:
        interpolate(torch.zeros(1, 1, 4, 4), (2, 2), mode="lanczos", antialias=True)
    except (NotImplementedError, ValueError):
        return False
    return True


def _candidates(processor: Any, final: tuple[int, int], floats: bool, where: str) -> Iterator[Geometry]:
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
            for kernel in _kernels(INTERPOLATIONS[number], floats):
                yield Geometry(final, target, kernel, crop="floor")


def _picture(width: int, height: int) -> Image.Image:
    """Return a picture with smooth colours, edges and noise; the same in every process."""
    generator = np.random.default_rng(width)
    coarse = generator.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    resized = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    smooth = np.array(resized, dtype=float)
    smooth[height // 3 : height // 2, width // 4 : width // 2] = (250, 20, 60)
    noisy = smooth + generator.normal(0, 12, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
