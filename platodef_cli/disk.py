"""Files: canonical text, atomic writes, and careful opening of files that others wrote; no torch."""

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platodef_cli.errors import IncompleteError, PlatodefError, RefusedError, UsageError
from platodef_cli.temporary import TemporaryFolder, temporary_file

if TYPE_CHECKING:
    from torch import Tensor

TEMPORARY = ".tmp-"
"""How the names of files begin that an interrupted write leaves behind."""


_CAREFUL = os.O_RDONLY
for _name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
    # Non-blocking, so that a named pipe under the name of a weight file cannot hang the check; Windows has
    # other flags than POSIX.
    _CAREFUL |= getattr(os, _name, 0)


class DamagedError(Exception):
    """Stored bytes do not hold what was written."""


def canonical_json(value: Any) -> str:
    """Return the one JSON text of ``value``: sorted keys, no spaces, no NaN or infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def check_json_size(data: bytes | bytearray, most: int) -> None:
    """Check that a JSON text holds no more values than a reader wants to hold in memory.

    Every value takes 50 to 100 times the two bytes that the smallest ones take in the file.

    Args:
        data: The text, not parsed yet; what is inside strings counts too.
        most: Largest number of objects, lists and separators.

    Raises:
        ValueError: There are more.
    """
    count = sum(data.count(sign) for sign in (b"{", b"[", b","))
    if count > most:
        raise ValueError(f"it holds about {count} values, more than {most}")


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader sees the old file or the whole new one.

    The mode of an old file is kept; a link is replaced, not followed.

    Raises:
        OSError: The folder cannot be written.
    """
    with _beside(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replacing(path: Path, *, like: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path that becomes ``path`` when the block ends without an error.

    A link is followed, and a device or a pipe (``/dev/null``, ``/dev/fd/5``) is written to, not replaced.

    Args:
        path: The file.
        like: Another file that the mode is taken from where there is no old file; None is the usual mode.

    Raises:
        OSError: The folder cannot be written.
    """
    target = real_path(path)
    if not is_special(target):
        with _beside(target, like) as temporary:
            yield temporary
        return
    with TemporaryFolder("output") as folder:
        yield (temporary := folder / "content")
        with temporary.open("rb") as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)


def save_tensors(
    tensors: "Mapping[str, Tensor]", path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors of any shape as a safetensors file; what the system refuses is an OSError.

    The library has an error of its own for a full disk, with the number inside its text.

    Raises:
        OSError: It cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), path, metadata=None if metadata is None else dict(metadata))
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def read_at_most(path: Path, most: int) -> bytes:
    """Return the first ``most`` + 1 bytes of a file: a longer one, or a device without end, shows by that.

    Raises:
        OSError: It cannot be read, or is a named pipe, which may never be written to. Those of a shell, as
            in ``<(command)``, are read.
    """
    if path.is_fifo() and not path.is_relative_to("/dev") and not path.is_relative_to("/proc"):
        raise OSError(errno.ESPIPE, "it is a pipe, not a file; save it to a file first")
    with path.open("rb") as stream:
        return stream.read(most + 1)


def holder_of(path: Path) -> str:
    """Return who holds the lock of a file, as words: ``process 123``, or ``another process``."""
    try:
        number = path.stat().st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()  # 1: FLOCK ADVISORY WRITE 123 08:01:4567 0 EOF
            if len(words) > 5 and words[1] == "FLOCK" and words[5].split(":")[-1] == str(number):
                return f"process {words[4]}" if int(words[4]) > 0 else "another process"
    except (OSError, ValueError):
        pass  # no Linux, or a container that hides others
    return "another process"


def real_path(path: Path) -> Path:
    """Return where a path leads; a link that leads to itself is returned as it is, and is no file."""
    # Path.resolve raises a RuntimeError for it (before Python 3.13)
    return Path(os.path.realpath(path))


def is_special(path: Path) -> bool:
    """Return whether a path is a device or a pipe."""
    return path.exists() and not path.is_file()


@contextmanager
def _beside(target: Path, like: Path | None = None) -> Iterator[Path]:
    """Yield an empty file in the folder of ``target`` that replaces it at the end and keeps its mode."""
    old = target if target.exists() else like
    # closed to others while it is written, where the old file may be
    with temporary_file(target.parent, target.suffix, 0o666 if old is None else 0o600) as temporary:
        yield temporary
        if old is not None:
            shutil.copymode(old, temporary)
        os.replace(temporary, target)


@contextmanager
def explaining(problem: str, kind: type[PlatodefError] = UsageError) -> Iterator[None]:
    """Turn a failure of the system inside the block into one line: ``PROBLEM: No such file or directory``.

    Args:
        problem: What cannot be done, with the path.
        kind: Class of the error that is raised.
    """
    try:
        yield
    except OSError as error:
        raise kind(f"{problem}: {error.strerror or error}") from error


@contextmanager
def open_regular(path: Path) -> Iterator[tuple[int, int]]:
    """Open a regular file without following a link; yields ``(descriptor, size)``.

    Raises:
        RefusedError: The path is a link, a pipe, a device or a folder, or it cannot be read.
    """
    try:
        # systems without O_NOFOLLOW are asked first, which is all that they can do
        if not hasattr(os, "O_NOFOLLOW") and path.is_symlink():
            raise RefusedError(f"{path}: a link, not a regular file; do not use this model")
        descriptor = os.open(path, _CAREFUL)
    except OSError as error:
        raise RefusedError(f"{path}: cannot be read ({error.strerror}); do not use this model") from None
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise RefusedError(f"{path}: not a regular file; do not use this model")
        yield descriptor, info.st_size
    finally:
        os.close(descriptor)


def resolve_inside(directory: Path, name: str, *, follow_links: bool = False) -> Path:
    """Return the real path of ``directory/name`` and check where it leads.

    Links may lead to the folder itself, or from ``snapshots/COMMIT`` of a Hub cache, and folders in it, into
    the ``blobs`` of the same repository.

    Args:
        directory: A model folder.
        name: Of an entry.
        follow_links: Links may lead anywhere, because the user vouches for them.

    Raises:
        RefusedError: The name is a path, or the link leads elsewhere.
        IncompleteError: It leads elsewhere, and nothing is there.
    """
    if not name or name != os.path.basename(name) or name in (".", "..") or "\0" in name:
        raise RefusedError(f"{name!r}: names a file outside the model folder; do not use this model")
    root = real_path(directory)
    real = real_path(root / name)
    if follow_links:
        return real
    roots = [root]
    for place in (root, *root.parents):
        if place.parent.name == "snapshots" and place.parent.parent.name.startswith("models--"):
            # The second one is the store that the repositories of a cache share.
            roots += [place.parent.parent / "blobs", place.parent.parent.parent / "blobs"]
    if not any(real.is_relative_to(allowed) for allowed in roots):
        if not os.path.lexists(real):
            raise IncompleteError(
                f"{directory / name}: a link to {real}, which is not there, as a copy of the Hub's cache "
                "without its blobs leaves it; copy the folder with `cp -rL`, or download the model again"
            )
        raise RefusedError(
            f"{directory / name}: a link out of the model folder, to {real}, so another file may be "
            "loaded later than was examined; give --follow-links if the links are yours (DVC, Nix), or copy "
            f"it with `cp -rL {directory} COPY` and examine the copy"
        )
    return real
