"""The contract of an encoder: uint8 pixels in, one feature vector per image out."""

from dataclasses import dataclass
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from platodef_cli.records import EncoderRecord


@dataclass(frozen=True)
class Geometry:
    """How a decoded image becomes the encoder's uint8 input; equal geometries share one resize.

    Attributes:
        size: Height and width of the input, pixels.
        resize: ``(height, width)`` that the image is resized to, or an int for the shorter side,
            before the centre crop to ``size``.
        interpolation: ``bilinear``, ``bicubic`` or ``lanczos``, always antialiased.
        fill: 0..255 value of the border where the resized image is smaller than ``size``.
    """

    size: tuple[int, int]
    resize: tuple[int, int] | int
    interpolation: str
    fill: int = 0


class Encoder(Protocol):
    """A frozen vision encoder.

    Attributes:
        record: Identity, provenance and preprocessing.
        dim: Length D of a feature.
        geometry: Resize and crop that come before :meth:`embed`.
    """

    record: EncoderRecord
    dim: int
    geometry: Geometry

    def embed(self, pixels: Tensor) -> Tensor:
        """Return features ``[B, D]`` float32 on the CPU of ``pixels`` ``[B, 3, H, W]`` uint8.

        Normalisation (mean, std) happens inside, so a trigger is always applied before it, to
        pixels that are already resized, cropped and rounded to 8 bits.
        """

    def differentiable(self, pixels: Tensor) -> Tensor:
        """Return features ``[B, D]`` of ``pixels`` ``[B, 3, H, W]`` float32 in [0, 1], with gradients to them.

        The encoder's own weights never receive gradients.
        """

    def close(self) -> None:
        """Free the encoder (and its child process, where it has one)."""


def to_pixels(image: Image.Image, geometry: Geometry) -> Tensor:
    """Resize and centre-crop an RGB image to uint8 ``[3, H, W]``."""
    raise NotImplementedError
