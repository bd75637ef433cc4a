"""Waiver files: TOML with ``[[waiver]]`` tables."""

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, StringConstraints, ValidationError

from platodef_cli.audit.policy.files import read_toml, refuse_inside
from platodef_cli.audit.verdict.waivers import Waiver
from platodef_cli.errors import UnknownNameError, UsageError


def _day(value: object) -> object:
    """Turn the text of a date into a date; a time of day stays one and is refused, time zones differ."""
    return date.fromisoformat(value) if isinstance(value, str) else value


_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class _Entry(BaseModel):
    """One ``[[waiver]]`` table."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: _Text
    model: Annotated[str, StringConstraints(pattern=r"^([0-9a-fA-F]{40}|[0-9a-fA-F]{64})$")]
    reason: _Text
    owner: _Text
    expires: Annotated[date, BeforeValidator(_day)]


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
    try:
        values = _Entry.model_validate(entry)
    except ValidationError as error:
        raise _explained(error, where) from None
    return Waiver(**dict(values))


def _explained(error: ValidationError, where: str) -> UsageError:
    """Return the problem of an entry in one line: first unknown keys, then absent ones, then values."""
    problems = [(problem["type"], str(problem["loc"][0]), problem["input"]) for problem in error.errors()]
    unknown = [name for kind, name, _ in problems if kind == "extra_forbidden"]
    if unknown:
        return UnknownNameError(f"key in {where}:", unknown[0], _Entry.model_fields)
    lacking = [name for kind, name, _ in problems if kind == "missing"]
    if lacking:
        needed = ", ".join(_Entry.model_fields)
        return UsageError(f"{where} lacks {', '.join(lacking)}; a waiver needs {needed}")
    kind, name, value = problems[0]
    if name == "expires":
        return UsageError(f"{where}: expires is {value!s}, it must be a date such as 2027-01-31")
    if kind == "string_pattern_mismatch":
        return UsageError(
            f"{where}: model is {value!r}; give the digest (64 hexadecimal digits) or the "
            "commit (40) of the model that a report names under target"
        )
    return UsageError(f"{where}: {name} is {value!r}, it must be a text")
