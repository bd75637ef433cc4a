"""Files and folders for a short time; those of a process that was killed are removed by the next one.

Their owner holds a lock on them (flock), which the kernel gives back however the owner ends. So whether an
owner lives is asked of the kernel: numbers of processes, which are given again and mean nothing in another
container, and clocks, which jump, do not matter. Names hold the machine too, since some network file systems
keep locks to one machine: what another machine left is removed only once it is a day old as well.
"""

import hashlib
import os
import re
import secrets
import shutil
import socket
import stat
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked and so nothing is removed
    fcntl = None  # type: ignore[assignment]

HIDDEN = ".tmp-platodef-"
"""How names beside results and in caches begin."""
_SHOWN = "platodef-run-"
_NAME = re.compile(
    rf"(?:{re.escape(HIDDEN)}|{re.escape(_SHOWN)}[a-z]+-)(?P<machine>[0-9a-f]{{8}})-[0-9a-f]{{16}}(?:\..{{1,20}})?"
)
_STALE_S = 24 * 3600.0
_ATTEMPTS = 100
_looked_at: set[Path] = set()


class TemporaryFolder:
    """A folder that goes with its owner: removed at the latest at the end of the process, or by the next one.

    Args:
        purpose: Lower-case letters, part of its name.
        inside: Make it there under a hidden name, so that it can be renamed to its place; None is the
            system's folder for temporary files.

    Attributes:
        path: The folder; only its owner can read it.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, purpose: str, *, inside: Path | None = None):
        parent = Path(tempfile.gettempdir()) if inside is None else inside
        if parent not in _looked_at:
            _looked_at.add(parent)
            remove_left_overs(parent)
        begin = HIDDEN if inside is not None else f"{_SHOWN}{purpose}-"
        self.path, lock = _made(parent, begin, "", _new_folder)
        self._end = weakref.finalize(self, _remove, self.path, lock)

    def remove(self) -> None:
        """Remove it and what it holds; a folder that was renamed is only unlocked."""
        self._end()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *exc: object) -> None:
        self.remove()


@contextmanager
def temporary_file(folder: Path, suffix: str, mode: int) -> Iterator[Path]:
    """Yield an empty file in a folder, removed at the end of the block unless it was renamed meanwhile.

    Args:
        folder: Of the file.
        suffix: With which its name ends: empty, or a dot and more.
        mode: Of the file, less the umask.

    Raises:
        OSError: It cannot be made.
    """
    path, lock = _made(folder, HIDDEN, suffix[:20], lambda path: _new_file(path, mode))
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)


def remove_left_overs(folder: Path) -> None:
    """Remove the temporary files and folders that dead processes of this user left in a folder.

    Those whose owner lives, of other users, and under any other name stay, and so does what cannot be
    removed; a folder that cannot be listed is none.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if _NAME.fullmatch(entry.name)]
    except OSError:
        return
    for name in names:
        _remove_if_dead(folder / name)


def _remove_if_dead(path: Path) -> None:
    if fcntl is None:
        return
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError:
        return
    try:
        info = os.fstat(descriptor)
        if info.st_uid != os.geteuid() or not (stat.S_ISDIR(info.st_mode) or stat.S_ISREG(info.st_mode)):
            return
        found = _NAME.fullmatch(path.name)
        elsewhere = found is None or found["machine"] != _machine()
        if elsewhere and time.time() - info.st_mtime < _STALE_S:
            return
        # held until it is gone: an owner that has made it and not locked it yet makes another one
        if _locked(descriptor, path):
            with suppress(OSError):
                _delete(path)
    finally:
        os.close(descriptor)


def _made(parent: Path, begin: str, end: str, make: Callable[[Path], int | None]) -> tuple[Path, int | None]:
    """Make something under a new name; return its path and the descriptor that holds its lock."""
    for _ in range(_ATTEMPTS):
        path = parent / f"{begin}{_machine()}-{secrets.token_hex(8)}{end}"
        try:
            descriptor = make(path)
        except FileNotFoundError:
            if not parent.is_dir():
                raise
            continue  # taken for a left-over before it was locked
        if descriptor is None or _locked(descriptor, path, or_unknown=True):
            return path, descriptor
        os.close(descriptor)
    raise FileExistsError(17, "nothing temporary could be made", str(parent))


def _new_folder(path: Path) -> int | None:
    path.mkdir(mode=0o700)
    return None if fcntl is None else os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _new_file(path: Path, mode: int) -> int | None:
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_CLOEXEC", 0), mode)
    if fcntl is None:
        os.close(descriptor)  # an open file cannot be renamed there
        return None
    return descriptor


def _locked(descriptor: int, path: Path, *, or_unknown: bool = False) -> bool:
    """Take the lock of an open file; return whether it is ours and the file still stands under its name.

    Args:
        descriptor: The file.
        path: Its name.
        or_unknown: True where the file system has no locks: nobody can take it for a left-over there.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return or_unknown
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False


def _remove(path: Path, lock: int | None) -> None:
    _delete(path)
    if lock is not None:
        os.close(lock)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@cache
def _machine() -> str:
    return hashlib.sha256(socket.gethostname().encode("utf-8", "replace")).hexdigest()[:8]
