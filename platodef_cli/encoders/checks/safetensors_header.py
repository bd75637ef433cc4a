"""Reading the header of a safetensors file without any library that trusts it.

Format: 8 bytes little-endian header length, a JSON object ``name -> {dtype, shape, data_offsets}``
(and ``__metadata__``), then the data. https://huggingface.co/docs/safetensors
"""

import json
import math
from dataclasses import dataclass
from typing import Any

from platodef_cli.disk import check_json_size
from platodef_cli.encoders.checks.limits import Limits
from platodef_cli.errors import IncompleteError, RefusedError

ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
_LONGEST_NAME = 1024
FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a header.

    Attributes:
        dtype: safetensors name of the element type (``F32``).
        shape: Its shape.
        start: First byte, counted from the end of the header.
        end: One past the last byte.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def parse_header(
    prefix: bytes, header: bytes, total: int, name: str, limits: Limits
) -> dict[str, TensorEntry]:
    """Return the tensors that a header declares, in the order of their bytes.

    Args:
        prefix: The first 8 bytes of the file.
        header: The bytes that follow, as many as ``prefix`` says (see :func:`header_length`).
        total: Size of the whole file in bytes.
        name: File name, for messages.
        limits: Bounds.

    Raises:
        IncompleteError: The file ends before its tensors do.
        RefusedError: The header breaks the format or a bound, names a tensor twice, or its offsets
            leave a gap, overlap, or do not add up to the size of the file.
    """
    try:
        check_json_size(header, 32 * limits.tensors)
        raw = json.loads(header.decode("utf-8"), object_pairs_hook=_unique)
    except RecursionError:
        raise RefusedError(f"{name}: its header is nested too deeply; do not use this model") from None
    except ValueError as error:
        raise RefusedError(f"{name}: its header is not valid JSON ({error}); do not use this model") from None
    if not isinstance(raw, dict):
        raise RefusedError(f"{name}: its header is not a JSON object; do not use this model")
    _check_metadata(name, raw.pop("__metadata__", None))
    if len(raw) > limits.tensors:
        raise RefusedError(f"{name}: declares {len(raw)} tensors, more than {limits.tensors}")
    entries = {key: _entry(name, key, value) for key, value in raw.items()}
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)))
    position, offset = 0, len(prefix) + len(header)
    for key, entry in ordered.items():
        if entry.start != position:
            kind = "overlaps the one before it" if entry.start < position else "leaves a gap before it"
            raise RefusedError(f"{name}: tensor {key!r} {kind}; do not use this model")
        position = entry.end
    if offset + position > total:
        raise IncompleteError(
            f"{name}: only {total} of {offset + position} bytes are there, it was not downloaded to its end; "
            "download it again"
        )
    if offset + position != total:
        raise RefusedError(
            f"{name}: its tensors need {offset + position} bytes but the file has {total}; download it again"
        )
    return ordered


def header_length(prefix: bytes, total: int, name: str, limits: Limits) -> int:
    """Return the length of the JSON header that the first 8 bytes announce.

    Raises:
        IncompleteError: The file ends before it does.
        RefusedError: It is longer than the bound, or nothing of the kind.
    """
    length = int.from_bytes(prefix, "little")
    if len(prefix) == 8 and total - 8 < length <= limits.header_bytes:
        raise IncompleteError(
            f"{name}: only {total} bytes are there, fewer than its header of {length}; download it again"
        )
    if len(prefix) < 8 or length > total - 8:
        raise RefusedError(f"{name}: not a safetensors file (its header is longer than the file)")
    if length > limits.header_bytes:
        raise RefusedError(f"{name}: its header has {length} bytes, more than {limits.header_bytes}")
    return length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a dict and refuse duplicate names, of which JSON parsers silently keep the last."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _check_metadata(name: str, metadata: Any) -> None:
    """Refuse metadata that the format does not have, and that its library does not read."""
    if metadata is None:
        return
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise RefusedError(f"{name}: its metadata are no texts, as the format wants; do not use this model")


def _entry(name: str, key: str, value: Any) -> TensorEntry:
    """Check one entry of a header."""
    if not 0 < len(key) <= _LONGEST_NAME or not key.isprintable():
        raise RefusedError(
            f"{name}: the name of a tensor, {key[:60]!a}, is empty, unprintable or longer than "
            f"{_LONGEST_NAME} characters; do not use this model"
        )
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise RefusedError(f"{name}: tensor {key!r} has a malformed header entry")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise RefusedError(f"{name}: tensor {key!r} has the unknown element type {str(dtype)[:60]!r}")
    if not _naturals(shape) or not _naturals(offsets) or len(shape) > 16 or len(offsets) != 2:
        raise RefusedError(f"{name}: tensor {key!r} has a malformed shape or offset")
    entry = TensorEntry(dtype, tuple(shape), offsets[0], offsets[1])
    if entry.end - entry.start != entry.elements * ITEM_BYTES[dtype]:
        raise RefusedError(
            f"{name}: tensor {key!r} has {entry.end - entry.start} bytes, which its shape denies"
        )
    return entry


def _naturals(values: Any) -> bool:
    """Tell whether a value is a list of non-negative integers below 2^53."""
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**53 for v in values)
