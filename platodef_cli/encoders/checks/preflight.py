"""Static checks of a model folder: nothing is loaded, built or executed, and torch is not needed."""

import contextlib
import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from platodef_cli.disk import open_regular, resolve_inside
from platodef_cli.encoders import BACKENDS
from platodef_cli.encoders.checks.configuration import check_configuration, parse_json
from platodef_cli.encoders.checks.layout import choose, shards
from platodef_cli.encoders.checks.limits import Limits
from platodef_cli.encoders.checks.loaders import other_loaders, refuse_adapters
from platodef_cli.encoders.checks.nothing import PICKLES
from platodef_cli.encoders.checks.safetensors_header import FLOATS, TensorEntry, header_length, parse_header
from platodef_cli.encoders.checks.substitutes import is_archive, refuse_substitute, signature
from platodef_cli.encoders.checks.weights import INTEGER_BUFFER, files_digest
from platodef_cli.encoders.hub.hub_cache import place_in_cache
from platodef_cli.errors import RefusedError, UnsupportedError, UsageError
from platodef_cli.plugins import blaming
from platodef_cli.records import FileRecord, Finding, Record

_LONGEST_NAME = 200
_ELSEWHERE = re.compile(r"^[\w-]+:|\.\.|^[/~]|\\")
"""Names that loaders take for an address: ``hf-hub:org/name``, ``local-dir:/home``, ``../other``."""
_NAMED = 50  # files that are named one by one


class Preflight(Record):
    """What the static checks found out about a model folder that they did not refuse."""

    directory: str
    follow_links: bool = Field(False, description="files that links outside the folder lead to were examined")
    backend: str = Field(description="library that the folder is for: timm, open_clip or transformers")
    architecture: str
    parameters: int = Field(description="elements of all float tensors, from the headers")
    files: tuple[FileRecord, ...] = Field(description="the files that a load would read, with their hashes")
    digest: str = Field(description="SHA-256 over the sorted (path, sha256) pairs of the files")
    findings: tuple[Finding, ...]
    not_examined: tuple[str, ...] = Field(
        description="other entries of the folder and why they are left alone"
    )


def preflight(
    directory: Path | str,
    *,
    limits: Limits | None = None,
    listing: Mapping[str, int] | None = None,
    follow_links: bool = False,
) -> Preflight:
    """Check a model folder against the allow-list and the bounds, without loading anything.

    Args:
        directory: A local folder, or a snapshot folder of the Hub cache.
        limits: Bounds; the defaults fit every published vision encoder up to 12 billion parameters.
        listing: Of a repository that was not fetched whole, its files with their sizes: what was not fetched
            is reported as well.
        follow_links: Links may lead out of the folder to regular files, which are examined as its own.

    Raises:
        UsageError: The folder does not exist or holds no model.
        RefusedError: Something in it is unsafe; the message names the file and the reason.
    """
    directory, limits = Path(directory), limits or Limits()
    if not directory.is_dir():
        raise UsageError(f"{directory}: no such model folder; give a folder or org/name")
    folder = _Folder(directory, limits, follow_links)
    kinds = _entries(folder)
    names = {name for name, kind in kinds.items() if kind != "folder"}
    config = _read_json(folder, "config.json")[1] if "config.json" in names else {}
    absent = {name: size for name, size in (listing or {}).items() if name not in kinds}
    refuse_adapters({*names, *absent}, str(directory))
    backend, layout = choose(config, names, str(directory), _inner(folder, kinds, absent))
    files, parsed = _read_configurations(folder, layout.configurations)
    index, weights = None, [layout.weights]
    if layout.weights.endswith(".index.json"):
        record, index = _read_json(folder, layout.weights)
        files.append(record)
        weights = shards(layout.weights, index, names)
    parameters = _read_weights(folder, weights, files, index)
    used = {record.path for record in files}
    return Preflight(
        directory=str(directory),
        follow_links=follow_links,
        backend=backend,
        architecture=_architecture(backend, parsed[layout.configurations[0]]),
        parameters=parameters,
        files=tuple(sorted(files, key=lambda record: record.path)),
        digest=files_digest(tuple(files)),
        findings=(
            *_findings({**kinds, **dict.fromkeys(absent, "file")}, used),
            *other_loaders(backend, used, {*names, *absent}, directory, limits),
        ),
        not_examined=(
            *(f"{name}: {_why(name, kind)}" for name, kind in sorted(kinds.items()) if name not in used),
            *_not_fetched(absent),
            *_unknown_rest(directory, listing),
        ),
    )


@dataclass(frozen=True)
class _Folder:
    """What is examined, and within which bounds."""

    directory: Path
    limits: Limits
    follow_links: bool

    def path(self, name: str) -> Path:
        """Return where an entry really lies."""
        return resolve_inside(self.directory, name, follow_links=self.follow_links)


