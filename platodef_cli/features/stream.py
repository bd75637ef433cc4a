"""Feature files that do not fit into memory: one file, or a folder of shards, read in blocks of rows.

Nothing is mapped into memory: what was read counts as used only as long as its block is.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from platodef_cli.encoders.checks.limits import Limits
from platodef_cli.encoders.checks.safetensors_header import FLOATS, TensorEntry, header_length, parse_header
from platodef_cli.errors import IncompleteError, RefusedError, UsageError
from platodef_cli.features.file import (
    IDS_KEY,
    LABEL_KEY,
    REFERENCE_PREFIX,
    SOURCE_KEY,
    VARIANT_KEY,
    check_tuples,
    ids_of,
    reference_keys_of,
)
from platodef_cli.features.interface import FeatureTuples

BLOCK_ROWS = 65_536
"""Rows that are in memory at once: a multiple of every block in which scores are computed."""
SUFFIX = ".safetensors"
_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
}  # fmt: skip
_INTEGERS = ("I64", "I32", "I16", "I8", "U8")


class FeatureFile:
    """One feature file, of which any rows can be read.

    Attributes:
        path: Where it is.
        rows: Number of rows.
        dims: Tensor name -> length of a feature: the source, then the references in their order.
        metadata: Strings.

    Args:
        path: A file of platodef or of another tool.
        source_key: Name of the suspect's tensor.
        reference_keys: Names of the references' tensors; None takes all that start with ``reference.``.

    Raises:
        UsageError: It is no complete feature file; the message says why.
    """

    def __init__(self, path: Path, source_key: str = SOURCE_KEY, reference_keys: Sequence[str] | None = None):
        self.path = path
        name = str(path)
        if not path.is_file():
            raise UsageError(f"feature file {path} does not exist; make one with: platodef extract")
        try:
            with path.open("rb") as stream:
                self._entries, self._offset, self.metadata = _header(stream, name)
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from None
        except (RefusedError, IncompleteError) as error:
            why = str(error).replace("; do not use this model", "").replace("; download it again", "")
            raise UsageError(f"{path} is no complete feature file: {why}") from None
        keys = reference_keys_of(name, self._entries, self.metadata, source_key, reference_keys)
        for key in (source_key, *keys):
            entry = self._entries.get(key)
            if entry is None:
                raise UsageError(f"{name} has no tensor {key!r}; it has: {', '.join(sorted(self._entries))}")
            if len(entry.shape) != 2 or 0 in entry.shape or entry.dtype not in FLOATS:
                raise UsageError(
                    f"{name}: tensor {key!r} is {entry.dtype} {list(entry.shape)}, features must be floating "
                    "point [N, D], N and D > 0"
                )
        self.rows = self._entries[source_key].shape[0]
        for key in (*keys, *(key for key in (LABEL_KEY, VARIANT_KEY) if key in self._entries)):
            if self._entries[key].shape[:1] != (self.rows,):
                raise UsageError(
                    f"{name}: tensor {key!r} has not {self.rows} rows as {source_key!r} has; all tensors "
                    "must hold the same images in the same order"
                )
        self._source, self._keys = source_key, keys
        self.dims = {key: self._entries[key].shape[1] for key in (source_key, *keys)}

    @property
    def has_labels(self) -> bool:
        """Whether rows have labels."""
        return LABEL_KEY in self._entries

    @property
    def has_variants(self) -> bool:
        """Whether rows say what was done to their images."""
        return VARIANT_KEY in self._entries

    @cached_property
    def ids(self) -> tuple[str, ...] | None:
        """Id of the image of every row, or None."""
        entry = self._entries.get(IDS_KEY)
        if entry is None or entry.dtype != "U8" or len(entry.shape) != 1 or not entry.shape[0]:
            return None
        return ids_of(str(self.path), {IDS_KEY: self._tensor(IDS_KEY, 0, entry.shape[0])}, self.rows)

    def read(self, start: int, stop: int) -> FeatureTuples:
        """Return the rows from ``start`` to ``stop``, checked as :func:`load_features` checks them.

        Raises:
            UsageError: Values break the contract, or the file changed meanwhile.
        """
        stop = min(stop, self.rows)
        references = {
            key.removeprefix(REFERENCE_PREFIX): self._tensor(key, start, stop).float() for key in self._keys
        }
        tuples = FeatureTuples(
            source=self._tensor(self._source, start, stop).float(),
            references=references,
            labels=self._integers(LABEL_KEY, start, stop),
            variants=self._integers(VARIANT_KEY, start, stop),
            metadata=self.metadata,
            ids=None if self.ids is None else self.ids[start:stop],
        )
        check_tuples(str(self.path) if not start else f"{self.path}, rows from {start}", tuples)
        return tuples

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[FeatureTuples]:
        """Yield all rows, at most ``rows`` at once."""
        for start in range(0, self.rows, rows):
            yield self.read(start, start + rows)

    def _integers(self, key: str, start: int, stop: int) -> Tensor | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.dtype not in _INTEGERS or len(entry.shape) != 1:
            raise UsageError(
                f"{self.path}: tensor {key!r} is {entry.dtype} {list(entry.shape)}, not int64 [N]"
            )
        return self._tensor(key, start, stop).to(torch.int64)

    def _tensor(self, key: str, start: int, stop: int) -> Tensor:
        entry = self._entries[key]
        width = entry.shape[1] if len(entry.shape) > 1 else 1
        kind = _TYPES[entry.dtype]
        data = bytearray((stop - start) * width * kind.itemsize)
        try:
            with self.path.open("rb") as stream:
                stream.seek(self._offset + entry.start + start * width * kind.itemsize)
                read = stream.readinto(data)
        except OSError as error:
            raise UsageError(f"cannot read {self.path}: {error.strerror}") from None
        if read != len(data):
            raise UsageError(
                f"{self.path} became shorter while it was read; write shards under another name first"
            )
        return torch.frombuffer(data, dtype=kind).reshape(stop - start, *entry.shape[1:])


def _header(stream: BinaryIO, name: str) -> tuple[dict[str, TensorEntry], int, dict[str, str]]:
    """Return the tensors of a file, where their bytes begin, and its metadata."""
    total = os.fstat(stream.fileno()).st_size
    prefix = stream.read(8)
    length = header_length(prefix, total, name, Limits())
    header = stream.read(length)
    entries = parse_header(prefix, header, total, name, Limits())
    metadata = json.loads(header).get("__metadata__") or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise RefusedError(f"{name}: its metadata are no strings")
    return entries, 8 + length, metadata


def shard_paths(folder: Path) -> list[Path]:
    """Return the feature files at the top of a folder, in the order of their names; hidden ones are not.

    Raises:
        UsageError: It cannot be listed.
    """
    try:
        return sorted(
            entry
            for entry in folder.iterdir()
            if entry.suffix == SUFFIX and not entry.name.startswith(".") and entry.is_file()
        )
    except OSError as error:
        raise UsageError(f"cannot list the folder {folder}: {error.strerror}") from None


class FeatureStream:
    """A feature file or a folder of them, in blocks of rows.

    Attributes:
        files: In the order of their rows.
        rows: Of all files.

    Args:
        path: The file or folder.
        source_key: Name of the suspect's tensor.
        reference_keys: Names of the references' tensors, or None.

    Raises:
        UsageError: There is no feature file, one is broken, or they are of different encoders.
    """

    def __init__(self, path: Path, source_key: str = SOURCE_KEY, reference_keys: Sequence[str] | None = None):
        paths = shard_paths(path) if path.is_dir() else [path]
        if not paths:
            raise UsageError(
                f"{path} holds no feature file ({SUFFIX}); make some with: platodef extract -o {path}"
            )
        self.files = [FeatureFile(each, source_key, reference_keys) for each in paths]
        self.rows = sum(file.rows for file in self.files)
        first = self.files[0]
        for file in self.files[1:]:
            _alike(first, file)
        # numbers of classes mean something only where all shards have the same classes
        classes = {file.metadata.get("classes") for file in self.files}
        self._labels = len(classes) == 1 and all(file.has_labels for file in self.files)

    @property
    def metadata(self) -> Mapping[str, str]:
        """That of the first file."""
        return self.files[0].metadata

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[FeatureTuples]:
        """Yield all rows in their order; a block is of one file."""
        for file in self.files:
            for block in file.blocks(rows):
                yield block if self._labels else replace(block, labels=None)


def _alike(first: FeatureFile, other: FeatureFile) -> None:
    if first.dims != other.dims:
        raise UsageError(f"{other.path} has the tensors {other.dims}, {first.path} has {first.dims}")
    for key in ("encoder.source", "encoder.references"):
        if first.metadata.get(key) != other.metadata.get(key):
            raise UsageError(
                f"{other.path} and {first.path} are of different encoders ({key}); keep their shards in "
                "folders of their own"
            )
    if first.has_variants != other.has_variants:
        raise UsageError(f"of {first.path} and {other.path} one says the variant of its rows, the other not")
