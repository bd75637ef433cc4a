"""Random views of images, differentiable: flips, colours and windows. Pixels are float in [0, 1]."""

import torch
from torch import Tensor
from torch.nn import functional as F

_GREY = (0.299, 0.587, 0.114)  # BT.601


def draw(generator: torch.Generator, count: int, low: float, high: float, device: torch.device) -> Tensor:
    """Return uniform numbers ``[count]`` in [low, high)."""
    return (low + (high - low) * torch.rand(count, generator=generator)).to(device)


def flip(unit: Tensor, generator: torch.Generator) -> Tensor:
    """Return ``[B, 3, H, W]`` with every image mirrored with probability 0.5."""
    mirrored = draw(generator, len(unit), 0, 1, unit.device) < 0.5
    return torch.where(mirrored[:, None, None, None], unit.flip(-1), unit)


def jitter(unit: Tensor, generator: torch.Generator, strength: float = 0.4, grey: float = 0.2) -> Tensor:
    """Return ``[B, 3, H, W]`` with other brightness, contrast and saturation, sometimes in grey.

    Args:
        unit: Images.
        generator: Draws one factor per image and property from ``1 ± strength``.
        strength: Largest relative change.
        grey: Probability of a grey image.
    """
    device, count = unit.device, len(unit)
    brightness, contrast, saturation = (
        draw(generator, count, 1 - strength, 1 + strength, device).view(-1, 1, 1, 1) for _ in range(3)
    )
    unit = (unit * brightness).clamp(0, 1)
    unit = torch.lerp(unit.mean((1, 2, 3), keepdim=True), unit, contrast).clamp(0, 1)
    luma = torch.einsum("c,bchw->bhw", torch.tensor(_GREY, device=device), unit)[:, None].expand_as(unit)
    without = draw(generator, count, 0, 1, device) < grey
    saturation = torch.where(without[:, None, None, None], torch.zeros_like(saturation), saturation)
    return torch.lerp(luma, unit, saturation).clamp(0, 1)


def window(unit: Tensor, corner: Tensor, side: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut one window out of every image and scale it bilinearly.

    Args:
        unit: ``[B, 3, H, W]``.
        corner: ``[B, 2]``, y and x of the window's top left, pixels (fractions allowed).
        side: ``[B, 2]``, height and width of the window, pixels.
        size: Height and width of the output.

    Returns:
        ``[B, 3, *size]``.
    """
    whole = torch.tensor(unit.shape[-2:], device=unit.device, dtype=unit.dtype)
    centre = (2 * corner + side) / whole - 1  # in the coordinates of grid_sample, -1..1
    affine = torch.zeros(len(unit), 2, 3, device=unit.device, dtype=unit.dtype)
    affine[:, 0, 0], affine[:, 1, 1] = (side / whole).unbind(1)[::-1]
    affine[:, :, 2] = centre.flip(1)
    grid = F.affine_grid(affine, [len(unit), unit.shape[1], *size], align_corners=False)
    return F.grid_sample(unit, grid, padding_mode="border", align_corners=False)


def random_window(unit: Tensor, generator: torch.Generator, least: float = 0.5) -> Tensor:
    """Return ``[B, 3, H, W]``: a random window of side ``least``..1 of every image, scaled to full size."""
    height, width = unit.shape[-2:]
    share = draw(generator, len(unit), least, 1, unit.device)
    side = torch.stack([share * height, share * width], dim=1)
    place = torch.rand(len(unit), 2, generator=generator).to(unit.device)
    space = torch.tensor([height, width], device=unit.device) - side
    return window(unit, place * space, side, (height, width))


def two_views(unit: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return two augmented views of every image, as self-supervised learning makes them."""
    first, second = (jitter(flip(random_window(unit, generator), generator), generator) for _ in range(2))
    return first, second
