"""The contract of an encoder: uint8 pixels in, one feature vector per image out."""

from typing import Protocol

from torch import Tensor

from platodef_cli.encoders.geometry import Geometry, to_pixels
from platodef_cli.records import EncoderRecord

__all__ = ["Encoder", "Geometry", "to_pixels"]


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
        """Return features ``[B, D]`` of float32 ``pixels`` ``[B, 3, H, W]`` in [0, 1], with gradients.

        The encoder's own weights never receive gradients.
        """

    def close(self) -> None:
        """Free the encoder (and its child process, where it has one)."""
