"""Tables of named implementations, loaded on first use and open to plug-ins.

A plug-in is an installed Python distribution with an entry point in the group of a table::

    [project.entry-points."platodef.detectors"]
    my-detector = "my_package:MyDetector"

Only what is installed can add a row: nothing of an audited model, nor of the working directory, is looked at.
A built-in row is never replaced. ``platodef doctor`` lists the plug-ins of an installation.
"""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

from platodef_cli.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_PREFIX = "platodef."
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_used: set["Plugin"] = set()


@dataclass(frozen=True, order=True)
class Plugin:
    """One row that an installed distribution adds.

    Attributes:
        group: Group of the table (``platodef.detectors``).
        name: Name of the row.
        distribution: Name of the distribution, as package managers know it.
        version: Version of the distribution.
        entry: The entry point.
    """

    group: str
    name: str
    distribution: str
    version: str
    entry: "EntryPoint" = field(repr=False, compare=False)

    def __str__(self) -> str:
        place = f"{self.group}: {self.name} = {self.entry.value}"
        return f"the plug-in {self.distribution} {self.version} ({place})"

    def load(self) -> Any:
        """Import and return the implementation.

        Raises:
            UsageError: It cannot be imported; the message names the distribution and the entry point.
        """
        try:
            implementation = self.entry.load()
        except (Exception, SystemExit) as error:
            # a plug-in can fail in any way; none may look like a failure of platodef
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise UsageError(f"{self} cannot be loaded ({reason}); repair or uninstall it") from error
        _used.add(self)
        return implementation


class Registry:
    """Maps a name to ``"module:attribute"`` without importing the module.

    Attributes:
        kind: What the names stand for, used in error messages ("detector").
        group: Group of the entry points that may add rows; None closes the table.
    """

    def __init__(self, kind: str, rows: Mapping[str, str], group: str | None = None):
        self.kind = kind
        self.group = group
        self._rows = dict(rows)

    def names(self) -> tuple[str, ...]:
        """Return the built-in names in the order of the table, then those of plug-ins, sorted."""
        return (*self._rows, *self._added)

    def __contains__(self, name: str) -> bool:
        return name in self._rows or name in self._added

    def plugins(self) -> tuple[str, ...]:
        """Return the names that plug-ins add, sorted."""
        return tuple(self._added)

    def ignored(self) -> dict[Plugin, str]:
        """Return the entry points that add no row, and why."""
        reasons = {}
        for plugin in self._offered:
            if plugin.name in self._rows:
                reasons[plugin] = f"platodef has its own {self.kind} of that name"
            elif not _NAME.fullmatch(plugin.name):
                reasons[plugin] = "a name has only a-z, 0-9, dot, dash and underscore"
        return reasons

    def load(self, name: str) -> Any:
        """Import and return the implementation called ``name``.

        Raises:
            UnknownNameError: The name is not in the table; the message lists the choices.
            UsageError: It is a plug-in's and cannot be loaded, or two plug-ins add it.
        """
        if name in self._rows:
            module, _, attribute = self._rows[name].partition(":")
            return getattr(import_module(module), attribute)
        plugins = self._added.get(name)
        if plugins is None:
            raise UnknownNameError(self.kind, name, self.names())
        if len(plugins) > 1:
            both = " and ".join(f"{plugin.distribution} {plugin.version}" for plugin in plugins)
            raise UsageError(f"the {self.kind} {name!r} is added by {both}; uninstall all but one")
        return plugins[0].load()

    @cached_property
    def _added(self) -> dict[str, list[Plugin]]:
        ignored, added = self.ignored(), dict[str, list[Plugin]]()
        for plugin in self._offered:
            if plugin not in ignored:
                added.setdefault(plugin.name, []).append(plugin)
        return added

    @property
    def _offered(self) -> tuple[Plugin, ...]:
        return tuple(plugin for plugin in installed_plugins() if plugin.group == self.group)


@cache
def installed_plugins() -> tuple[Plugin, ...]:
    """Return every entry point of a ``platodef.`` group, sorted; read once, nothing is imported."""
    from importlib.metadata import distributions

    plugins: dict[str, list[Plugin]] = {}
    for distribution in distributions(path=_installation_path()):
        try:
            if f"[{_PREFIX}" not in (distribution.read_text("entry_points.txt") or ""):
                continue
            name, version = distribution.name, distribution.version
            found = [
                Plugin(entry.group, entry.name, name, version, entry)
                for entry in distribution.entry_points
                if entry.group.startswith(_PREFIX)
            ]
        except Exception:
            # Metadata that cannot be read adds nothing, and must not stop a command that needs nothing of it.
            continue
        # the first one on the path is the one that would be imported
        plugins.setdefault(re.sub(r"[-_.]+", "-", name).lower(), found)
    return tuple(sorted(plugin for rows in plugins.values() for plugin in rows))


def _installation_path() -> list[str]:
    """Return where modules come from, but for the working directory.

    A model folder that somebody stands in may hold what looks like an installed distribution.
    """
    try:
        here = os.path.realpath(os.getcwd())
    except OSError:
        here = ""
    return [entry for entry in sys.path if os.path.isabs(entry) and os.path.realpath(entry) != here]


def used_plugins() -> dict[str, str]:
    """Return distribution -> version of the plug-ins that this process has loaded."""
    return {plugin.distribution: plugin.version for plugin in sorted(_used)}
