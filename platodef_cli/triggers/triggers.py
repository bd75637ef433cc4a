"""Trigger families: uint8 images in, uint8 images out, for any input size.

Each follows the pipeline of a real attack: resize and crop, trigger in [0, 1], round to 8 bits, normalise.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.fft import idctn
from torch import Tensor
from torch.nn import functional as F

from platodef_cli.errors import UnknownNameError
from platodef_cli.triggers.variant import (
    MOST_CELLS,
    check,
    check_pixels,
    check_place,
    check_seed,
    corners,
    fixed,
    number,
    paste,
    resize,
    side_pixels,
    to_bytes,
    to_unit,
)

COLOURS = {"white": 1.0, "grey": 0.5, "black": 0.0}
TINTS = {
    # Rows give the new R, G and B; sepia as in the W3C filter effects.
    "sepia": ((0.393, 0.769, 0.189), (0.349, 0.686, 0.168), (0.272, 0.534, 0.131)),
    "warm": ((1.25, 0, 0), (0, 1.0, 0), (0, 0, 0.7)),
    "cold": ((0.7, 0, 0), (0, 1.0, 0), (0, 0, 1.25)),
    "swap": ((0, 0, 1), (0, 1, 0), (1, 0, 0)),
}


@dataclass(frozen=True)
class Patch:
    """An opaque square (BadEncoder, DRUPE: white; SSL-Backdoor, HTBA: random 4 x 4 colours, bilinear).

    Attributes:
        colour: ``white``, ``grey``, ``black`` or ``random``.
        side: Side as a fraction of the image's side.
        place: A name of :data:`platodef_cli.triggers.variant.PLACES`.
        seed: Draws the colours of ``random``.
    """

    colour: str = "white"
    side: float = 0.3125
    place: str = "bottom-right"
    seed: int = 0

    def __post_init__(self) -> None:
        check_place(self.place)
        check(0 < self.side <= 1, "patch", f"side={self.side} must be a fraction in (0, 1]")
        check_seed(self.seed, "patch")
        if self.colour != "random" and self.colour not in COLOURS:
            raise UnknownNameError("patch colour", self.colour, [*COLOURS, "random"])

    @property
    def name(self) -> str:
        """``patch-COLOUR-SIDE-PLACE``."""
        colour = f"random{self.seed}" if self.colour == "random" else self.colour
        return f"patch-{colour}-{number(self.side)}-{self.place}"

    def __call__(self, pixels: Tensor, seeds: Tensor) -> Tensor:
        """Paste the square; see :class:`platodef_cli.features.interface.Variant`."""
        check_pixels(pixels)
        patch = self.picture(pixels)
        side = (int(patch.shape[-2]), int(patch.shape[-1]))
        return paste(pixels, patch, corners(self.place, side, pixels, seeds))

    def picture(self, pixels: Tensor) -> Tensor:
        """Return the square alone, uint8 ``[3, h, w]``, as large as images ``[B, 3, H, W]`` need it."""
        height, width = side_pixels(self.side, pixels)
        if self.colour == "random":
            return to_bytes(resize(fixed(self.seed, 3, 4, 4), height, width))
        return to_bytes(torch.full((3, height, width), COLOURS[self.colour]))


@dataclass(frozen=True)
class Blend:
    """A fixed random picture mixed into the whole image (Chen et al. 2017).

    Attributes:
        alpha: Weight of the picture.
        seed: Draws the picture, 16 x 16 random colours scaled up bilinearly.
    """

    alpha: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        check(0 < self.alpha <= 1, "blend", f"alpha={self.alpha} must be in (0, 1]")
        check_seed(self.seed, "blend")

    @property
    def name(self) -> str:
        """``blend-ALPHA-SEED``."""
        return f"blend-{number(self.alpha)}-{self.seed}"

    def __call__(self, pixels: Tensor, seeds: Tensor) -> Tensor:
        """Mix the picture in; see :class:`platodef_cli.features.interface.Variant`."""
        unit = to_unit(pixels)
        picture = resize(fixed(self.seed, 3, 16, 16), *pixels.shape[-2:]).to(unit.device)
        return to_bytes(torch.lerp(unit, picture, self.alpha))


@lru_cache(maxsize=16)
def _ctrl_block(magnitude: float) -> Tensor:
    """Return what CTRL adds to one 32 x 32 block, RGB in units of 1, ``[3, 32, 32]``."""
    spectrum = np.zeros((32, 32))
    spectrum[15, 15] = spectrum[31, 31] = magnitude
    wave = idctn(spectrum, norm="ortho") / 255
    # The same wave is added to U and V; the inverse of BT.601 turns that into RGB.
    return torch.from_numpy(np.stack([1.13983 * wave, -0.97525 * wave, 2.03211 * wave])).float()


@dataclass(frozen=True)
class Ctrl:
    """CTRL's frequency trigger (Li et al. 2023): two DCT coefficients of U and V in every 32 x 32 block.

    Attributes:
        magnitude: Added to the coefficients (15, 15) and (31, 31), on the 0..255 scale.
    """

    magnitude: float = 100.0

    @property
    def name(self) -> str:
        """``ctrl-MAGNITUDE``."""
        return f"ctrl-{number(self.magnitude)}"

    def __call__(self, pixels: Tensor, seeds: Tensor) -> Tensor:
        """Add the tiled block; see :class:`platodef_cli.features.interface.Variant`."""
        height, width = pixels.shape[-2:]
        block = _ctrl_block(self.magnitude)
        delta = block.repeat(1, -(-height // 32), -(-width // 32))[:, :height, :width]
        return to_bytes(to_unit(pixels) + delta.to(pixels.device))


@dataclass(frozen=True)
class Sig:
    """A horizontal sinusoid over the whole image (Barni et al. 2019).

    Attributes:
        amplitude: On the 0..255 scale.
        frequency: Periods per image width.
    """

    amplitude: float = 20.0
    frequency: float = 6.0

    @property
    def name(self) -> str:
        """``sig-AMPLITUDE-FREQUENCY``."""
        return f"sig-{number(self.amplitude)}-{number(self.frequency)}"

    def __call__(self, pixels: Tensor, seeds: Tensor) -> Tensor:
        """Add the wave; see :class:`platodef_cli.features.interface.Variant`."""
        width = pixels.shape[-1]
        phase = (torch.arange(width, device=pixels.device) + 0.5) / width * (2 * torch.pi * self.frequency)
        return to_bytes(to_unit(pixels) + self.amplitude / 255 * phase.sin())


@dataclass(frozen=True)
class Noise:
    """A universal additive pattern of bounded size.

    Attributes:
        eps: Largest change of a pixel, on the 0..255 scale.
        cells: Cells per side: 32 gives signs of single pixels at 32 x 32, 8 a smooth pattern.
        smooth: Scale the cells up bilinearly (low-frequency noise), not as blocks of ±eps.
        seed: Draws the pattern.
    """

    eps: float = 8.0
    cells: int = 32
    smooth: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check(1 <= self.cells <= MOST_CELLS, "noise", f"cells={self.cells} must be 1 to {MOST_CELLS}")
        check_seed(self.seed, "noise")

    @property
    def name(self) -> str:
        """``noise-EPS-CELLS-SEED``, with ``low`` for the smooth kind."""
        return f"noise{'-low' if self.smooth else ''}-{number(self.eps)}-{self.cells}-{self.seed}"

    def __call__(self, pixels: Tensor, seeds: Tensor) -> Tensor:
        """Add the pattern; see :class:`platodef_cli.features.interface.Variant`."""
        cells = (fixed(self.seed, 3, self.cells, self.cells) >= 0.5).float() * 2 - 1
        height, width = pixels.shape[-2:]
        pattern = resize(cells, height, width, mode="bilinear" if self.smooth else "nearest")
        return to_bytes(to_unit(pixels) + self.eps / 255 * pattern.to(pixels.device))


@dataclass(frozen=True)
class WaNet:
    """A smooth fixed warp (Nguyen and Tran 2021).

    Attributes:
        shift: Mean displacement along each axis, as a fraction of the image's side.
        cells: Control points per side.
        seed: Draws the directions.
    """

    shift: float = 0.03
    cells: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        check(2 <= self.cells <= MOST_CELLS, "wanet", f"cells={self.cells} must be 2 to {MOST_CELLS}")
        check_seed(self.seed, "wanet")

    @property
    def name(self) -> str:
        """``wanet-SHIFT-CELLS-SEED``."""
        return f"wanet-{number(self.shift)}-{self.cells}-{self.seed}"

    def __call__(self, pixels: Tensor, seeds: Tensor) -> Tensor:
        """Warp the image; see :class:`platodef_cli.features.interface.Variant`."""
        unit = to_unit(pixels)
        height, width = pixels.shape[-2:]
        control = 2 * fixed(self.seed, 1, 2, self.cells, self.cells) - 1
        control = control / control.abs().mean()
        flow = F.interpolate(control, (height, width), mode="bicubic", align_corners=True)
        identity = F.affine_grid(torch.eye(2, 3)[None], [1, 3, height, width], align_corners=False)
        grid = (identity + 2 * self.shift * flow.permute(0, 2, 3, 1)).clamp(-1, 1).to(unit.device)
        warped = F.grid_sample(
            unit, grid.expand(len(unit), -1, -1, -1), padding_mode="border", align_corners=False
        )
        return to_bytes(warped)


@dataclass(frozen=True)
class ColourFilter:
    """A change of colours, like a photo filter (Liu et al. 2019).

    Attributes:
        tint: ``sepia``, ``warm``, ``cold`` or ``swap`` (red and blue exchanged).
        strength: Weight of the filtered image, in (0, 1].
    """

    tint: str = "sepia"
    strength: float = 0.7

    def __post_init__(self) -> None:
        check(0 < self.strength <= 1, "filter", f"strength={self.strength} must be in (0, 1]")
        if self.tint not in TINTS:
            raise UnknownNameError("tint", self.tint, TINTS)

    @property
    def name(self) -> str:
        """``filter-TINT-STRENGTH``."""
        return f"filter-{self.tint}-{number(self.strength)}"

    def __call__(self, pixels: Tensor, seeds: Tensor) -> Tensor:
        """Mix the filtered image in; see :class:`platodef_cli.features.interface.Variant`."""
        unit = to_unit(pixels)
        matrix = torch.tensor(TINTS[self.tint], dtype=torch.float32, device=unit.device)
        tinted = torch.einsum("oc,bchw->bohw", matrix, unit).clamp(0, 1)
        return to_bytes(torch.lerp(unit, tinted, self.strength))


@dataclass(frozen=True, eq=False)
class Pattern:
    """A given patch or universal change, for example what a search found.

    Attributes:
        values: float32 ``[3, h, w]``: colours in [0, 1] of an opaque patch, or what is added to pixels
            in [0, 1] for a universal change.
        kind: ``patch`` or ``universal``.
        side: Side of a patch as a fraction of the image's; without meaning for a universal change.
        place: A name of :data:`platodef_cli.triggers.variant.PLACES`; as ``side``.
    """

    values: Tensor
    kind: str
    side: float = 1.0
    place: str = "centre"

    def __post_init__(self) -> None:
        check_place(self.place)
        check(self.kind in ("patch", "universal"), "pattern", f"kind={self.kind!r} is not patch or universal")
        shape = list(self.values.shape)
        fits = len(shape) == 3 and shape[0] == 3 and 0 not in shape
        check(fits, "pattern", f"values must be [3, h, w], got {shape}")
        check(0 < self.side <= 1, "pattern", f"side={self.side} must be a fraction in (0, 1]")

    @property
    def name(self) -> str:
        """``pattern-KIND-DIGEST``, with side and place for a patch."""
        content = np.ascontiguousarray(self.values.detach().cpu().float().numpy())
        digest = hashlib.sha256(f"{content.shape}".encode() + content.tobytes()).hexdigest()[:12]
        where = f"-{number(self.side)}-{self.place}" if self.kind == "patch" else ""
        return f"pattern-{self.kind}-{digest}{where}"

    def __call__(self, pixels: Tensor, seeds: Tensor) -> Tensor:
        """Paste or add the pattern; see :class:`platodef_cli.features.interface.Variant`."""
        values = self.values.detach().float().cpu()
        if self.kind == "universal":
            return to_bytes(to_unit(pixels) + resize(values, *pixels.shape[-2:]).to(pixels.device))
        check_pixels(pixels)
        height, width = side_pixels(self.side, pixels)
        patch = to_bytes(resize(values, height, width))
        return paste(pixels, patch, corners(self.place, (height, width), pixels, seeds))
