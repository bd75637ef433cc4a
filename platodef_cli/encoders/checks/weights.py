"""The bytes of a model folder, read once, hashed while reading, and turned into tensors."""

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platodef_cli.disk import open_regular, resolve_inside
from platodef_cli.encoders.checks.configuration import parse_json
from platodef_cli.encoders.checks.limits import Limits
from platodef_cli.encoders.checks.safetensors_header import ITEM_BYTES, header_length, parse_header
from platodef_cli.encoders.pooling import AUTO
from platodef_cli.errors import RefusedError, UnsupportedError
from platodef_cli.records import FileRecord

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 2**22
INTEGER_BUFFER = re.compile(r"(num_batches_tracked|position_ids|index|indices|idxs?|mask|ids|coords?|bins)$")
"""Names of tensors that may hold integers: counters, positions, masks."""


def read_verified(directory: Path, record: FileRecord, *, follow_links: bool = False) -> bytearray:
    """Read a file into memory and check that its bytes are those that were examined.

    Args:
        directory: The model folder.
        record: What was examined.
        follow_links: The file may be a link that leads out of the folder.

    Raises:
        RefusedError: The file changed since it was examined.
    """
    digest = hashlib.sha256()
    with open_regular(resolve_inside(directory, record.path, follow_links=follow_links)) as (
        descriptor,
        size,
    ):
        if size != record.bytes:
            raise RefusedError(
                f"{directory / record.path}: changed between check and load; do not use this model"
            )
        data = bytearray(size)
        view = memoryview(data)
        position = 0
        with open(descriptor, "rb", buffering=0, closefd=False) as stream:
            while position < size:
                count = stream.readinto(view[position : position + _CHUNK])
                if not count:
                    break
                digest.update(view[position : position + count])
                position += count
        view.release()
    if digest.hexdigest() != record.sha256:
        raise RefusedError(
            f"{directory / record.path}: changed between check and load; do not use this model"
        )
    return data


def files_digest(files: tuple[FileRecord, ...]) -> str:
    """Return the SHA-256 over the sorted ``(path, sha256)`` pairs, as JSON."""
    pairs = sorted([record.path, record.sha256] for record in files)
    return hashlib.sha256(json.dumps(pairs, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class Bundle:
    """An examined model folder, from which a backend builds.

    Attributes:
        directory: The folder.
        files: The files that may be read, with the hashes they had when they were examined.
        parameters: Elements of all float tensors, from the headers.
        limits: Bounds.
        follow_links: Links may lead out of the folder.
        pooling: How the user wants tokens to be pooled (:data:`platodef_cli.encoders.pooling.POOLINGS`).
    """

    directory: Path
    files: tuple[FileRecord, ...]
    parameters: int
    limits: Limits = field(default_factory=Limits)
    follow_links: bool = False
    pooling: str = AUTO

    def has(self, name: str) -> bool:
        """Tell whether the folder has an examined file of that name."""
        return any(record.path == name for record in self.files)

    def read(self, name: str) -> bytearray:
        """Return the verified bytes of one examined file."""
        record = next(r for r in self.files if r.path == name)
        return read_verified(self.directory, record, follow_links=self.follow_links)

    def json(self, name: str) -> dict[str, Any]:
        """Return one examined configuration."""
        return parse_json(self.read(name), name, self.limits)

    def state_dict(self) -> "dict[str, Tensor]":
        """Return the tensors of all weight files, as views on the verified bytes."""
        state: dict[str, Tensor] = {}
        for record in self.files:
            if record.path.endswith(".safetensors"):
                state |= tensors_of(self.read(record.path), record.path, self.limits)
        return state


def tensors_of(data: bytearray, name: str, limits: Limits) -> "dict[str, Tensor]":
    """Return the tensors of one safetensors file as views on its bytes."""
    import torch

    kinds = {
        "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
        "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
        "BOOL": torch.bool,
    }  # fmt: skip
    prefix = bytes(data[:8])
    length = header_length(prefix, len(data), name, limits)
    result = {}
    for key, entry in parse_header(prefix, bytes(data[8 : 8 + length]), len(data), name, limits).items():
        if entry.dtype not in kinds:
            raise UnsupportedError(
                f"{name}: tensor {key!r} has the element type {entry.dtype}, which is not supported"
            )
        if entry.elements == 0:
            result[key] = torch.empty(entry.shape, dtype=kinds[entry.dtype])
            continue
        start = 8 + length + entry.start
        if start % ITEM_BYTES[entry.dtype]:
            # frombuffer needs aligned elements; a header of odd length is legal.
            flat = torch.frombuffer(
                bytearray(data[start : start + entry.end - entry.start]), dtype=kinds[entry.dtype]
            )
        else:
            flat = torch.frombuffer(data, dtype=kinds[entry.dtype], count=entry.elements, offset=start)
        result[key] = flat.reshape(entry.shape)
    return result
