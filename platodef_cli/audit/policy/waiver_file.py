"""Waiver files: TOML with ``[[waiver]]`` tables."""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from platodef_cli.audit.policy.files import read_toml, refuse_inside
from platodef_cli.audit.verdict.waivers import Waiver
from platodef_cli.errors import UnknownNameError, UsageError

_MODEL = re.compile(r"[0-9a-fA-F]{40}|[0-9a-fA-F]{64}")
_WAIVER_KEYS = ("id", "model", "reason", "owner", "expires")


def read_waivers(path: Path, models: Sequence[str] = ()) -> tuple[Waiver, ...]:
    """Read a waiver file: ``[[waiver]]`` tables with id, model, reason, owner and expires.

    Raises:
        UsageError: It cannot be read, lies inside the audited model, or an entry is wrong.
    """
    refuse_inside(path, models, "the waiver file")
    content = read_toml(path, "the waiver file")
    for name in content:
        if name != "waiver":
            raise UnknownNameError(f"key in the waiver file {path}:", name, ["waiver"])
    entries = content.get("waiver", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f"the waiver file {path}: write each waiver as a table [[waiver]]")
    return tuple(_waiver(entry, f"the waiver file {path}, entry {i}") for i, entry in enumerate(entries, 1))


def _waiver(entry: Mapping[str, Any], where: str) -> Waiver:
    for name in entry:
        if name not in _WAIVER_KEYS:
            raise UnknownNameError(f"key in {where}:", name, _WAIVER_KEYS)
    lacking = [name for name in _WAIVER_KEYS if name not in entry]
    if lacking:
        raise UsageError(f"{where} lacks {', '.join(lacking)}; a waiver needs {', '.join(_WAIVER_KEYS)}")
    for name in ("id", "model", "reason", "owner"):
        if not isinstance(entry[name], str) or not entry[name].strip():
            raise UsageError(f"{where}: {name} is {entry[name]!r}, it must be a text")
    if not _MODEL.fullmatch(entry["model"]):
        raise UsageError(
            f"{where}: model is {entry['model']!r}; give the digest (64 hexadecimal digits) or the "
            "commit (40) of the model that a report names under target"
        )
    return Waiver(
        id=entry["id"].strip(),
        model=entry["model"],
        reason=entry["reason"].strip(),
        owner=entry["owner"].strip(),
        expires=_day(entry["expires"], where),
    )


def _day(value: object, where: str) -> date:
    """Return a date from TOML's own or its text; a time of day is refused, time zones differ."""
    try:
        if type(value) is date:
            return value
        if isinstance(value, str):
            return date.fromisoformat(value)
    except ValueError:
        pass
    raise UsageError(f"{where}: expires is {value!s}, it must be a date such as 2027-01-31")
