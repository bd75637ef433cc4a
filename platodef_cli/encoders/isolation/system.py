"""What this system lacks: Linux has all of it, macOS no sandbox that is used here, Windows no such children.

Whatever is missing is said in the report; nothing fails when a module is imported.
"""

import ctypes
import os
import platform
import select
from importlib import import_module
from typing import Any


def module(name: str) -> Any:
    """Return a module of the standard library, or None where this system has none of that name."""
    try:
        return import_module(name)
    except ImportError:
        return None


def has_sandbox() -> bool:
    """Return whether this kernel knows what a child gives up its rights with (Linux)."""
    try:
        return hasattr(os, "pidfd_open") and ctypes.CDLL(None).prctl is not None
    except (AttributeError, OSError, TypeError):
        return False


def has_children() -> bool:
    """Return whether an encoder can run in a process of its own here (POSIX)."""
    needed = ("killpg", "set_blocking", "readv", "fork")
    return all(hasattr(os, name) for name in needed) and hasattr(select, "poll")


def no_sandbox() -> str:
    """Return what to say where there is no sandbox."""
    name = platform.system() or "this system"
    return f"there is no sandbox on {name}: the suspect's process can read files and reach the network"


def no_children() -> str:
    """Return what to say where there is no process of its own either."""
    name = platform.system() or "this system"
    return f"the suspect runs in platodef's own process: {name} has no isolated children"
