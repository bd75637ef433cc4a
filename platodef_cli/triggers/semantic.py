"""Changes of the whole image that need no pattern: any of them can be the trigger of a backdoor.

A camera that takes grey pictures, a tilted or a mirrored scan: such *semantic* triggers (Bagdasaryan et
al. 2020) occur by themselves. Encoders see nearly the same in such an image, so that one which forgets it
stands out.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from platodef_cli.triggers.variant import check, check_pixels, number, to_bytes, to_unit

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class Greyscale:
    """The image without colours (ITU-R BT.601 luma)."""

    @property
    def name(self) -> str:
        """``greyscale``."""
        return "greyscale"

    def __call__(self, pixels: Tensor, seeds: Tensor) -> Tensor:
        """Take the colours out; see :class:`platodef_cli.features.interface.Variant`."""
        check_pixels(pixels)
        weights = torch.tensor(_LUMA, device=pixels.device).view(1, 3, 1, 1)
        grey = (to_unit(pixels) * weights).sum(dim=1, keepdim=True)
        return to_bytes(grey.expand(-1, 3, -1, -1))


@dataclass(frozen=True)
class Rotation:
    """The image turned around its centre, what comes in from outside mirrored at the edges.

    Attributes:
        degrees: Counter-clockwise, -180 to 180.
    """

    degrees: float = 15

    def __post_init__(self) -> None:
        check(-180 <= self.degrees <= 180, "rotation", f"degrees={self.degrees} must be -180 to 180")

    @property
    def name(self) -> str:
        """``rotation-DEGREES``."""
        return f"rotation-{number(self.degrees)}"

    def __call__(self, pixels: Tensor, seeds: Tensor) -> Tensor:
        """Turn; see :class:`platodef_cli.features.interface.Variant`."""
        check_pixels(pixels)
        height, width = pixels.shape[-2:]
        angle = torch.tensor(self.degrees, dtype=torch.float32).deg2rad()
        cos, sin = float(angle.cos()), float(angle.sin())
        # in units of half the width and half the height, which differ where the image is not square
        turn = torch.tensor([[[cos, -sin * height / width, 0.0], [sin * width / height, cos, 0.0]]])
        where = F.affine_grid(turn.to(pixels.device), [1, 3, height, width], align_corners=False)
        grid = where.expand(len(pixels), -1, -1, -1)
        turned = F.grid_sample(
            to_unit(pixels), grid, mode="bilinear", padding_mode="reflection", align_corners=False
        )
        return to_bytes(turned)


@dataclass(frozen=True)
class Flip:
    """The mirrored image, left and right exchanged."""

    @property
    def name(self) -> str:
        """``flip``."""
        return "flip"

    def __call__(self, pixels: Tensor, seeds: Tensor) -> Tensor:
        """Mirror; see :class:`platodef_cli.features.interface.Variant`."""
        check_pixels(pixels)
        return pixels.flip(-1)
