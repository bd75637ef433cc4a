"""Tables of named implementations, loaded on first use."""

from importlib import import_module
from typing import Any

from platodef_cli.errors import UnknownNameError


class Registry:
    """Maps a name to ``"module:attribute"`` without importing the module.

    Attributes:
        kind: What the names stand for, used in error messages ("detector").
    """

    def __init__(self, kind: str, rows: dict[str, str]):
        self.kind = kind
        self._rows = dict(rows)

    def names(self) -> tuple[str, ...]:
        """Return the names, in the order of the table."""
        return tuple(self._rows)

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def load(self, name: str) -> Any:
        """Import and return the implementation called ``name``.

        Raises:
            UnknownNameError: The name is not in the table; the message lists the choices.
        """
        try:
            module, _, attribute = self._rows[name].partition(":")
        except KeyError:
            raise UnknownNameError(self.kind, name, self._rows) from None
        return getattr(import_module(module), attribute)
