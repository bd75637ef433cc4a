"""Model folders made by hand, without any model library."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "F8_E4M3": 1}
TIMM = {"architecture": "resnet18", "pretrained_cfg": {"input_size": [3, 32, 32], "custom_load": False}}
TRANSFORMERS = {"model_type": "vit", "hidden_size": 32}


def header(tensors: Mapping[str, tuple[str, list[int]]]) -> dict[str, Any]:
    """Return a correct safetensors header for tensors given as ``name -> (dtype, shape)``."""
    entries: dict[str, Any] = {}
    position = 0
    for name, (dtype, shape) in tensors.items():
        size = SIZES[dtype]
        for side in shape:
            size *= side
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + size]}
        position += size
    return entries


def safetensors(entries: Any, data: int | bytes | None = None) -> bytes:
    """Return a file with the given header (an object, or raw bytes) and zeros for data."""
    raw = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    if data is None:
        data = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    return struct.pack("<Q", len(raw)) + raw + (bytes(data) if isinstance(data, int) else data)


WEIGHTS = safetensors(header({"conv.weight": ("F32", [4, 3]), "conv.bias": ("F32", [4])}))


def folder(root: Path, files: Mapping[str, Any] | None = None) -> Path:
    """Write a model folder; JSON objects are dumped, None removes a file."""
    root.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"config.json": TIMM, "model.safetensors": WEIGHTS, **(files or {})}
    for name, value in content.items():
        if value is not None:
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            (root / name).write_bytes(data)
    return root
