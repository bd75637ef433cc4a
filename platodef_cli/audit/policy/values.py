"""The values of a policy's keys: which a key takes, by its default."""

from types import GenericAlias
from typing import Annotated, Any

from platodef_cli.errors import UsageError


def checked_value(where: str, name: str, value: Any, default: Any, text: bool) -> Any:
    """Return a value if it is of the kind of its default.

    Args:
        where: Names its source in errors.
        name: Its key.
        value: As TOML or JSON gives it.
        default: Of the key.
        text: It is a text, a list with commas, as a command line gives it.

    Raises:
        UsageError: It is not.
    """
    from pydantic import TypeAdapter, ValidationError

    kind, wanted = _accepted(default, strict=not text)
    if name == "trusted_signers":
        wanted = "a list of signers such as 'key:publisher.pem'"
    given = value
    if text and isinstance(default, tuple):
        given = [part.strip() for part in str(value).split(",") if part.strip()]
    try:
        return TypeAdapter(kind).validate_python(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    if isinstance(default, tuple) and default and first["loc"] and first["type"] != "missing":
        # one entry of a list of limits
        place = int(first["loc"][0])
        name, value, wanted = f"{name}[{place}]", given[place], _accepted(default[place], strict=True)[1]
    raise UsageError(f"{where}: {name} is {value!r}, it must be {wanted}")


def _accepted(default: object, *, strict: bool) -> tuple[Any, str]:
    """Return what values a key with this default takes: their type, and in words.

    Args:
        default: Of the key.
        strict: Numbers in texts are no numbers.
    """
    from pydantic import Field

    word = Annotated[str, Field(pattern=r"\S", strict=True)]
    if isinstance(default, str):
        return word, "a name"
    if isinstance(default, bool):
        return Annotated[bool, Field(strict=strict)], "true or false"
    if isinstance(default, int):
        return Annotated[int, Field(ge=1, strict=strict)], "a whole number from 1 on"
    if isinstance(default, float):
        # shares and cosines, or distances in units of a spread
        most = 1 if abs(default) <= 1 else 10
        number = Annotated[float, Field(ge=-most, le=most, allow_inf_nan=False, strict=strict)]
        return number, f"a number between -{most} and {most}"
    if not isinstance(default, tuple):
        raise TypeError(f"a policy has no values such as {default!r}")
    if not default:
        return tuple[word, ...], "a list of rules such as 'auroc > 0.9'"
    entries = tuple(_accepted(entry, strict=strict)[0] for entry in default)
    return GenericAlias(tuple, entries), f"a list of {len(default)} numbers"
