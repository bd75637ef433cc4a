"""What all variants share: names, places, rounding and random numbers that fit any input size."""

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from platodef_cli.errors import UnknownNameError, UsageError
from platodef_cli.images.counter import uniform

PLACES: dict[str, tuple[float, float] | None] = {
    "top-left": (0.0, 0.0),
    "top": (0.0, 0.5),
    "top-right": (0.0, 1.0),
    "left": (0.5, 0.0),
    "centre": (0.5, 0.5),
    "right": (0.5, 1.0),
    "bottom-left": (1.0, 0.0),
    "bottom": (1.0, 0.5),
    "bottom-right": (1.0, 1.0),
    "random": None,
}
"""Place -> share of the free height and width that lies above and to the left; None: per image."""
MOST_CELLS = 1024  # per side of a drawn pattern: images are not larger, and memory is not endless


def parameters(variant: object) -> dict[str, float | int | str]:
    """Return the numbers and words that define a variant, for reports."""
    values = {field.name: getattr(variant, field.name) for field in fields(variant)}  # type: ignore[arg-type]
    return {name: value for name, value in values.items() if isinstance(value, float | int | str)}


def number(value: float) -> str:
    """Return a number for a name: short where that is exact, else in full."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def check_pixels(pixels: Tensor) -> None:
    """Raise unless the tensor is a batch of 8-bit RGB images.

    Raises:
        UsageError: The tensor has another shape or type.
    """
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3:
        raise UsageError(f"a trigger takes uint8 [B, 3, H, W], got {pixels.dtype} {list(pixels.shape)}")


def to_unit(pixels: Tensor) -> Tensor:
    """Return uint8 ``[B, 3, H, W]`` as float32 in [0, 1], after :func:`check_pixels`."""
    check_pixels(pixels)
    return pixels.to(torch.float32) / 255


def to_bytes(unit: Tensor) -> Tensor:
    """Clip float ``[B, 3, H, W]`` to [0, 1] and round to the nearest uint8, as a saved image would be."""
    return (unit * 255).round_().clamp_(0, 255).to(torch.uint8)


def per_image(seeds: Tensor, count: int, stream: int, device: torch.device) -> Tensor:
    """Return float32 ``[B, count]`` in [0, 1) that depends on each image's seed only."""
    return torch.from_numpy(uniform(stream, seeds.cpu().numpy(), count)).to(device)


def fixed(seed: int, *shape: int) -> Tensor:
    """Return float32 numbers in [0, 1) of the given shape that depend on ``seed`` only."""
    count = int(np.prod(shape))
    return torch.from_numpy(uniform(seed, np.zeros(1, np.int64), count)).reshape(shape)


def resize(picture: Tensor, height: int, width: int, mode: str = "bilinear") -> Tensor:
    """Return ``[C, h, w]`` scaled to ``[C, height, width]``."""
    options: dict[str, Any] = {} if mode == "nearest" else {"align_corners": False}
    return F.interpolate(picture[None], (height, width), mode=mode, **options)[0]


def check(condition: bool, variant: str, what: str) -> None:
    """Raise a usage error about a parameter of a variant unless the condition holds."""
    if not condition:
        raise UsageError(f"{variant}: {what}")


def check_seed(seed: int, variant: str) -> None:
    """Raise unless random numbers can be drawn with the seed."""
    check(0 <= seed < 2**63, variant, f"seed={seed} must be 0 to 2**63 - 1")


def check_place(place: str) -> None:
    """Raise unless the place has a name in :data:`PLACES`."""
    if place not in PLACES:
        raise UnknownNameError("place", place, PLACES)


def corners(place: str, side: tuple[int, int], pixels: Tensor, seeds: Tensor) -> Tensor:
    """Return the top-left corners int64 ``[B, 2]`` (y, x) of a patch of ``side`` (h, w) pixels.

    Fixed places keep one pixel in 224 to the border (BadEncoder's square ends one pixel off the
    corner, at 32 as at 224 pixels). Random places keep the patch within 0.10–0.90 of each side (HTBA).
    """
    size = torch.tensor(pixels.shape[-2:])
    room = size - torch.tensor(side)
    share = PLACES[place]
    if share is not None:
        margin = torch.minimum((size / 224).round().clamp(min=1).long(), room.clamp(min=0) // 2)
        corner = margin + (torch.tensor(share) * (room - 2 * margin).clamp(min=0)).round().long()
        return corner.expand(len(pixels), 2)
    low = (0.1 * size).round()
    free = (0.9 * size).round() - low - torch.tensor(side)  # negative: too large for the inner part
    start = torch.where(free < 0, room // 2, low)
    steps = per_image(seeds, 2, 0x91ACE, torch.device("cpu")) * (free.clamp(min=0) + 1)
    return (start + steps.floor()).long()


def paste(pixels: Tensor, patch: Tensor, corner: Tensor) -> Tensor:
    """Return a copy of uint8 ``[B, 3, H, W]`` with uint8 ``patch [3, h, w]`` at ``corner [B, 2]``."""
    height, width = patch.shape[-2:]
    corner = corner.to(pixels.device)
    batch = torch.arange(len(pixels), device=pixels.device)[:, None, None, None]
    colour = torch.arange(3, device=pixels.device)[None, :, None, None]
    rows = (corner[:, 0, None] + torch.arange(height, device=pixels.device))[:, None, :, None]
    columns = (corner[:, 1, None] + torch.arange(width, device=pixels.device))[:, None, None, :]
    out = pixels.clone()
    out[batch, colour, rows, columns] = patch.to(pixels.device).expand(len(pixels), -1, -1, -1)
    return out


def side_pixels(side: float, pixels: Tensor) -> tuple[int, int]:
    """Return height and width in pixels of a patch whose side is the given share of the image."""
    height, width = pixels.shape[-2:]
    return max(1, min(height, round(side * height))), max(1, min(width, round(side * width)))


def fault_of(kind: Any) -> str:
    """Return what is wrong with a plug-in's change of images, tried on two grey images."""
    made: Any = kind()
    if not is_dataclass(kind):
        return "it is no dataclass, whose fields are its parameters"
    name = getattr(made, "name", None)
    if not isinstance(name, str) or not name:
        return f"its name is {name!r:.60}, not a text"
    pixels = torch.full((2, 3, 64, 64), 128, dtype=torch.uint8)
    changed = made(pixels.clone(), torch.arange(2))
    if not isinstance(changed, torch.Tensor):
        return f"it gives {type(changed).__name__}, not a tensor"
    if changed.dtype != torch.uint8 or changed.shape != pixels.shape:
        return f"it gives {changed.dtype} {list(changed.shape)} for uint8 {list(pixels.shape)}"
    return ""
