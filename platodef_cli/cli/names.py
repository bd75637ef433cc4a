"""Lists of names on the command line: repeated options, commas, or ``none``."""

from collections.abc import Sequence

from platodef_cli.errors import UnknownNameError
from platodef_cli.registry import Registry

NONE = "none"


def chosen(values: Sequence[str] | None, *tables: Registry) -> tuple[tuple[str, ...], ...]:
    """Return the names that were asked for, table by table, in the order of the request.

    Args:
        values: Every use of the option, each with one or more names between commas; None takes all.
        tables: Where names are looked up.

    Raises:
        UnknownNameError: A name is in none of the tables; the message lists the choices.
    """
    if values is None:
        return tuple(table.names() for table in tables)
    names = list(dict.fromkeys(part.strip() for value in values for part in value.split(",") if part.strip()))
    if names == [NONE]:
        return tuple(() for _ in tables)
    choices = [name for table in tables for name in table.names()]
    for name in names:
        if name not in choices:
            raise UnknownNameError(tables[0].kind, name, choices)
    return tuple(tuple(name for name in names if name in table) for table in tables)
