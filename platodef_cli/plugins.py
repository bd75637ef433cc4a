"""Plug-ins: what other installed distributions add to the tables of :mod:`platodef_cli.registry`.

A plug-in is an installed Python distribution with an entry point in the group of a table::

    [project.entry-points."platodef.detectors"]
    my-detector = "my_package:MyDetector"

Only what is installed can add a row: nothing of an audited model, nor of the working directory, is looked at.
A built-in row is never replaced. ``platodef doctor`` lists the plug-ins of an installation.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from platodef_cli.errors import IncompleteError, PlatodefError, UsageError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_PREFIX = "platodef."
_loaded: ContextVar[set["Plugin"] | None] = ContextVar("_loaded", default=None)


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

    @property
    def release(self) -> str:
        """Distribution and version, for keys of caches."""
        return f"{self.distribution} {self.version}"

    def load(self) -> Any:
        """Import and return the implementation.

        Raises:
            UsageError: It cannot be imported; the message names the distribution and the entry point.
        """
        try:
            return self.entry.load()
        except (Exception, SystemExit) as error:
            # a plug-in can fail in any way; none may look like a failure of platodef
            raise UsageError(
                f"{self} cannot be loaded ({in_words(error)}); repair or uninstall it"
            ) from error


def in_words(error: BaseException) -> str:
    """Return an error in one short line, with its type."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


@contextmanager
def blaming(plugin: Plugin | None) -> Iterator[None]:
    """Let an unexpected error of a plug-in's code name the plug-in; with None every error stays as it is.

    Raises:
        IncompleteError: The code raised something that is no error of platodef, nor a lack of memory.
    """
    try:
        yield
    except (PlatodefError, MemoryError):
        raise
    except Exception as error:
        if plugin is None:
            raise
        raise IncompleteError(f"{plugin} failed ({in_words(error)}); repair or uninstall it") from error


def record(plugin: Plugin) -> None:
    """Note that a plug-in was loaded, for :func:`recording`."""
    into = _loaded.get()
    if into is not None:
        into.add(plugin)


@contextmanager
def recording(into: set[Plugin]) -> Iterator[None]:
    """Collect the plug-ins that are loaded inside, by this thread of control only."""
    token = _loaded.set(into)
    try:
        yield
    finally:
        _loaded.reset(token)


def releases(*plugins: Plugin | None) -> tuple[str, ...]:
    """Return distribution and version of plug-ins, for keys of caches: sorted, each once, without None."""
    return tuple(sorted({plugin.release for plugin in plugins if plugin is not None}))


def plugin_of(implementation: object) -> Plugin | None:
    """Return a plug-in whose package the class of an object is from; None for platodef's own and others."""
    path = type(implementation).__module__.split(".")
    if path[0] == __name__.partition(".")[0]:
        return None

    def shared(plugin: Plugin) -> int:
        # several distributions may lie in one namespace package
        module = plugin.entry.value.partition(":")[0].strip().split(".")
        return len(os.path.commonprefix([module, path]))

    nearest = max(installed_plugins(), key=shared, default=None)
    return nearest if nearest is not None and shared(nearest) else None


@dataclass(frozen=True)
class Installation:
    """What installed distributions say.

    Attributes:
        plugins: Every entry point of a ``platodef.`` group, sorted.
        unreadable: Folder of a distribution whose metadata cannot be read -> why.
    """

    plugins: tuple[Plugin, ...]
    unreadable: Mapping[str, str]


@cache
def installation() -> Installation:
    """Read the metadata of what is installed, once; nothing is imported."""
    from importlib.metadata import distributions

    plugins: dict[str, list[Plugin]] = {}
    unreadable: dict[str, str] = {}
    for distribution in distributions(path=_installation_path()):
        try:
            if f"[{_PREFIX}" not in (distribution.read_text("entry_points.txt") or ""):
                continue
            name, version = distribution.metadata["Name"], distribution.version
            found = [
                Plugin(entry.group, entry.name, name, version, entry)
                for entry in distribution.entry_points
                if entry.group.startswith(_PREFIX)
            ]
            # the first one on the path is the one that would be imported
            plugins.setdefault(re.sub(r"[-_.]+", "-", name).lower(), found)
        except Exception as error:
            # Metadata that cannot be read adds nothing, and must not stop a command that needs nothing of it.
            unreadable[str(getattr(distribution, "_path", distribution.locate_file("")))] = in_words(error)
    return Installation(tuple(sorted(p for rows in plugins.values() for p in rows)), unreadable)


def installed_plugins() -> tuple[Plugin, ...]:
    """Return every entry point of a ``platodef.`` group, sorted; read once, nothing is imported."""
    return installation().plugins


def _installation_path() -> list[str]:
    """Return where modules come from, but for the working directory.

    A model folder that somebody stands in may hold what looks like an installed distribution.
    """
    try:
        here = os.path.realpath(os.getcwd())
    except OSError:
        here = ""
    return [entry for entry in sys.path if os.path.isabs(entry) and os.path.realpath(entry) != here]
