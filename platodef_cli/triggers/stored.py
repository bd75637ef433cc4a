"""Triggers on disk: ``trigger.json`` (its kind and parameters) and, where it was learned, its tensors.

The files lie beside a planted encoder, so that its backdoor can be opened again. Neither can hold code.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from reprlib import repr as short
from typing import Any, get_origin

import torch
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from platodef_cli.disk import read_at_most, write_atomically
from platodef_cli.errors import PlatodefError, UsageError
from platodef_cli.features.interface import Variant
from platodef_cli.triggers import TRIGGERS

DESCRIPTION, TENSORS = "trigger.json", "trigger.safetensors"
_FOLDER = "trigger"  # in the folder of a planted encoder, where a zoo keeps both
_LARGEST = 64_000_000  # bytes; a learned trigger has some thousand numbers
_LARGEST_DESCRIPTION = 2**20  # a longer one is cut, and no JSON
_WORDS = {float: "a finite number", int: "a whole number", bool: "true or false", str: "a text"}
_STRICT: dict[Any, TypeAdapter[Any]] = {
    kind: TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False)) for kind in _WORDS
}


class _Description(BaseModel):
    """The content of ``trigger.json``."""

    model_config = ConfigDict(strict=True, frozen=True)

    trigger: str
    name: str
    parameters: dict[str, Any]
    sha256: str | None = None


def kind_of(trigger: Variant) -> str:
    """Return the name of a trigger's class in :data:`platodef_cli.triggers.TRIGGERS`.

    Raises:
        UsageError: It is none of the table.
    """
    for name in TRIGGERS.names():
        with suppress(UsageError):  # of a plug-in that cannot be loaded
            if type(trigger) is TRIGGERS.load(name):
                return name
    raise UsageError(f"a trigger of type {type(trigger).__name__} is not in the table of triggers")


def save_trigger(trigger: Variant, folder: Path) -> None:
    """Write a trigger into a folder; the same trigger gives the same bytes.

    Args:
        trigger: A row of :data:`platodef_cli.triggers.TRIGGERS`.
        folder: Exists.

    Raises:
        UsageError: The trigger is none of the table.
    """
    scalars, tensors = _parts(trigger)
    description: dict[str, Any] = {
        "trigger": kind_of(trigger),
        "name": trigger.name,
        "parameters": scalars,
    }
    if tensors:
        content = save(tensors)
        description["sha256"] = hashlib.sha256(content).hexdigest()
        write_atomically(folder / TENSORS, content)
    text = json.dumps(description, indent=2, sort_keys=True) + "\n"
    write_atomically(folder / DESCRIPTION, text.encode())


def load_trigger(folder: Path) -> Variant:
    """Read what :func:`save_trigger` wrote.

    Raises:
        UsageError: A file is missing or damaged, or describes no trigger.
    """
    path = folder / DESCRIPTION
    description = _description(path)
    kind, values = description.trigger, description.parameters
    try:
        types = {entry.name: entry.type for entry in fields(TRIGGERS.load(kind))}
        _check_scalars(values, types)
        if description.sha256 is not None:
            tensors = _tensors(folder / TENSORS, description.sha256)
            _check_tensors(tensors, types)
            values = {**values, **tensors}
        trigger: Variant = TRIGGERS.load(kind)(**values)
    except PlatodefError as error:
        raise UsageError(f"{path}: {error}") from None
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"{path}: the parameters do not fit a {kind!r} trigger ({error}); plant it again"
        ) from None
    if trigger.name != description.name:
        raise UsageError(
            f"{path}: its parameters make {trigger.name}, but it says {description.name}; it was changed"
        )
    return trigger


def load_planted_trigger(folder: Path) -> Variant:
    """Read the trigger of a planted encoder, from its folder or the folder ``trigger`` in it.

    Raises:
        UsageError: As for :func:`load_trigger`.
    """
    inner = folder / _FOLDER
    return load_trigger(inner if inner.is_dir() else folder)


def _parts(trigger: Variant) -> tuple[dict[str, float | int | str | bool], dict[str, Tensor]]:
    """Split a trigger's fields into JSON values and named tensors; ``weights`` becomes ``weights.NAME``."""
    scalars: dict[str, float | int | str | bool] = {}
    tensors: dict[str, Tensor] = {}
    for entry in fields(trigger):  # type: ignore[arg-type]
        value = getattr(trigger, entry.name)
        if isinstance(value, Mapping):
            tensors |= {f"{entry.name}.{key}": tensor for key, tensor in value.items()}
        elif isinstance(value, Tensor):
            tensors[entry.name] = value
        else:
            scalars[entry.name] = value
    return scalars, {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}


def _description(path: Path) -> _Description:
    try:
        return _Description.model_validate_json(read_at_most(path, _LARGEST_DESCRIPTION))
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror}); give a planted encoder's folder"
        ) from None
    except ValidationError as error:
        if error.errors()[0]["type"] == "json_invalid":
            raise UsageError(f"{path} is not JSON; plant the encoder again") from None
        raise UsageError(
            f"{path} does not describe a trigger; it needs trigger, name and parameters"
        ) from None


def _check_scalars(values: Mapping[str, Any], types: Mapping[str, Any]) -> None:
    """Raise unless every parameter of a description is a field and has its type."""
    for name, value in values.items():
        if name not in types:
            raise TypeError(f"it has no parameter {name!r}")
        kind = types[name]
        if kind not in _WORDS:
            raise TypeError(f"{name} is kept in {TENSORS}, not as {short(value)}")
        try:
            _STRICT[kind].validate_python(value)
        except ValidationError:
            raise TypeError(f"{name}={short(value)} must be {_WORDS[kind]}") from None


def _check_tensors(tensors: Mapping[str, Any], types: Mapping[str, Any]) -> None:
    """Raise unless everything in a file of tensors is a field that is a tensor, or a mapping of them."""
    for name, value in tensors.items():
        kind = types.get(name)
        if (get_origin(kind) or kind) is not (Tensor if isinstance(value, Tensor) else Mapping):
            raise TypeError(f"{TENSORS} holds {name}, which is none of its tensors")


def _tensors(path: Path, digest: str) -> dict[str, Any]:
    """Return the tensors of a file by field; names with a dot are gathered in a mapping."""
    try:
        if path.stat().st_size > _LARGEST:
            raise UsageError(f"{path.name} is larger than {_LARGEST} bytes; no trigger is")
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path.name} cannot be read ({error.strerror})") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise UsageError(f"{path.name} is not the file that was written with it (another SHA-256)")
    try:
        loaded = load(content)
    except SafetensorError as error:
        raise UsageError(f"{path.name} is damaged ({error})") from None
    out: dict[str, Any] = {}
    for name, tensor in loaded.items():
        if not torch.isfinite(tensor).all():
            raise UsageError(f"{path.name}: {name} is not finite")
        entry, _, key = name.partition(".")
        if key:
            out.setdefault(entry, {})[key] = tensor
        else:
            out[entry] = tensor
    return out
