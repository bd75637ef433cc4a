"""Resize and centre crop: from a decoded image to an encoder's input, in 8 bits or, for a few, in floats.

The sizes and offsets reproduce torchvision's ``Resize`` and ``CenterCrop``, timm's ``ResizeKeepRatio``
and ``CenterCropOrPad``, and the processors of transformers, pixel for pixel.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
FLOAT = "-float"
"""End of the name of an interpolation whose results are not rounded to 8 bits."""
TORCH_LANCZOS = "lanczos-torch"
"""Lanczos as torch computes it, up to two of 255 levels away from Pillow's."""
MAX_RESIZED = 2**24
"""Pixels of a resized image past which only the part that the crop keeps is computed."""


@dataclass(frozen=True)
class Geometry:
    """How a decoded image becomes the encoder's input; equal geometries share one resize.

    Attributes:
        size: Height and width of the input, pixels.
        resize: ``(height, width)`` that the image is resized to, or an int for the shorter side,
            before the centre crop to ``size``.
        interpolation: ``bilinear``, ``bicubic`` or ``lanczos``, always antialiased, or ``nearest``. With
            ``-float`` behind it, the image is resized as numbers of [0, 1] and not rounded to 8 bits;
            ``lanczos-torch`` is torch's Lanczos instead of Pillow's.
        fill: 0..255 value (one, or one per channel) of the border where the resized image is smaller
            than ``size``.
        fit: How a pair ``resize`` is met: ``exact`` stretches both sides; ``cover`` keeps the aspect
            ratio with both sides at least as long; ``contain`` keeps it with both at most as long.
        crop: Where an odd margin goes: ``round`` (half to even, torchvision and timm) or ``floor``
            (transformers).
    """

    size: tuple[int, int]
    resize: tuple[int, int] | int
    interpolation: str
    fill: int | tuple[int, int, int] = 0
    fit: str = "exact"
    crop: str = "round"

    @property
    def floats(self) -> bool:
        """Whether the input is float32 instead of uint8."""
        return self.interpolation.endswith(FLOAT)

    @property
    def kernel(self) -> str:
        """Return the name of the interpolation alone."""
        return self.interpolation.removesuffix(FLOAT).removesuffix("-torch")


def resized_size(height: int, width: int, geometry: Geometry) -> tuple[int, int]:
    """Return the height and width that an image of the given size is resized to."""
    if isinstance(geometry.resize, int):
        short, long = sorted((height, width))
        longer = int(geometry.resize * long / short)
        return (geometry.resize, longer) if height <= width else (longer, geometry.resize)
    if geometry.fit == "exact":
        return geometry.resize
    ratios = (height / geometry.resize[0], width / geometry.resize[1])
    ratio = min(ratios) if geometry.fit == "cover" else max(ratios)
    # An extreme aspect ratio rounds the short side to 0, which no resize accepts.
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def to_pixels(image: Image.Image, geometry: Geometry) -> Tensor:
    """Resize and centre-crop an RGB image to ``[3, H, W]``.

    Bilinear and bicubic run torchvision's antialiased uint8 kernels, which differ from Pillow's by at
    most 2 of 255 levels in a few pixels per thousand; Lanczos runs Pillow's.

    Returns:
        uint8; or, where the geometry says floats, float32 as a share of 255, which overshoots [0, 1] a little
        where a kernel with negative lobes does.
    """
    if image.mode != "RGB":
        image = image.convert("RGB")
    target = resized_size(image.height, image.width, geometry)
    if target[0] * target[1] > MAX_RESIZED:
        return _elongated(image, target, geometry)
    if geometry.interpolation == "lanczos" and target != (image.height, image.width):
        image = image.resize((target[1], target[0]), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # [H, W, 3] -> [3, H, W]
    if geometry.floats:
        pixels = pixels.contiguous() / 255
    if target != tuple(pixels.shape[1:]):
        nearest = geometry.kernel == "nearest"  # torch's own `nearest` is half a pixel off Pillow's
        mode = "nearest-exact" if nearest else geometry.kernel
        pixels = interpolate(pixels[None], target, mode=mode, antialias=not nearest)[0]
    return _centre(pixels, geometry).contiguous()


def to_levels(pixels: Tensor) -> Tensor:
    """Return pixels as uint8, as an image file would hold them: those that are floats are rounded."""
    if pixels.dtype == torch.uint8:
        return pixels
    return (pixels * 255).round_().clamp_(0, 255).to(torch.uint8)


def _centre(pixels: Tensor, geometry: Geometry) -> Tensor:
    """Pad what is too short, then crop what is too long, to ``geometry.size``."""
    height, width = geometry.size
    short = [max(0, want - have) for want, have in zip(geometry.size, pixels.shape[1:], strict=True)]
    if any(short):
        border = (short[1] // 2, (short[1] + 1) // 2, short[0] // 2, (short[0] + 1) // 2)
        fill = geometry.fill if isinstance(geometry.fill, tuple) else (geometry.fill,) * 3
        pixels = torch.stack([pad(c, border, value=v) for c, v in zip(pixels, fill, strict=True)])
    margins = (pixels.shape[1] - height, pixels.shape[2] - width)
    top, left = (round(m / 2) if geometry.crop == "round" else m // 2 for m in margins)
    return pixels[:, top : top + height, left : left + width]


def _elongated(image: Image.Image, target: tuple[int, int], geometry: Geometry) -> Tensor:
    """Resize only what the crop keeps: a strip of 1 x 60 000 pixels would grow to gigabytes before it."""
    box = []
    kept = []
    for want, have, length in zip(geometry.size, target, (image.height, image.width), strict=True):
        margin = max(0, have - want)
        start = round(margin / 2) if geometry.crop == "round" else margin // 2
        kept.append(min(want, have))
        box.append((start * length / have, (start + kept[-1]) * length / have))
    (top, bottom), (left, right) = box
    resample = Image.Resampling[geometry.kernel.upper()]
    # Pillow keeps floats in images of one channel
    bands = [band.convert("F") for band in image.split()] if geometry.floats else [image]
    parts = [
        torch.from_numpy(np.array(band.resize((kept[1], kept[0]), resample, box=(left, top, right, bottom))))
        for band in bands
    ]
    pixels = torch.stack(parts) / 255 if geometry.floats else parts[0].permute(2, 0, 1)
    return _centre(pixels, geometry).contiguous()
