"""The contract of an encoder: pixels in, one feature vector per image out."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from platodef_cli.encoders.geometry import Geometry, to_levels, to_pixels
from platodef_cli.records import EncoderRecord

__all__ = ["Encoder", "Geometry", "HeadTerms", "InsideEncoder", "to_levels", "to_pixels"]


@dataclass(frozen=True)
class HeadTerms:
    """Features of a Vision Transformer as a sum of terms (Gandelsman et al. 2024).

    Attributes:
        terms: float32 ``[B, T, D]``, ``T = 1 + layers (heads + 1)``: the embedding, then for every layer its
            attention heads and its MLP. They add up to the encoder's features to 1e-4 of their length.
        layers: Number of blocks.
        heads: Attention heads per block.
    """

    terms: Tensor
    layers: int
    heads: int

    @property
    def last_heads(self) -> slice:
        """Places of the last block's attention heads among the terms."""
        start = 1 + (self.layers - 1) * (self.heads + 1)
        return slice(start, start + self.heads)


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

        Where the geometry says floats, float32 as a share of 255 is accepted as well. Normalisation (mean,
        std) happens inside, so a trigger is always applied before it, to pixels that are already resized,
        cropped and rounded to 8 bits.
        """

    def differentiable(self, pixels: Tensor) -> Tensor:
        """Return features ``[B, D]`` of float32 ``pixels`` ``[B, 3, H, W]`` in [0, 1], with gradients.

        The encoder's own weights never receive gradients.
        """

    def tune(
        self,
        *,
        threads: int | None = None,
        gradient_dtype: str | None = None,
        forward_dtype: str | None = None,
    ) -> None:
        """Set how it computes from now on; what is None stays as it is.

        Args:
            threads: Of its own process. An encoder in this process takes those of the calling thread.
            gradient_dtype: Precision of :meth:`differentiable`, ``float32`` or ``bfloat16``.
            forward_dtype: Precision of :meth:`embed`, for float32 weights; the record says it from then on.
        """

    def close(self) -> None:
        """Free the encoder (and its child process, where it has one)."""


class InsideEncoder(Encoder, Protocol):
    """An encoder that also shows its inside, as :class:`LocalEncoder` and :class:`RemoteEncoder` do."""

    def feature_map(self, pixels: Tensor) -> Tensor:
        """Return the last feature map ``[B, C, L]`` float32 of ``pixels`` ``[B, 3, H, W]`` uint8.

        C channels at L places: positions of a ConvNet, or tokens of a transformer, class token included.

        Raises:
            NotApplicable: The network has no such map.
        """

    def head_terms(self, pixels: Tensor) -> HeadTerms:
        """Return the features of ``pixels`` ``[B, 3, H, W]`` uint8 as a sum of terms.

        Raises:
            NotApplicable: The network is no pre-norm Vision Transformer, or its terms do not add up.
        """
