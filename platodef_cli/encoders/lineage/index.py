"""The models whose sketches are known: those that ship with the package, and those that the user adds."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from platodef_cli.disk import canonical_json, check_json_size, explaining, read_at_most, write_atomically
from platodef_cli.encoders.checks.preflight import Preflight
from platodef_cli.encoders.lineage.sketch import Layer, sketch
from platodef_cli.errors import IncompleteError, UnknownNameError, UsageError
from platodef_cli.records import Record
from platodef_cli.resources import shipped_lineage

FORMAT: Literal["platodef-lineage/1"] = "platodef-lineage/1"
_LARGEST = 16 * 2**20
_MOST_VALUES = 2_000_000
_NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
_MOST_LAYERS = 20_000


class _File(Record):
    """The content of a file of the index."""

    format: Literal["platodef-lineage/1"] = FORMAT
    name: str
    uri: str
    commit: str | None = None
    architecture: str
    digest: str
    parameters: int
    layers: tuple[Any, ...] = Field(max_length=_MOST_LAYERS)


@dataclass(frozen=True)
class Known:
    """A model of the index.

    Attributes:
        name: Short, unique in the index.
        uri: What it was added as.
        commit: Of the Hub, or None.
        architecture: As its configuration names it.
        digest: Of its files, as reports have it.
        parameters: Elements of all float tensors.
        layers: Its sketch.
        shipped: It is part of the package.
    """

    name: str
    uri: str
    commit: str | None
    architecture: str
    digest: str
    parameters: int
    layers: tuple[Layer, ...]
    shipped: bool = False


def index_directory() -> Path:
    """Return ``$PLATODEF_LINEAGE_DIR``, or ``platodef/lineage`` in the user's data folder (XDG)."""
    if chosen := os.environ.get("PLATODEF_LINEAGE_DIR"):
        return Path(chosen).expanduser()
    from platformdirs import user_data_path

    return user_data_path("platodef") / "lineage"


def known_of(checked: Preflight, *, name: str, uri: str, commit: str | None) -> Known:
    """Return a model for the index.

    Args:
        checked: Its examined folder.
        name: Short.
        uri: What the user wrote; of an unpublished model without its folder.
        commit: Of the Hub.

    Raises:
        UsageError: The name cannot be one of a file.
        RefusedError: The files changed since they were examined.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"the name {name!r} must be letters, digits, '.', '_' and '-'; give another --name")
    layers = sketch(checked)
    return Known(name, uri, commit, checked.architecture, checked.digest, checked.parameters, layers)


def text_of(known: Known) -> str:
    """Return the file of a model."""
    values = {
        name: getattr(known, name) for name in ("uri", "commit", "architecture", "digest", "parameters")
    }
    packed = [layer.packed() for layer in known.layers]
    return canonical_json({"format": FORMAT, "name": known.name, **values, "layers": packed}) + "\n"


def read_known(path: Path, *, shipped: bool = False) -> Known:
    """Read a file of the index.

    Raises:
        UsageError: It cannot be read, or is damaged.
    """
    with explaining(f"the lineage entry {path} cannot be read"):
        data = read_at_most(path, _LARGEST)
    try:
        if len(data) > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST} bytes")
        check_json_size(data, _MOST_VALUES)
        file = _File.model_validate(json.loads(data))
        layers = tuple(Layer.unpacked(value) for value in file.layers)
        if file.name != path.stem:
            raise ValueError(f"it is named {file.name!r}")
    except (ValueError, ValidationError, RecursionError) as error:
        reason = f"{error.error_count()} errors" if isinstance(error, ValidationError) else str(error)[:160]
        raise UsageError(
            f"the lineage entry {path} is damaged ({reason}); remove it with "
            f"`platodef lineage remove {path.stem}`"
        ) from None
    return Known(
        file.name,
        file.uri,
        file.commit,
        file.architecture,
        file.digest,
        file.parameters,
        layers,
        shipped,
    )


def entries(directory: Path | None = None) -> tuple[list[Known], list[str]]:
    """Return every readable model of the index, shipped ones first, and why others cannot be read."""
    own = index_directory() if directory is None else directory
    found, problems = [], []
    for folder, shipped in ((shipped_lineage(), True), (own, False)):
        for path in _files(folder):
            try:
                found.append(read_known(path, shipped=shipped))
            except UsageError as error:
                problems.append(str(error))
    return found, problems


def _files(folder: Path | None) -> Sequence[Path]:
    if folder is None or not folder.is_dir():
        return ()
    return sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))


def add(known: Known, directory: Path | None = None) -> Path:
    """Keep a model in the user's index; one of the same name is replaced if it is the same model.

    Raises:
        UsageError: Another model has the name.
        IncompleteError: The index cannot be written.
    """
    folder = index_directory() if directory is None else directory
    for entry in entries(folder)[0]:
        if entry.name == known.name and (entry.shipped or entry.digest != known.digest):
            raise UsageError(
                f"the index has another model named {known.name!r} ({entry.uri}); give another --name, or "
                "remove that one"
            )
    with explaining(f"cannot write the index in {folder}", IncompleteError):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{known.name}.json"
        write_atomically(path, text_of(known).encode())
    return path


def remove(name: str, directory: Path | None = None) -> None:
    """Remove a model of the user's index.

    Raises:
        UnknownNameError: There is none of this name.
        UsageError: It is part of the package.
        IncompleteError: It cannot be removed.
    """
    folder = index_directory() if directory is None else directory
    names = {path.stem: path for path in _files(folder)}
    if name not in names:
        if any(path.stem == name for path in _files(shipped_lineage())):
            raise UsageError(f"{name!r} is part of the package and stays")
        raise UnknownNameError("model of the index", name, sorted(names))
    with explaining(f"cannot remove {names[name]}", IncompleteError):
        names[name].unlink()
