"""Writes a feature file block by block: the bytes of ``save_features``, without all rows in memory."""

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from platodef_cli.disk import canonical_json
from platodef_cli.features.file import IDS_KEY, LABEL_KEY, REFERENCE_PREFIX, SCHEMA, SOURCE_KEY, VARIANT_KEY
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.features.shard import TYPE_NAMES, WIDEST_FIRST, tensor_bytes


class TensorWriter:
    """A safetensors file whose tensors grow together, row by row.

    Args:
        path: Where to write; the caller renames it when it is complete.
        shapes: Name -> (type, shape): the first dimension is the number of rows that will come.
        metadata: Strings.
    """

    def __init__(
        self,
        path: Path,
        shapes: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
        metadata: Mapping[str, str],
    ):
        header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
        end = 0
        self._places: dict[str, int] = {}
        for name in sorted(shapes, key=lambda name: (WIDEST_FIRST.index(shapes[name][0]), name)):
            dtype, shape = shapes[name]
            size = dtype.itemsize
            for length in shape:
                size *= length
            header[name] = {
                "dtype": TYPE_NAMES[dtype],
                "shape": list(shape),
                "data_offsets": [end, end + size],
            }
            self._places[name] = end
            end += size
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
        text += b" " * (-len(text) % 8)
        self._stack = ExitStack()
        self._stream: BinaryIO = self._stack.enter_context(path.open("wb"))
        self._stream.write(len(text).to_bytes(8, "little") + text)
        offset = 8 + len(text)
        self._places = {name: place + offset for name, place in self._places.items()}
        self._stream.truncate(offset + end)

    def write(self, name: str, rows: Tensor | bytes) -> None:
        """Append rows of one tensor."""
        data = rows if isinstance(rows, bytes) else tensor_bytes(rows)
        self._stream.seek(self._places[name])
        self._stream.write(data)
        self._places[name] += len(data)

    def __enter__(self) -> "TensorWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


def write_features(
    path: Path, blocks: Iterable[FeatureTuples], rows: int, ids: tuple[str, ...] | None
) -> None:
    """Write a feature file of blocks that have ``rows`` rows together.

    Args:
        path: Where to write; the caller renames it when it is complete.
        blocks: At least one; all with the references, labels, variants and metadata of the first.
        rows: Of all blocks.
        ids: Of all rows, or None.
    """
    writer: TensorWriter | None = None
    with ExitStack() as stack:
        for block in blocks:
            if writer is None:
                writer = stack.enter_context(_writer(path, block, rows, ids))
            writer.write(SOURCE_KEY, block.source.float())
            for name, values in block.references.items():
                writer.write(REFERENCE_PREFIX + name, values.float())
            for key, numbers in ((LABEL_KEY, block.labels), (VARIANT_KEY, block.variants)):
                if numbers is not None:
                    writer.write(key, numbers)


def _writer(path: Path, first: FeatureTuples, rows: int, ids: tuple[str, ...] | None) -> TensorWriter:
    shapes: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
        SOURCE_KEY: (torch.float32, (rows, first.source.shape[1]))
    }
    for name, values in first.references.items():
        shapes[REFERENCE_PREFIX + name] = (torch.float32, (rows, values.shape[1]))
    for key, numbers in ((LABEL_KEY, first.labels), (VARIANT_KEY, first.variants)):
        if numbers is not None:
            shapes[key] = (torch.int64, (rows,))
    text = b"" if ids is None else canonical_json(list(ids)).encode()
    if ids is not None:
        shapes[IDS_KEY] = (torch.uint8, (len(text),))
    order = canonical_json(list(first.references))
    writer = TensorWriter(path, shapes, {**first.metadata, "schema_version": SCHEMA, "references": order})
    if ids is not None:
        writer.write(IDS_KEY, text)
    return writer
