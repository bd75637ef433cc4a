"""One shard of features as bytes: the unit of the cache and of every executor."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from platodef_cli.disk import DamagedError, canonical_json

__all__ = ["canonical_json", "tensor_bytes", "tensors_digest", "to_bytes"]

TYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

WIDEST_FIRST = sorted(TYPE_NAMES, key=lambda dtype: (-dtype.itemsize, TYPE_NAMES[dtype]))


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a safetensors file; the same content always gives the same bytes.

    Args:
        tensors: Name -> tensor on any device; wide types come first so that every tensor is aligned.
        metadata: Strings only, as the format demands.

    Raises:
        KeyError: A tensor's type is not supported.
    """
    header: dict[str, Any] = {}
    if metadata:
        header["__metadata__"] = dict(sorted(metadata.items()))
    parts: list[bytes] = []
    end = 0
    for name in sorted(tensors, key=lambda name: (WIDEST_FIRST.index(tensors[name].dtype), name)):
        data = tensor_bytes(tensors[name])
        header[name] = {
            "dtype": TYPE_NAMES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [end, end + len(data)],
        }
        end += len(data)
        parts.append(data)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def tensor_bytes(tensor: Tensor) -> bytes:
    """Return the raw little-endian bytes of a tensor, row by row."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and bytes of ``tensors``, in hex."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(canonical_json([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


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