def _architecture(backend: str, configuration: Mapping[str, Any]) -> str:
    """Return the name that a backend reads in the main configuration."""
    plugin = BACKENDS.plugin(backend)
    with blaming(plugin):
        name: str = BACKENDS.load(backend)().architecture(configuration)
        if plugin is not None and not isinstance(name, str):
            raise TypeError(f"it gave {type(name).__name__} for the architecture, not a text")
    if len(name) > _LONGEST_NAME or not name.isprintable() or _ELSEWHERE.search(name):
        raise RefusedError(
            f"its configuration has the architecture {name[:60]!a}, which is no name or leads elsewhere; "
            "do not use this model"
        )
    return name


def _entries(folder: _Folder) -> dict[str, str]:
    """Return what each entry of the folder is, by its first bytes; refuse links that lead out."""
    kinds: dict[str, str] = {}
    directory, limits = folder.directory, folder.limits
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError as error:
        raise UsageError(f"{directory}: cannot be listed ({error.strerror})") from None
    if len(entries) > limits.files:
        raise RefusedError(
            f"{directory}: holds {len(entries)} files, more than {limits.files}; not a model folder?"
        )
    for entry in entries:
        path = folder.path(entry.name)
        if path.is_dir():
            kinds[entry.name] = "folder"
        elif not path.exists():
            raise RefusedError(f"{directory / entry.name}: a link to nothing; do not use this model")
        elif not path.is_file():
            raise RefusedError(f"{directory / entry.name}: not a regular file; do not use this model")
        else:
            with open_regular(path) as (descriptor, _):
                head = os.read(descriptor, 16)
            kinds[entry.name] = signature(head, entry.name)
    return kinds


def _inner(folder: _Folder, kinds: Mapping[str, str], absent: Iterable[str]) -> list[str]:
    """Return paths below the folder, so far as they say where a model lies: at most two folders down."""
    found = [name for name in absent if "/" in name]
    level = [name for name, kind in kinds.items() if kind == "folder"]
    for _ in range(2):
        names = sorted(level)[:_NAMED]
        level = []
        for name in names:
            with contextlib.suppress(OSError), os.scandir(folder.directory / name) as entries:
                for entry in itertools.islice(entries, folder.limits.files):
                    path = f"{name}/{entry.name}"
                    (level if entry.is_dir(follow_symlinks=False) else found).append(path)
    return found


def _read_configurations(
    folder: _Folder, names: Iterable[str]
) -> tuple[list[FileRecord], dict[str, dict[str, Any]]]:
    """Hash and check the configurations."""
    files, parsed = [], {}
    for name in names:
        record, value = _read_json(folder, name)
        if name != "tokenizer.json":
            check_configuration(value, name, folder.limits)
        files.append(record)
        parsed[name] = value
    return files, parsed


