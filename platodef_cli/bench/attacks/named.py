"""Triggers by name, with parameters as a user types them."""

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from platodef_cli.bench.attacks import PLANTED
from platodef_cli.errors import UnknownNameError, UsageError
from platodef_cli.features.interface import Variant
from platodef_cli.plugins import blaming
from platodef_cli.triggers import TRIGGERS

LARGE = 64  # pixels; images of this side and more are nearer to the papers' 224 than to their 32
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_TYPED: dict[Any, TypeAdapter[Any]] = {
    kind: TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False)) for kind in _WORDS
}


def trigger_names() -> tuple[str, ...]:
    """Return the names of all triggers: the families, then the planted attacks."""
    return (*TRIGGERS.names(), *(name for name in PLANTED.names() if name not in TRIGGERS))


def parameters_of(name: str) -> dict[str, float | int | str | bool] | None:
    """Return the parameters of a trigger with their defaults; None where it is learned with an encoder.

    Raises:
        UnknownNameError: There is no such trigger; the message lists the choices.
    """
    kind = _load(name)
    if name not in TRIGGERS and kind().trigger(0) is None:
        return None
    own = _fields(name, kind)
    return None if own is None else {key: getattr(kind, key) for key in own}


def large_side(name: str) -> float | None:
    """Return the side of an attack's patch on images from :data:`LARGE` on; None where it is the default.

    Some papers have another share of the side at 224 pixels than at 32. The defaults are those at 32, the
    size of the planted encoders.

    Raises:
        UnknownNameError: There is no such trigger; the message lists the choices.
    """
    side: float | None = getattr(_load(name), "side_at_224", None)
    return side


def named_trigger(name: str, values: Mapping[str, str], seed: int = 0) -> Variant:
    """Return the trigger called ``name``: a family, or what a planted attack shows at test time.

    Args:
        name: One of :func:`trigger_names`.
        values: Parameters in words; the others keep their defaults.
        seed: Draws the colours of an attack's patch.

    Raises:
        UnknownNameError: There is no trigger or parameter of that name; the message lists the choices.
        UsageError: A value does not fit, or the trigger is learned.
    """
    kind = _load(name)
    own = _fields(name, kind)
    if own is None or parameters_of(name) is None:
        raise UsageError(
            f"the trigger of {name!r} is learned with each encoder; load it from the folder with its "
            "trigger.json (--from DIR)"
        )
    for key in values:
        if key not in own:
            raise UnknownNameError(f"parameter of {name!r}", key, own)
    given = {key: _value(name, own[key], text) for key, text in values.items()}
    with blaming(TRIGGERS.plugin(name)):
        made = kind(**given)
    trigger: Variant = made if name in TRIGGERS else made.trigger(seed)
    return trigger


def _load(name: str) -> Any:
    if name in TRIGGERS:
        return TRIGGERS.load(name)
    if name in PLANTED:
        return PLANTED.load(name)
    raise UnknownNameError("trigger", name, trigger_names())


def _fields(name: str, kind: Any) -> dict[str, Field[Any]] | None:
    """Return the fields of a trigger, or those of an attack that its trigger depends on.

    None if one is a tensor, which nobody can type.
    """
    own = {entry.name: entry for entry in fields(kind)}
    if not all(entry.type in _WORDS and entry.default is not MISSING for entry in own.values()):
        return None
    if name in TRIGGERS or kind().trigger(0) is None:
        return own
    default = kind().trigger(0).name
    # every parameter of an attack is a number, and every parameter of a trigger is in its name
    halves = {key: type(getattr(kind, key))(getattr(kind, key) / 2) for key in own}
    return {key: own[key] for key, half in halves.items() if kind(**{key: half}).trigger(0).name != default}


def _value(name: str, entry: Field[Any], text: str) -> float | int | str | bool:
    """Return a value of the type of its field."""
    kind: Any = entry.type
    try:
        value: float | int | str | bool = _TYPED[kind].validate_python(text)
    except ValidationError as error:
        finite = error.errors()[0]["type"] == "finite_number"
        word = "finite" if finite else _WORDS[kind]
        raise UsageError(f"{name}: {entry.name}={text!r} must be {word}") from None
    return value
