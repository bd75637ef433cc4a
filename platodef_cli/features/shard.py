"""One shard of features as bytes: the unit of the cache and of every executor."""

import hashlib
import json
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from platodef_cli.features.disk import DamagedError, canonical_json
from platodef_cli.features.serialise import tensors_digest, to_bytes


@dataclass(frozen=True)
class Shard:
    """Features of one shard of images by one encoder under one variant.

    Attributes:
        features: float32 ``[n, D]``, finite.
        kept: int64 ``[n]``, ascending positions inside the shard of the images that could be decoded.
        broken: (position, reason) of the others.
    """

    features: Tensor
    kept: Tensor
    broken: tuple[tuple[int, str], ...]

    def serialise(self) -> bytes:
        """Return a safetensors file that carries the digest of its content."""
        tensors = {"features": self.features, "kept": self.kept}
        broken = canonical_json([list(item) for item in self.broken])
        return to_bytes(tensors, {"digest": _digest(tensors, broken), "broken": broken})

    @classmethod
    def parse(cls, data: bytes, images: int | None = None, dim: int | None = None) -> "Shard":
        """Read what :meth:`serialise` wrote.

        Args:
            data: The file.
            images: Number of images that the shard must cover.
            dim: Length that its features must have.

        Raises:
            DamagedError: The bytes are no shard, were changed, or are of another shape.
        """
        try:
            tensors = load_safetensors(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            digest, broken = header["__metadata__"]["digest"], header["__metadata__"]["broken"]
            features, kept = tensors["features"], tensors["kept"]
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DamagedError(f"not a shard: {' '.join(str(error).split())[:80]}") from None
        if digest != _digest(tensors, broken):
            raise DamagedError("its digest differs from the stored one")
        shard = cls(features, kept, tuple((int(p), str(reason)) for p, reason in json.loads(broken)))
        count, covered = len(kept), len(kept) + len(shard.broken)
        typed = features.dtype == torch.float32 and kept.dtype == torch.int64
        shaped = features.shape == (count, features.shape[-1] if dim is None else dim)
        if not typed or not shaped or images not in (None, covered):
            raise DamagedError(
                f"features {list(features.shape)} of {covered} images, expected {images} images x {dim}"
            )
        return shard


def _digest(tensors: dict[str, Tensor], broken: str) -> str:
    return hashlib.sha256((tensors_digest(tensors) + broken).encode()).hexdigest()