def _read_json(folder: _Folder, name: str) -> tuple[FileRecord, dict[str, Any]]:
    """Read one JSON file once: its record and its content are of the same bytes."""
    directory, limits = folder.directory, folder.limits
    with open_regular(folder.path(name)) as (descriptor, size):
        if size > limits.json_bytes:
            raise RefusedError(f"{directory / name}: has {size} bytes, more than {limits.json_bytes}")
        with os.fdopen(os.dup(descriptor), "rb") as stream:
            data = stream.read(limits.json_bytes + 1)
    refuse_substitute(data[:256], directory / name)
    record = FileRecord(path=name, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
    return record, parse_json(data, str(directory / name), limits)


def _read_weights(
    folder: _Folder, weights: list[str], files: list[FileRecord], index: dict[str, Any] | None
) -> int:
    """Check and hash the weight files; append their records; return the number of float elements."""
    directory, limits = folder.directory, folder.limits
    parameters, tensors, total = 0, 0, sum(record.bytes for record in files)
    found: dict[str, str] = {}
    for name in weights:
        record, entries = _read_header(folder, name)
        files.append(record)
        total += record.bytes
        tensors += len(entries)
        for key, entry in entries.items():
            if key in found:
                raise RefusedError(f"{name}: tensor {key!r} is also in {found[key]}; do not use this model")
            found[key] = name
            _check_tensor(name, key, entry)
            parameters += entry.elements if entry.dtype in FLOATS else 0
        if total > limits.total_bytes or parameters > limits.parameters or tensors > limits.tensors:
            raise RefusedError(
                f"{directory}: {parameters} parameters in {total} bytes are more than the bounds allow"
            )
    if not found:
        raise RefusedError(f"{directory}: its weight files hold no tensors; do not use this model")
    if index is not None and found != index["weight_map"]:
        odd = next(k for k in {*found, *index["weight_map"]} if found.get(k) != index["weight_map"].get(k))
        raise RefusedError(
            f"{directory}: the index and the shards disagree about tensor {odd!r}; download it again"
        )
    return parameters


def _read_header(folder: _Folder, name: str) -> tuple[FileRecord, dict[str, TensorEntry]]:
    """Parse the header of a weight file and hash all of the file in the same pass."""
    directory, limits = folder.directory, folder.limits
    with open_regular(folder.path(name)) as (descriptor, size):
        if size > limits.total_bytes:
            raise RefusedError(f"{directory / name}: has {size} bytes, more than {limits.total_bytes}")
        with os.fdopen(os.dup(descriptor), "rb") as stream:
            head = stream.peek(256)[:256]
            kind = signature(head[:16], name)
            if kind != "file":
                raise RefusedError(f"{directory / name}: is {kind}, not safetensors; do not use this model")
            refuse_substitute(head, directory / name)
            prefix = stream.read(8)
            header = stream.read(header_length(prefix, size, name, limits))
            digest = hashlib.sha256(prefix + header)
            while chunk := stream.read(2**22):
                digest.update(chunk)
    entries = parse_header(prefix, header, size, name, limits)
    return FileRecord(path=name, sha256=digest.hexdigest(), bytes=size), entries


def _check_tensor(name: str, key: str, entry: TensorEntry) -> None:
    """Refuse element types that a load would silently convert, and those that nothing here computes with."""
    if entry.dtype not in FLOATS and not INTEGER_BUFFER.search(key):
        if entry.dtype.startswith("F"):
            raise UnsupportedError(
                f"{name}: tensor {key!r} has the element type {entry.dtype}, which is not supported "
                f"({', '.join(FLOATS)} are); give the model that it was quantised from"
            )
        raise RefusedError(
            f"{name}: tensor {key!r} has the element type {entry.dtype}; weights must be floating point "
            f"({', '.join(FLOATS)}); of a quantised model, give the one that it was made from"
        )


def _findings(kinds: dict[str, str], used: set[str]) -> tuple[Finding, ...]:
    """Report what a reader of the report should know about files that are left alone."""
    findings = []
    code = sorted(
        n for n in kinds if n.endswith((".py", ".so", ".sh")) or kinds[n] in ("a program", "a script")
    )
    if code:
        findings.append(
            Finding(
                id="repository-code", severity="low", message=f"holds code, never run: {', '.join(code[:5])}"
            )
        )
    pickles = sorted(
        n
        for n, kind in kinds.items()
        if n not in used
        and (n.endswith(PICKLES) or kind == "a pickle" or "zip" in kind and not is_archive(n))
    )
    if pickles:
        findings.append(
            Finding(
                id="pickle", severity="low", message=f"holds pickles, never opened: {', '.join(pickles[:5])}"
            )
        )
    hidden = [n for n in pickles if not n.endswith(PICKLES)]
    if hidden:
        findings.append(
            Finding(
                id="disguised-pickle",
                severity="high",
                message=f"holds pickles or archives under another name: {', '.join(hidden[:5])}",
            )
        )
    return tuple(findings)


def _not_fetched(absent: Mapping[str, int]) -> tuple[str, ...]:
    """Say what a repository holds beyond the files that were downloaded."""
    names = sorted(absent)
    lines = [f"{name}: {absent[name]} bytes in the repository, not downloaded" for name in names[:_NAMED]]
    rest = names[_NAMED:]
    if rest:
        total = sum(absent[name] for name in rest)
        lines.append(f"{len(rest)} more files of the repository: {total} bytes, not downloaded")
    return tuple(lines)


def _unknown_rest(directory: Path, listing: Mapping[str, int] | None) -> tuple[str, ...]:
    """Say that a snapshot of the Hub's cache without a listing need not be the whole repository."""
    place = place_in_cache(directory) if listing is None else None
    if place is None:
        return ()
    inner = f" in {place.folder}" if place.folder else ""
    return (
        f"whatever else {place.name} holds{inner}: another tool fetched these files into the Hub's cache, "
        f"which does not list the rest; with the network, 'platodef preflight {place.name}' does",
    )


def _why(name: str, kind: str) -> str:
    """Say why an entry of the folder is left alone."""
    if kind == "folder":
        return "a sub-folder; never read"
    if kind != "file" or name.endswith(PICKLES):
        return f"{kind if kind != 'file' else 'weights in an unsafe format'}; never opened for loading"
    if name.endswith(".safetensors"):
        return "weights that the chosen library does not read"
    return "not needed to run the encoder"
