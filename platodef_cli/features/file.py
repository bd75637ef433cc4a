"""The feature file: the safetensors contract between ``extract``, ``fit``, ``score`` and ``purify``.

Tensors: ``source`` ``[N, D_s]``, ``reference.<name>`` ``[N, D_m]`` (at least one), optionally ``label``
and ``variant`` ``[N]`` int64, and ``image``, uint8: a JSON list of the N image ids.
Metadata: strings, some of them JSON; see :func:`describe`. Files of other
tools are read through the names of their tensors. Equal content gives equal bytes.
"""

import hashlib
import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_safetensors
from torch import Tensor

from platodef_cli.disk import canonical_json, write_atomically
from platodef_cli.errors import IncompleteError, UsageError
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.features.shard import to_bytes
from platodef_cli.images.interface import ImageRef
from platodef_cli.records import EncoderRecord

SCHEMA = "1"
SOURCE_KEY = "source"
REFERENCE_PREFIX = "reference."
LABEL_KEY = "label"
VARIANT_KEY = "variant"
IDS_KEY = "image"
_LONGEST_ID = 4200  # bytes: a path, and what JSON adds

_MAJOR_KEY, _ORDER_KEY = "schema_version", "references"
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def image_set_digest(refs: Sequence[ImageRef]) -> str:
    """Return the SHA-256 over the image digests in order, in hex."""
    return hashlib.sha256("".join(ref.digest for ref in refs).encode()).hexdigest()


def describe(
    source: EncoderRecord,
    references: Mapping[str, EncoderRecord],
    refs: Sequence[ImageRef],
    *,
    images: str,
    variants: Sequence[str] = ("clean",),
) -> dict[str, str]:
    """Return the metadata that a feature file carries.

    Args:
        source: The suspect.
        references: Name -> reference, in the order of the features.
        refs: The images of the rows, in order.
        images: Address of the image source.
        variants: Name of every value of ``variant``, the clean one first.
    """

    def encoder(record: EncoderRecord) -> dict[str, str | None]:
        transform = canonical_json(record.transform.model_dump(mode="json"))
        return {
            "id": record.uri,
            "commit": record.commit,
            "sha256": record.digest,
            "transform": hashlib.sha256(transform.encode()).hexdigest(),
            "pooling": record.pooling,
            "dtype": record.dtype,
        }

    ids = canonical_json([ref.id for ref in refs])
    libraries = {name: version(name) for name in ("pillow", "safetensors", "torch")}
    return {
        "encoder.source": canonical_json(encoder(source)),
        "encoder.references": canonical_json({name: encoder(r) for name, r in references.items()}),
        "images": images,
        "image_set": image_set_digest(refs),
        "sample_ids": hashlib.sha256(ids.encode()).hexdigest(),
        "variants": canonical_json(list(variants)),
        "libraries": canonical_json(libraries),
    }


def save_features(target: str | Path | BinaryIO, tuples: FeatureTuples) -> None:
    """Write a feature file; a path appears complete or not at all.

    Args:
        target: A path, ``-`` for standard output, or a binary stream.
        tuples: The features; ``metadata`` is kept, and the schema version and the order of the
            references are added to it.

    Raises:
        UsageError: The tuples break the contract, or the path's folder does not exist.
        IncompleteError: The file cannot be written.
    """
    check_tuples("the features", tuples)
    tensors = {SOURCE_KEY: tuples.source.float()}
    tensors |= {REFERENCE_PREFIX + name: value.float() for name, value in tuples.references.items()}
    if tuples.labels is not None:
        tensors[LABEL_KEY] = tuples.labels
    if tuples.variants is not None:
        tensors[VARIANT_KEY] = tuples.variants
    if tuples.ids is not None:
        text = canonical_json(list(tuples.ids)).encode()
        tensors[IDS_KEY] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    order = canonical_json(list(tuples.references))
    data = to_bytes(tensors, {**tuples.metadata, _MAJOR_KEY: SCHEMA, _ORDER_KEY: order})
    if target == "-":
        target = sys.stdout.buffer
    if isinstance(target, str | Path):
        path = Path(target)
        if not path.parent.is_dir():
            raise UsageError(f"cannot write {path}: the folder {path.parent} does not exist; create it first")
        if path.is_dir():
            raise UsageError(f"cannot write {path}: it is a folder; give a file name")
        try:
            write_atomically(path, data)
        except OSError as error:
            raise IncompleteError(f"cannot write {path}: {error.strerror or error}") from None
    else:
        target.write(data)
        target.flush()


