"""The manifest of ``platodef audit-many``: TOML with one table of common options and a list of suspects."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from inspect import get_annotations
from pathlib import Path
from typing import Any

from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.policy.files import read_toml
from platodef_cli.encoders.reference import parse
from platodef_cli.errors import PlatodefError, UsageError

VERSION = 1
_LARGEST = 16 * 2**20
_TOP = ("version", "audit", "suspects")
_JUDGING: Mapping[str, Any] = {"policy": str, "set": list[str], "fail_if": list[str], "waivers": str}
"""Keys of the common table beside the keywords of an audit -> their types; as the options of these names."""
_ELSEWHERE = ("model", "revision", "cache_dir", "use_cache", "policy")
OWN = (
    "model", "name", "revision", "head", "pooling", "follow_links", "baseline", "dtype", "device",
    "batch_size", "memory_limit_gb", "time_limit_s",
)  # fmt: skip
"""Keys of a suspect."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")
_UNSAFE = re.compile(r"[^A-Za-z0-9._@-]+")


@dataclass(frozen=True)
class Suspect:
    """One encoder to audit.

    Attributes:
        name: First part of the names of its files; unique, whatever the case of its letters.
        model: Folder, ``org/name[@revision]`` or ``builtin:NAME``.
        options: Keyword of an audit -> value: the common ones and its own.
        baseline: Report that it is compared with, or None.
    """

    name: str
    model: str
    options: Mapping[str, Any]
    baseline: Path | None = None


@dataclass(frozen=True)
class Manifest:
    """What to audit.

    Attributes:
        suspects: In the order of the file.
        policy: Policy file, or None.
        set: ``KEY=VALUE`` limits.
        fail_if: Rules that are added to those of the policy.
        waivers: Waiver file, or None.
    """

    suspects: tuple[Suspect, ...]
    policy: Path | None = None
    set: tuple[str, ...] = ()
    fail_if: tuple[str, ...] = ()
    waivers: Path | None = None

    def shard(self, number: int, count: int) -> tuple[Suspect, ...]:
        """Return the suspects of shard ``number`` of ``count``, the first one is 1."""
        return self.suspects[number - 1 :: count]


@dataclass
class _Names:
    """Names that were given so far."""

    taken: dict[str, str] = field(default_factory=dict)

    def take(self, name: str, where: str) -> str:
        before = self.taken.setdefault(name.lower(), where)
        if before != where:
            raise UsageError(
                f"{where}: it is called {name!r}, as {before} is; give it a name of its own (name = ...)"
            )
        return name


def common_keys() -> tuple[str, ...]:
    """Return the keys of the table ``[audit]``."""
    options = [entry.name for entry in fields(AuditConfig) if entry.metadata and entry.name not in _ELSEWHERE]
    return (*options, *_JUDGING)


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Everything is checked here, the options of every suspect included, so that a slip does not show after
    hours. Paths in it are relative to the current folder, as on the command line.

    Raises:
        UsageError: It cannot be read, a key is unknown, a value is wrong, or two suspects have one name.
    """
    content = read_toml(path, "the manifest", _LARGEST)
    _known(content, _TOP, str(path))
    version = content.get("version", VERSION)
    if version != VERSION or isinstance(version, bool):
        raise UsageError(f"{path}: version is {version!r}; this platodef reads {VERSION}")
    common = content.get("audit", {})
    if not isinstance(common, dict):
        raise UsageError(f"{path}: audit is no table; write the common options under [audit]")
    where = f"{path}: [audit]"
    _known(common, common_keys(), where)
    judging = {
        name: _typed(common[name], kind, f"{where} {name}")
        for name, kind in _JUDGING.items()
        if name in common
    }
    options = _options({name: value for name, value in common.items() if name not in _JUDGING}, where)
    entries = content.get("suspects")
    if not isinstance(entries, list) or not entries:
        raise UsageError(
            f"{path}: suspects is missing or empty; write [[suspects]] tables with model = ..., or a list"
        )
    names = _Names()
    suspects = tuple(
        _suspect(entry, options, f"{path}: suspect {number}", names)
        for number, entry in enumerate(entries, start=1)
    )
    return Manifest(
        suspects,
        policy=Path(judging["policy"]) if "policy" in judging else None,
        set=tuple(judging.get("set", ())),
        fail_if=tuple(judging.get("fail_if", ())),
        waivers=Path(judging["waivers"]) if "waivers" in judging else None,
    )


def _known(values: Mapping[str, Any], choices: tuple[str, ...], where: str) -> None:
    for name in values:
        if name in choices:
            continue
        close = get_close_matches(name.replace("-", "_"), choices, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UsageError(f"{where} has an unknown key {name!r}{hint}; its keys are {', '.join(choices)}")


def _suspect(entry: object, common: Mapping[str, Any], where: str, names: _Names) -> Suspect:
    if isinstance(entry, str):
        entry = {"model": entry}
    if not isinstance(entry, dict):
        raise UsageError(
            f"{where} is {type(entry).__name__}; give the id of a model, or a table with model = ..."
        )
    _known(entry, OWN, where)
    if "model" not in entry:
        raise UsageError(f"{where} has no model; add model = 'org/name@commit' or a folder")
    model = _typed(entry["model"], str, f"{where} model")
    where = f"{where} ({model[:80]!r})"
    own = _options(
        {name: value for name, value in entry.items() if name not in ("name", "baseline", "model")}, where
    )
    try:
        AuditConfig(model, **{**common, **own})
        # a folder that is not there is the fault of one suspect, which its own audit tells
        if not _is_absent_folder(model):
            parse(model, own.get("revision"))
    except PlatodefError as error:
        raise UsageError(f"{where}: {error}") from None
    name = _typed(entry.get("name", default_name(model, own.get("revision"))), str, f"{where} name")
    if not _NAME.fullmatch(name) or name.lower().endswith((".run", ".json")):
        raise UsageError(
            f"{where}: the name {name!r} is no name of a file; use letters, digits, '.', '_' and '-'"
        )
    baseline = _typed(entry["baseline"], str, f"{where} baseline") if "baseline" in entry else None
    return Suspect(
        names.take(name, where), model, {**common, **own}, None if baseline is None else Path(baseline)
    )


def _is_absent_folder(model: str) -> bool:
    return model.startswith(("/", "./", "../", "~")) and not Path(model).expanduser().exists()


def default_name(model: str, revision: str | None = None) -> str:
    """Return a name for the files of a suspect that tells it from every other."""
    text = model.removeprefix("hf://") + (f"@{revision}" if revision else "")
    safe = _UNSAFE.sub("-", text.replace("/", "--").replace(":", "-")).strip("-.@")
    plain = safe.replace("@", "-")
    clear = re.fullmatch(r"builtin:[\w-]+|\w[\w.-]*/\w[\w.-]*(@[\w.-]+)?", text, re.ASCII)
    if clear and len(plain) <= 80 and "--" not in text:
        return plain
    mark = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{plain[-60:].strip('-.')}-{mark}".lstrip("-")


def _options(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    types = get_annotations(AuditConfig, eval_str=True)
    return {name: _typed(value, types[name], f"{where} {name}") for name, value in values.items()}


def _typed(value: Any, kind: Any, where: str) -> Any:
    """Return a value that has the type of its option.

    Raises:
        UsageError: It has not.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise UsageError(f"{where} is {value!r:.80}: {first['msg'].lower()}") from None
