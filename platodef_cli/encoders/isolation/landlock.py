"""Landlock: which files a process may still open, and no TCP, signals or abstract sockets (``landlock(7)``).

The packages for it on the index are unmaintained or cover the first version only, so this is a small wrapper
of the three system calls.
"""

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446  # the same on every architecture
_VERSION_FLAG, _PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_HANDLED = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""Version of the kernel's interface -> rights over files that it knows."""
_TCP = 0b11  # bind and connect, from version 4
_SCOPES = 0b11  # abstract Unix sockets and signals, from version 6
_NO_NEW_PRIVS = 38


def version() -> int:
    """Return the version of the kernel's interface; 0 where there is none."""
    answer: int = _libc().syscall(_CREATE, None, 0, _VERSION_FLAG)
    return max(0, answer)


def restrict(readable: Iterable[Path], writable: Iterable[Path]) -> tuple[str, ...]:
    """Allow this process nothing but the given files and folders, for good; call it before threads exist.

    What is open stays open. Programs can be started from nowhere.

    Args:
        readable: Files, and folders with all that is below them; those that do not exist are left out.
        writable: The same, for reading and writing.

    Returns:
        What the kernel cannot keep off, one line each; empty where it knows everything asked for.
    """
    known = version()
    if not known:
        return ("no Landlock in this kernel, so files of the user can be read",)
    handled = _HANDLED[max(number for number in _HANDLED if number <= known)]
    attributes = struct.pack("=QQQ", handled, _TCP if known >= 4 else 0, _SCOPES if known >= 6 else 0)
    size = 8 if known < 4 else 16 if known < 6 else 24
    libc = _libc()
    rules = libc.syscall(_CREATE, ctypes.c_char_p(attributes), ctypes.c_size_t(size), 0)
    if rules < 0:
        return (f"Landlock cannot be used ({os.strerror(ctypes.get_errno())})",)
    try:
        for path in readable:
            _allow(libc, rules, path, handled & (_READ_FILE | _READ_DIR))
        for path in writable:
            _allow(libc, rules, path, handled & ~_EXECUTE)
        libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
        if libc.syscall(_RESTRICT, rules, 0):
            return (f"Landlock cannot be used ({os.strerror(ctypes.get_errno())})",)
    finally:
        os.close(rules)
    missing = []
    if known < 4:
        missing.append("this kernel's Landlock knows no rule for TCP")
    if known < 6:
        missing.append("this kernel's Landlock knows no rule for signals and abstract sockets")
    return tuple(missing)


def _allow(libc: ctypes.CDLL, rules: int, path: Path, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _OF_FILES
        rule = struct.pack("=Qi", rights, descriptor)
        if libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, ctypes.c_char_p(rule), 0):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    finally:
        os.close(descriptor)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
