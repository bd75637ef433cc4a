"""Waiting for other processes that download the same files: as long as they get on, and no longer.

huggingface_hub waits for the lock of a file without an end and without a word, also where its holder was
stopped.
"""

import time
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock, Timeout

from platodef_cli.disk import holder_of
from platodef_cli.errors import HubError
from platodef_cli.progress import Progress

PATIENCE_S = 300.0
_SLICE_S = 2.0


def wait_for_others(folder: Path, oids: Iterable[str], uri: str, progress: Progress) -> None:
    """Return once nobody downloads the named files of a repository.

    Args:
        folder: Of the repository, in the Hub's cache.
        oids: Names of the files in its ``blobs``.
        uri: What is downloaded.
        progress: Told who is waited for.

    Raises:
        HubError: Another process holds a file, and nothing came for ``PATIENCE_S``.
    """
    for oid in oids:
        path = folder.parent / ".locks" / folder.name / f"{oid}.lock"
        if path.is_file():
            _wait(FileLock(path, mode=0o664), path, folder / "blobs", uri, progress, PATIENCE_S)


def _wait(lock: FileLock, path: Path, blobs: Path, uri: str, progress: Progress, patience_s: float) -> None:
    seen, since, told = -1, time.monotonic(), False
    while True:
        try:
            lock.acquire(timeout=min(_SLICE_S, patience_s) if told else 0)
        except Timeout:
            if not told:
                progress.warn(f"{holder_of(path)} downloads {uri} as well; waiting for it")
                told = True
            arrived = _arrived(blobs)
            if arrived != seen:
                seen, since = arrived, time.monotonic()
            elif time.monotonic() - since >= patience_s:
                raise HubError(
                    f"{uri}: {holder_of(path)} holds {path}, and nothing came for {patience_s:g} s; end "
                    "it, or wait until it is through, and run this again"
                ) from None
        except (OSError, NotImplementedError):
            return  # a folder that is not ours to write, or without locks: the library knows what to do
        else:
            lock.release()
            return


def _arrived(blobs: Path) -> int:
    """Return the bytes of downloads in progress."""
    sizes = 0
    for path in blobs.glob("*.incomplete"):
        try:
            sizes += path.stat().st_size
        except OSError:
            continue  # complete by now
    return sizes
