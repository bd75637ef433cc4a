"""Byte-deterministic safetensors.

The library's own writer orders the metadata at random, so equal content would give unequal files.
Reading uses the library.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from platodef_cli.features.disk import canonical_json

__all__ = ["canonical_json", "tensor_bytes", "tensors_digest", "to_bytes"]

_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_WIDEST_FIRST = sorted(_TYPES, key=lambda dtype: (-dtype.itemsize, _TYPES[dtype]))


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
    for name in sorted(tensors, key=lambda name: (_WIDEST_FIRST.index(tensors[name].dtype), name)):
        data = tensor_bytes(tensors[name])
        header[name] = {
            "dtype": _TYPES[tensors[name].dtype],
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
