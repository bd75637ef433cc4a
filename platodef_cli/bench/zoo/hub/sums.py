"""``SHA256SUMS`` of a published zoo, and folders that appear only when they are whole."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from platodef_cli.disk import explaining, read_at_most, real_path, replacing
from platodef_cli.errors import IncompleteError, RefusedError, UsageError

SUMS = "SHA256SUMS"
LARGEST_SUMS = 4 * 2**20
MOST_FILES = 20_000
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)", re.ASCII)
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}", re.ASCII)
_DEEPEST = 4
_SUFFIXES = (".json", ".jsonl", ".md", ".safetensors", ".txt")
"""Kinds of files of a published zoo; none of them can hold code."""
# names that mean a device on Windows, whatever follows a dot
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def check_path(path: str, where: str) -> str:
    """Return a relative path that is safe on every system.

    Raises:
        RefusedError: It leads elsewhere, is hidden, or is no kind of file that a published zoo has.
    """
    parts = path.split("/")
    usual = all(_PART.fullmatch(part) and part[-1] != "." and not _DEVICES.fullmatch(part) for part in parts)
    if not usual or len(parts) > _DEEPEST:
        raise RefusedError(f"{where}: names the file {path[:200]!r}, which is no safe path; do not use it")
    if not path.endswith(_SUFFIXES):
        raise RefusedError(
            f"{where}: names the file {path!r}; a zoo holds {', '.join(_SUFFIXES)} only; do not use it"
        )
    return path


def sums_text(sums: Mapping[str, str]) -> str:
    """Return ``SHA256SUMS``, as ``sha256sum -c`` reads it, sorted by path.

    Args:
        sums: Path -> SHA-256, hex.
    """
    return "".join(f"{sums[path]}  {path}\n" for path in sorted(sums))


def read_sums(folder: Path, where: str) -> dict[str, str]:
    """Return path -> SHA-256 of a ``SHA256SUMS``.

    Raises:
        RefusedError: It is not one, or names a path that is not safe, or one file twice.
        UsageError: It cannot be read.
    """
    with explaining(f"{where}: {SUMS} cannot be read"):
        data = read_at_most(folder / SUMS, LARGEST_SUMS)
    lines = data.decode("ascii", "replace").splitlines()
    if len(data) > LARGEST_SUMS or len(lines) > MOST_FILES:
        raise RefusedError(f"{where}: {SUMS} names more than {MOST_FILES} files; do not use it")
    sums: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise RefusedError(f"{where}: line {number} of {SUMS} is not 'SHA-256  path'; do not use it")
        sums[check_path(match[2], where)] = match[1]
    folded = {path.casefold() for path in sums}
    folders = {
        "/".join(path.split("/")[:depth]) for path in folded for depth in range(1, path.count("/") + 1)
    }
    if len(folded) != len(lines) or folders & folded:
        raise RefusedError(f"{where}: {SUMS} names a file twice; do not use it")
    return sums


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def wrong(folder: Path, sums: Mapping[str, str]) -> list[str]:
    """Return the paths whose files are missing, or are other bytes."""
    return [
        path
        for path, expected in sums.items()
        if not (folder / path).is_file() or sha256_of(folder / path) != expected
    ]


def put(content: bytes | Path, target: Path, expected: str) -> bool:
    """Bring bytes, or those of a file, to ``target``, unless they are there already.

    Args:
        content: The bytes, or the file that holds them.
        target: Inside the folder that is filled.
        expected: Their SHA-256.

    Returns:
        Whether they are now there: not, if the file holds other bytes than expected.

    Raises:
        OSError: They cannot be written.
    """
    if target.is_file() and not target.is_symlink() and sha256_of(target) == expected:
        return True
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary:
        if isinstance(content, bytes):
            temporary.write_bytes(content)
        else:
            shutil.copyfile(content, temporary)
        right = sha256_of(temporary) == expected
    if not right:
        target.unlink()
    return right


def is_filled(folder: Path) -> bool:
    """Return whether a folder exists and has something in it."""
    return folder.is_dir() and any(folder.iterdir())


@contextmanager
def whole(folder: Path, keep: frozenset[str]) -> Iterator[Path]:
    """Yield a folder to fill, which becomes ``folder`` when the block ends without an error.

    What an interrupted run left in it is there again, so that the next one goes on.

    Args:
        folder: Does not exist, or is empty.
        keep: Relative paths that are wanted; what else an interrupted run left is removed.

    Raises:
        UsageError: Another run fills it.
        IncompleteError: It cannot be written.
    """
    folder = real_path(folder)
    partial = folder.with_name(f".{folder.name}.part")
    with explaining(f"cannot write {folder}", IncompleteError):
        partial.mkdir(parents=True, exist_ok=True)
        lock = FileLock(partial / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UsageError(f"another run writes {folder}; wait for it or choose another folder") from None
        try:
            _drop_strays(partial, keep)
            yield partial
        finally:
            lock.release()
        (partial / ".lock").unlink(missing_ok=True)
        if folder.is_dir():
            folder.rmdir()
        os.replace(partial, folder)


def _drop_strays(partial: Path, keep: frozenset[str]) -> None:
    """Remove what does not belong into the folder; folders that become empty as well."""
    for path in sorted(partial.rglob("*"), reverse=True):  # what is inside a folder before the folder
        relative = path.relative_to(partial).as_posix()
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif relative not in keep and relative != ".lock":
            path.unlink()