def load_features(
    source: str | Path | BinaryIO,
    source_key: str = SOURCE_KEY,
    reference_keys: Sequence[str] | None = None,
) -> FeatureTuples:
    """Read and check a feature file, of platodef or of another tool.

    Args:
        source: A path, ``-`` for standard input, or a binary stream.
        source_key: Name of the suspect's tensor.
        reference_keys: Names of the references' tensors, in order; None takes all that start with
            ``reference.``. A prefix ``reference.`` is dropped from their names.

    Returns:
        The tuples, float32 features and int64 labels and variants.

    Raises:
        UsageError: The file is missing, no safetensors file, lacks a tensor, or a tensor's shape, type
            or values break the contract; the message says which.
    """
    if source == "-":
        source = sys.stdin.buffer
    if isinstance(source, str | Path):
        name = str(source)
        found, metadata = _read_file(Path(source), source_key, reference_keys)
    else:
        name = "standard input" if source is sys.stdin.buffer else "the stream"
        found, metadata = _read_stream(source, name)
    if metadata.get(_MAJOR_KEY, SCHEMA).partition(".")[0] != SCHEMA and _ORDER_KEY in metadata:
        raise UsageError(
            f"{name} has schema version {metadata[_MAJOR_KEY][:20]}, this platodef reads {SCHEMA}; update "
            "platodef"
        )
    keys = reference_keys_of(name, found, metadata, source_key, reference_keys)
    for key in [source_key, *keys]:
        if key not in found:
            raise UsageError(f"{name} has no tensor {key!r}; it has: {_listed(found)}")
    tuples = FeatureTuples(
        source=_floats(name, source_key, found[source_key]),
        references={key.removeprefix(REFERENCE_PREFIX): _floats(name, key, found[key]) for key in keys},
        labels=_integers(name, LABEL_KEY, found),
        variants=_integers(name, VARIANT_KEY, found),
        metadata=metadata,
        ids=ids_of(name, found, len(found[source_key])),
    )
    if len(tuples.references) != len(keys):
        raise UsageError(f"{name}: a reference is named twice among {', '.join(keys)}")
    check_tuples(name, tuples)
    return tuples


