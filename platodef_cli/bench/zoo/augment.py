"""Random changes of training images, batched and drawn from one generator."""

import torch
from torch import Tensor
from torch.nn import functional as F


def to_unit(pixels: Tensor) -> Tensor:
    """Return uint8 ``[B, 3, H, W]`` as float32 in [0, 1]."""
    return pixels.float() / 255


def weak(unit: Tensor, generator: torch.Generator, shift: int = 3, flips: float = 0.5) -> Tensor:
    """Flip a share of the images and move each by up to ``shift`` pixels, edges repeated.

    Args:
        unit: ``[B, 3, H, W]`` in [0, 1].
        generator: Draws everything.
        shift: Largest move, pixels.
        flips: Share of the images that are flipped.
    """
    count, _, height, width = unit.shape
    padded = F.pad(unit, (shift,) * 4, mode="replicate")
    corner = torch.randint(2 * shift + 1, (2, count), generator=generator)
    rows = corner[0, :, None] + torch.arange(height)
    columns = torch.arange(width).expand(count, -1)
    flip = torch.rand(count, generator=generator) < flips
    columns = corner[1, :, None] + torch.where(flip[:, None], columns.flip(1), columns)
    batch = torch.arange(count)[:, None, None, None]
    colour = torch.arange(unit.shape[1])[None, :, None, None]
    return padded[batch, colour, rows[:, None, :, None], columns[:, None, None, :]]


def erase(
    unit: Tensor,
    generator: torch.Generator,
    share: float,
    sides: tuple[float, float] = (0.15, 0.4),
) -> Tensor:
    """Cover a random rectangle of some images with one random colour (random erasing; Zhong et al. 2020).

    Args:
        unit: ``[B, 3, H, W]`` in [0, 1].
        generator: Draws everything.
        share: Probability that an image is changed; 0 draws nothing.
        sides: Least and largest height and width of the rectangle, as fractions of the image's.
    """
    if share == 0:
        return unit
    count, colours, height, width = unit.shape

    def draw(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator)

    size = sides[0] + (sides[1] - sides[0]) * draw(2)
    start = draw(2) * (1 - size)
    inside = torch.ones(count, 1, height, width, dtype=torch.bool)
    for axis, length in enumerate((height, width)):
        place = (torch.arange(length) + 0.5) / length
        within = (place >= start[:, axis, None]) & (place < (start + size)[:, axis, None])  # [B, length]
        inside &= within[:, None, :, None] if axis == 0 else within[:, None, None, :]
    inside &= (draw() < share)[:, None, None, None]
    return torch.where(inside, draw(colours, 1, 1), unit)


def strong(unit: Tensor, generator: torch.Generator, least: float = 0.35) -> Tensor:
    """Crop, flip and recolour every image at random, as contrastive learning does (Chen et al. 2020).

    Args:
        unit: ``[B, 3, H, W]`` in [0, 1].
        generator: Draws everything.
        least: Smallest share of the area that a crop keeps.
    """
    count = len(unit)

    def draw(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator)

    side = (least + (1 - least) * draw()).sqrt()
    ratio = (0.3 * (draw() - 0.5)).exp()
    scale = torch.stack([(side * ratio).clamp(max=1), (side / ratio).clamp(max=1)], dim=1)  # x, y
    centre = (2 * draw(2) - 1) * (1 - scale)
    mirror = torch.where(draw() < 0.5, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = scale[:, 0] * mirror, scale[:, 1]
    theta[:, :, 2] = centre
    grid = F.affine_grid(theta, list(unit.shape), align_corners=False)
    crop = F.grid_sample(unit, grid, padding_mode="reflection", align_corners=False)
    return _recolour(crop, draw)


def _recolour(unit: Tensor, draw: "object") -> Tensor:
    assert callable(draw)
    gain = 0.6 + 0.8 * draw(1, 1, 1)
    contrast = 0.6 + 0.8 * draw(1, 1, 1)
    tint = 0.85 + 0.3 * draw(3, 1, 1)
    grey = unit.mean(1, keepdim=True)
    keep = torch.where(draw(1, 1, 1) < 0.15, 0.0, 0.5 + draw(1, 1, 1))  # saturation, 0 is grey
    coloured = grey + keep * (unit - grey)
    middle = coloured.mean((1, 2, 3), keepdim=True)
    changed: Tensor = ((coloured - middle) * contrast + middle) * gain * tint
    return changed.clamp(0, 1)
