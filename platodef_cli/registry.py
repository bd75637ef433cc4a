"""Tables of named implementations, loaded on first use and open to plug-ins (:mod:`platodef_cli.plugins`).

What a plug-in's row must have is checked when it is loaded, so that one that lacks something ends in one
message with the name of its distribution.
"""

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

from platodef_cli.errors import UnknownNameError, UsageError
from platodef_cli.plugins import Plugin, in_words, installed_plugins, record

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_TYPES: Mapping[str, tuple[type, str]] = {
    "int": (int, "a whole number"),
    "set": (Set, "a set"),
    "str": (str, "a text"),
    "tuple": (tuple, "a tuple"),
}


class Registry:
    """Maps a name to ``"module:attribute"`` without importing the module.

    Attributes:
        kind: What the names stand for, used in error messages ("detector").
        group: Group of the entry points that may add rows; None closes the table.
        requires: What a row must have: an attribute (``name``), one of a type (``bank: int``; of int, set,
            str, tuple), a method with its arguments (``score(tuples)``), or the arguments of the row itself
            (``(heads, options)``; those after ``*`` by name).
        named: Rows state their own name, which must be that of the table.
        fault: ``"module:attribute"`` of a function that returns what else is wrong with a row, in words;
            empty where nothing is.
    """

    def __init__(
        self,
        kind: str,
        rows: Mapping[str, str],
        group: str | None = None,
        *,
        requires: Sequence[str] = (),
        named: bool = False,
        fault: str | None = None,
    ):
        self.kind = kind
        self.group = group
        self.requires = tuple(requires)
        self.named = named
        self.fault = fault
        self._rows = dict(rows)

    def names(self) -> tuple[str, ...]:
        """Return the built-in names in the order of the table, then those of plug-ins, sorted."""
        return (*self._rows, *self._added)

    def __contains__(self, name: str) -> bool:
        return name in self._rows or name in self._added

    def check(self, name: str) -> str:
        """Return the name, if it is one of the table; nothing is loaded.

        Raises:
            UnknownNameError: It is not; the message lists the choices.
        """
        if name not in self:
            raise UnknownNameError(self.kind, name, self.names())
        return name

    def built_in(self) -> tuple[str, ...]:
        """Return the built-in names in the order of the table."""
        return tuple(self._rows)

    def plugins(self) -> tuple[str, ...]:
        """Return the names that plug-ins add, sorted."""
        return tuple(self._added)

    def plugin(self, name: str) -> Plugin | None:
        """Return the plug-in that adds a name; None for built-in and unknown names."""
        return None if name in self._rows else next(iter(self._added.get(name, ())), None)

    def ignored(self) -> dict[Plugin, str]:
        """Return the entry points that add no row, and why."""
        reasons = {}
        for plugin in self._offered:
            if plugin.name in self._rows:
                reasons[plugin] = f"platodef has its own {self.kind} of that name"
            elif not _NAME.fullmatch(plugin.name):
                reasons[plugin] = "a name has only a-z, 0-9, dash and underscore"
        return reasons

    def load(self, name: str) -> Any:
        """Import and return the implementation called ``name``.

        Raises:
            UnknownNameError: The name is not in the table; the message lists the choices.
            UsageError: It is a plug-in's and cannot be loaded or lacks something, or two plug-ins add it.
        """
        if name in self._rows:
            return _attribute(self._rows[name])
        plugins = self._added.get(name)
        if plugins is None:
            raise UnknownNameError(self.kind, name, self.names())
        if len(plugins) > 1:
            both = " and ".join(plugin.release for plugin in plugins)
            raise UsageError(f"the {self.kind} {name!r} is added by {both}; uninstall all but one")
        (plugin,) = plugins
        implementation = plugin.load()
        if plugin.entry not in self._fit:
            self._check(plugin, implementation)
            self._fit.add(plugin.entry)
        record(plugin)
        return implementation

    def _check(self, plugin: Plugin, implementation: Any) -> None:
        try:
            wrong = shortcomings(implementation, self.requires)
            if not wrong and self.named and implementation.name != plugin.name:
                wrong = f"its name is {implementation.name!r}, not {plugin.name!r}"
            if not wrong and self.fault is not None:
                wrong = _attribute(self.fault)(implementation)
        except (Exception, SystemExit) as error:
            wrong = in_words(error)
        if wrong:
            raise UsageError(f"{plugin} is no {self.kind}: {wrong}; repair or uninstall it")

    @cached_property
    def _fit(self) -> set["EntryPoint"]:
        """Entry points whose implementations were checked."""
        return set()

    @cached_property
    def _added(self) -> dict[str, list[Plugin]]:
        ignored, added = self.ignored(), dict[str, list[Plugin]]()
        for plugin in self._offered:
            if plugin not in ignored:
                added.setdefault(plugin.name, []).append(plugin)
        return added

    @property
    def _offered(self) -> tuple[Plugin, ...]:
        if self.group is None:
            return ()
        return tuple(plugin for plugin in installed_plugins() if plugin.group == self.group)


def _attribute(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)


def shortcomings(implementation: Any, requires: Iterable[str]) -> str:
    """Return what an implementation lacks of :attr:`Registry.requires`, in words; empty where nothing."""
    wrong = []
    for rule in requires:
        name, bracket, arguments = rule.partition("(")
        name, _, kind = name.partition(": ")
        if name and not _has(implementation, name):
            wrong.append(f"it has no {name!r}")
        elif kind and not isinstance(getattr(implementation, name), _TYPES[kind][0]):
            wrong.append(f"its {name!r} is {getattr(implementation, name)!r:.60}, not {_TYPES[kind][1]}")
        elif bracket and not _takes(implementation, name, arguments.removesuffix(")")):
            wrong.append(f"{f'its {name!r}' if name else 'it'} cannot be called with ({arguments}")
    return ", ".join(wrong)


def _has(implementation: Any, name: str) -> bool:
    if isinstance(implementation, type) and name == "__call__":
        # every class can be called; its instances may not
        return any(name in vars(base) for base in implementation.__mro__)
    return hasattr(implementation, name)


def _takes(implementation: Any, method: str, arguments: str) -> bool:
    """Return whether a row, or a method of it, can be called with such arguments."""
    called = getattr(implementation, method) if method else implementation
    if not callable(called):
        return False
    words = [word.strip() for word in arguments.split(",") if word.strip()]
    place = words.index("*") if "*" in words else len(words)
    positional, keywords = words[:place], words[place + 1 :]
    if method and isinstance(implementation, type):
        stated = inspect.getattr_static(implementation, method)
        if hasattr(stated, "__get__") and not isinstance(stated, staticmethod | classmethod):
            positional = ["self", *positional]
    try:
        signature = inspect.signature(called)
    except (TypeError, ValueError):  # of some callables in C nothing is known
        return True
    try:
        signature.bind(*positional, **dict.fromkeys(keywords))
    except TypeError:
        return False
    return True


def check_plugins(names: Iterable[str], *tables: Registry) -> None:
    """Raise unless plug-ins add every name to one of the tables.

    Raises:
        UnknownNameError: They do not; the message lists the names that they add.
        UsageError: No plug-in adds anything to these tables.
    """
    known = {name for table in tables for name in table.plugins()}
    for name in names:
        if name in known:
            continue
        if not known:
            kinds = " or ".join(table.kind for table in tables)
            raise UsageError(f"there is no plug-in {name!r}: nothing that is installed adds a {kinds}")
        raise UnknownNameError("plug-in", name, known)