def _read_file(
    path: Path, source_key: str, reference_keys: Sequence[str] | None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors that matter, so that large strangers in the file are not read."""
    if not path.is_file():
        raise UsageError(f"feature file {path} does not exist; make one with: platodef extract")
    try:
        with safe_open(path, framework="pt") as file:
            keys = set(file.keys())
            wanted = {source_key, LABEL_KEY, VARIANT_KEY, IDS_KEY, *(reference_keys or ())}
            if reference_keys is None:
                wanted |= {key for key in keys if key.startswith(REFERENCE_PREFIX)}
            found = {key: file.get_tensor(key) for key in sorted(keys & wanted)}
            # Names of the others still serve the error messages.
            found |= {key: torch.empty(0) for key in keys - wanted}
            return found, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise UsageError(f"{path} is not a feature file: {_one_line(error)}") from None


def _read_stream(stream: BinaryIO, name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    data = stream.read()
    if not data:
        raise UsageError(f"{name} is empty; pipe a feature file into it")
    try:
        found = load_safetensors(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (SafetensorError, ValueError, KeyError) as error:
        raise UsageError(f"{name} is not a feature file: {_one_line(error)}") from None
    return found, dict(header.get("__metadata__") or {})


def reference_keys_of(
    name: str,
    found: Collection[str],
    metadata: Mapping[str, str],
    source_key: str,
    chosen: Sequence[str] | None,
) -> list[str]:
    """Return the names of the references' tensors, in their order.

    Args:
        name: Of the file, for messages.
        found: Names of its tensors.
        metadata: Its metadata.
        source_key: Name of the suspect's tensor.
        chosen: What the user chose, or None.

    Raises:
        UsageError: There is none.
    """
    keys = (
        sorted(key for key in found if key.startswith(REFERENCE_PREFIX)) if chosen is None else list(chosen)
    )
    if not keys:
        others = _listed(key for key in found if key != source_key)
        raise UsageError(
            f"{name} has no tensor named {REFERENCE_PREFIX}<name> (others: {others}); name the references "
            "with --reference-key"
        )
    if chosen is None:
        with suppress(KeyError, ValueError, TypeError):
            ordered = [REFERENCE_PREFIX + str(item) for item in json.loads(metadata[_ORDER_KEY])]
            if sorted(ordered) == keys:
                return ordered
    return keys


def _floats(name: str, key: str, tensor: Tensor) -> Tensor:
    if not tensor.dtype.is_floating_point:
        raise UsageError(f"{name}: tensor {key!r} holds {_kind(tensor)}, features must be floating point")
    return tensor.float()


def _integers(name: str, key: str, found: Mapping[str, Tensor]) -> Tensor | None:
    if key not in found:
        return None
    if found[key].dtype not in _INTEGERS:
        raise UsageError(f"{name}: tensor {key!r} holds {_kind(found[key])}, it must be int64")
    return found[key].long()


def ids_of(name: str, found: Mapping[str, Tensor], rows: int) -> tuple[str, ...] | None:
    """Return the image ids of a file; None where it has none, or another tool's tensor has that name."""
    tensor = found.get(IDS_KEY)
    if tensor is None or tensor.dtype != torch.uint8 or tensor.ndim != 1 or not len(tensor):
        return None
    data = tensor.numpy().tobytes()
    try:
        ids = json.loads(data) if len(data) <= _LONGEST_ID * rows else None
    except (ValueError, RecursionError):
        ids = None
    if not isinstance(ids, list) or len(ids) != rows or not all(isinstance(entry, str) for entry in ids):
        raise UsageError(f"{name}: tensor {IDS_KEY!r} holds no list of {rows} image ids")
    return tuple(ids)


def check_tuples(name: str, tuples: FeatureTuples) -> None:
    """Check shapes, types and values.

    Raises:
        UsageError: Something breaks the contract.
    """
    if not tuples.references:
        raise UsageError(f"{name}: there is no reference; at least one is needed")
    features = {SOURCE_KEY: tuples.source}
    features |= {REFERENCE_PREFIX + key: value for key, value in tuples.references.items()}
    for key, value in features.items():
        if value.ndim != 2 or 0 in value.shape:
            raise UsageError(
                f"{name}: tensor {key!r} has shape {list(value.shape)}, it must be [N, D], N and D > 0"
            )
        if not value.dtype.is_floating_point:
            raise UsageError(f"{name}: tensor {key!r} holds {_kind(value)}, features must be floating point")
        if len(value) != len(tuples.source):
            raise UsageError(
                f"{name}: tensor {key!r} has {len(value)} rows, {SOURCE_KEY!r} has {len(tuples.source)}; all "
                "tensors must hold the same images in the same order"
            )
        finite = torch.isfinite(value).all(dim=1)
        if not finite.all():
            bad = int((~finite).sum())
            first = int(torch.argmin(finite.to(torch.uint8)))
            raise UsageError(f"{name}: tensor {key!r} has NaN or infinity in {bad} rows (first: row {first})")
    for key, numbers in ((LABEL_KEY, tuples.labels), (VARIANT_KEY, tuples.variants)):
        if numbers is None:
            continue
        if numbers.dtype != torch.int64 or numbers.shape != (len(tuples.source),):
            raise UsageError(
                f"{name}: tensor {key!r} is {_kind(numbers)} {list(numbers.shape)}, it must be int64 "
                f"[{len(tuples.source)}]"
            )
        if int(numbers.min()) < 0:
            raise UsageError(
                f"{name}: tensor {key!r} holds {int(numbers.min())}; its values must be 0, 1, 2 ..."
            )


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
