"""The policy file of ``platodef audit``: the limits of the verdict, as TOML."""

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platodef_cli.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from platodef_cli.audit import Policy

_MAX_BYTES = 2**20


def read_policy(path: Path) -> "Policy":
    """Read a policy: keys are the fields of :class:`platodef_cli.audit.Policy`, others stay at their default.

    Raises:
        UsageError: The file cannot be read, is not TOML, or has an unknown key or a wrong value.
    """
    from platodef_cli.audit import Policy

    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError(f"the policy {path} is larger than any policy; check the path")
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the policy {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the policy {path} is not TOML: {error}") from error
    default = Policy()
    known = {field.name: getattr(default, field.name) for field in fields(Policy)}
    for name in values:
        if name not in known:
            raise UnknownNameError(f"key in the policy {path}:", name, known)
    changed = {name: _checked(path, name, value, known[name]) for name, value in values.items()}
    return Policy(**{"name": path.stem, **changed})


def _checked(path: Path, name: str, value: Any, default: Any) -> Any:
    """Return a value if it is of the kind of its default."""
    wrong = UsageError(f"the policy {path}: {name} is {value!r}, it must be {_wanted(default)}")
    if isinstance(default, tuple):
        if not isinstance(value, list) or len(value) != len(default):
            raise wrong
        return tuple(_checked(path, f"{name}[{i}]", entry, default[i]) for i, entry in enumerate(value))
    if isinstance(default, str):
        if not isinstance(value, str) or not value.strip():
            raise wrong
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, int):
        if not number or isinstance(value, float) or value < 1:
            raise wrong
        return value
    if not number or not -1 <= value <= 1:
        raise wrong
    return float(value)


def _wanted(default: Any) -> str:
    if isinstance(default, tuple):
        return f"a list of {len(default)} numbers"
    if isinstance(default, str):
        return "a name"
    return "a whole number from 1 on" if isinstance(default, int) else "a number between -1 and 1"
