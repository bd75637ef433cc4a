"""Benign controls: changes as strong as a trigger that no attacker made.

A detector that fires on these as much as on triggers has found nothing. The grey patch is
:class:`platodef_cli.triggers.triggers.Patch` with ``colour="grey"``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from platodef_cli.environment import import_without_compiler
from platodef_cli.triggers.variant import check, check_pixels, number, per_image, to_bytes, to_unit


@dataclass(frozen=True)
class Jpeg:
    """JPEG compression.

    Attributes:
        quality: 1..100.
    """

    quality: int = 50

    def __post_init__(self) -> None:
        check(1 <= self.quality <= 100, "jpeg", f"quality={self.quality} must be 1 to 100")

    @property
    def name(self) -> str:
        """``jpeg-QUALITY``."""
        return f"jpeg-{self.quality}"

    def __call__(self, pixels: Tensor, seeds: Tensor) -> Tensor:
        """Encode and decode; see :class:`platodef_cli.features.interface.Variant`."""
        import_without_compiler("torchvision")
        from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg

        check_pixels(pixels)
        out = torch.empty_like(pixels)
        for i, image in enumerate(pixels.cpu()):
            out[i] = decode_jpeg(encode_jpeg(image, quality=self.quality), mode=ImageReadMode.RGB)
        return out


@dataclass(frozen=True)
class Blur:
    """Gaussian blur.

    Attributes:
        sigma: Standard deviation as a fraction of the image's side.
    """

    sigma: float = 0.025

    def __post_init__(self) -> None:
        check(self.sigma > 0, "blur", f"sigma={self.sigma} must be positive")

    @property
    def name(self) -> str:
        """``blur-SIGMA``."""
        return f"blur-{number(self.sigma)}"

    def __call__(self, pixels: Tensor, seeds: Tensor) -> Tensor:
        """Convolve; see :class:`platodef_cli.features.interface.Variant`."""
        out = to_unit(pixels)
        for axis in (-2, -1):
            sigma = self.sigma * pixels.shape[axis]
            reach = min(max(1, round(3 * sigma)), pixels.shape[axis] - 1)
            offsets = torch.arange(-reach, reach + 1, device=pixels.device)
            weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
            weights = weights / weights.sum()
            kernel = weights[:, None] if axis == -2 else weights[None, :]
            padding = (0, 0, reach, reach) if axis == -2 else (reach, reach, 0, 0)
            out = F.conv2d(F.pad(out, padding, mode="reflect"), kernel.expand(3, 1, *kernel.shape), groups=3)
        return to_bytes(out)


@dataclass(frozen=True)
class Crop:
    """A crop of part of the image at a random place, scaled back to full size.

    Attributes:
        keep: Side of the crop as a fraction of the image's.
    """

    keep: float = 0.85

    def __post_init__(self) -> None:
        check(0 < self.keep <= 1, "crop", f"keep={self.keep} must be in (0, 1]")

    @property
    def name(self) -> str:
        """``crop-KEEP``."""
        return f"crop-{number(self.keep)}"

    def __call__(self, pixels: Tensor, seeds: Tensor) -> Tensor:
        """Crop and scale; see :class:`platodef_cli.features.interface.Variant`."""
        unit = to_unit(pixels)
        centre = (2 * per_image(seeds, 2, 0xC409, unit.device) - 1) * (1 - self.keep)
        if not len(unit):
            return pixels.clone()
        affine = torch.zeros(len(unit), 2, 3, device=unit.device)
        affine[:, 0, 0] = affine[:, 1, 1] = self.keep
        affine[:, :, 2] = centre
        grid = F.affine_grid(affine, list(unit.shape), align_corners=False)
        return to_bytes(F.grid_sample(unit, grid, padding_mode="border", align_corners=False))


@dataclass(frozen=True)
class MildNoise:
    """Gaussian noise that differs from image to image, as a camera makes it.

    Attributes:
        sigma: Standard deviation on the 0..255 scale.
    """

    sigma: float = 8.0

    @property
    def name(self) -> str:
        """``mild-noise-SIGMA``."""
        return f"mild-noise-{number(self.sigma)}"

    def __call__(self, pixels: Tensor, seeds: Tensor) -> Tensor:
        """Add the noise; see :class:`platodef_cli.features.interface.Variant`."""
        unit = to_unit(pixels)
        count = unit[0].numel() if len(unit) else 0
        u = per_image(seeds, 2 * count, 0x2015E, unit.device).view(len(unit), 2, *unit.shape[1:])
        # Box and Muller; 1 - u keeps the logarithm finite.
        normal = (-2 * torch.log(1 - u[:, 0])).sqrt() * torch.cos(2 * torch.pi * u[:, 1])
        return to_bytes(unit + self.sigma / 255 * normal)
