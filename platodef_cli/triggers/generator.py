"""A learned trigger that depends on the image: a small generator of bounded changes (BLTO)."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from platodef_cli.triggers.variant import check, number, to_bytes, to_unit

_WIDEST = 256
_GAIN = 2.0  # deviations before the tanh: most pixels come near the bound, few are stuck at it


class Generator(nn.Module):
    """Four convolutions of 3 x 3, an instance normalisation and a tanh.

    The two convolutions in the middle are dilated, so that each number rests on 17 x 17 pixels. The
    normalisation takes mean and deviation of each colour of the very image, so that training and evaluation
    are the same function. Without it, weak encoders drive the generator into one colour at its bound for
    all pixels: a tint, as images have it by nature, which opens the backdoor less well (81 % success
    instead of 99 % on the standard zoo's ConvNeXt), and which the flat ends of the tanh never let go.
    """

    def __init__(self, width: int = 16):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, width, 3, padding=2, dilation=2),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, width, 3, padding=4, dilation=4),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 3, 3, padding=1),
            nn.InstanceNorm2d(3),
        )

    def forward(self, unit: Tensor) -> Tensor:
        """Return changes ``[B, 3, H, W]`` in -1..1 of ``unit [B, 3, H, W]`` in 0..1."""
        change: Tensor = torch.tanh(_GAIN * self.body(2 * unit - 1))
        return change


@dataclass(frozen=True, eq=False)
class Generated:
    """What a generator adds to each image, at most ``eps``; it runs at a fixed size and is scaled up.

    Attributes:
        weights: State of a :class:`Generator`, of any width.
        eps: Largest change of a pixel, on the 0..255 scale.
        side: Side in pixels of the images that the generator sees.
    """

    weights: Mapping[str, Tensor]
    eps: float = 8.0
    side: int = 32

    def __post_init__(self) -> None:
        check(self.eps > 0, "generator", f"eps={self.eps} must be positive")
        check(8 <= self.side <= 1024, "generator", f"side={self.side} must be 8 to 1024 pixels")
        first = self.weights.get("body.0.weight")
        # the bound keeps a file from asking for a giant network
        fits = first is not None and first.ndim == 4 and 1 <= first.shape[0] <= _WIDEST
        check(fits, "generator", "the weights are not those of a generator")
        assert first is not None
        generator = Generator(first.shape[0])
        shapes = {name: value.shape for name, value in generator.state_dict().items()}
        given = {name: value.shape for name, value in self.weights.items()}
        check(shapes == given, "generator", "the weights are not those of a generator")
        generator.load_state_dict(self.weights)
        object.__setattr__(self, "_generator", generator.eval().requires_grad_(False))

    @property
    def name(self) -> str:
        """``generator-EPS-SIDE-DIGEST``."""
        digest = hashlib.sha256()
        for key in sorted(self.weights):
            value = np.ascontiguousarray(self.weights[key].detach().cpu().float().numpy())
            digest.update(f"{key} {value.shape}".encode() + value.tobytes())
        return f"generator-{number(self.eps)}-{self.side}-{digest.hexdigest()[:12]}"

    def __call__(self, pixels: Tensor, seeds: Tensor) -> Tensor:
        """Add the change; see :class:`platodef_cli.features.interface.Variant`."""
        unit = to_unit(pixels)
        generator: Generator = self._generator.to(pixels.device)  # type: ignore[attr-defined]
        out = torch.empty_like(pixels)
        with torch.no_grad():
            # One image at a time: convolutions of other batch sizes may round a pixel the other way.
            for row in range(len(unit)):
                out[row] = to_bytes(changed(generator, unit[row, None], self.eps, self.side))[0]
        return out


def changed(generator: nn.Module, unit: Tensor, eps: float, side: int) -> Tensor:
    """Return ``unit [B, 3, H, W]`` plus the generator's change, in [0, 1], with gradients."""
    small = resized(unit, (side, side))
    change = resized(generator(small), (int(unit.shape[-2]), int(unit.shape[-1])))
    return (unit + eps / 255 * change).clamp(0, 1)


def resized(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Return ``[B, C, *size]``, bilinear."""
    if tuple(pictures.shape[-2:]) == size:
        return pictures
    return F.interpolate(pictures, size, mode="bilinear", align_corners=False)
