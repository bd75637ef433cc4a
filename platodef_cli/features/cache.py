"""The cache of features and of other results: verified on reading, safe to interrupt and to share.

A key holds everything that changes the bytes of its entry. Layout of the folder::

    features/<2 hex>/<key>.safetensors     one shard of one encoder and variant
    <kind>/<key>/...                       one artefact (a fitted head, a search), with manifest.json
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platodef_cli.disk import TEMPORARY, DamagedError, canonical_json, write_atomically
from platodef_cli.errors import IncompleteError, UsageError
from platodef_cli.progress import SILENT, Progress
from platodef_cli.temporary import HIDDEN, TemporaryFolder, remove_left_overs

if TYPE_CHECKING:
    from platodef_cli.features.shard import Shard

FEATURES = "features"
CAPTIONS = "captions"
MANIFEST = "manifest.json"
_STALE_SECONDS = 24 * 3600


@dataclass(frozen=True)
class CacheEntry:
    """One stored entry.

    Attributes:
        kind: ``features`` or the kind of artefact.
        path: The file or folder.
        size: Bytes.
        modified: Seconds since the epoch.
    """

    kind: str
    path: Path
    size: int
    modified: float


def default_directory() -> Path:
    """Return ``$PLATODEF_CACHE_DIR``, or ``platodef`` in the user's cache folder (XDG)."""
    if chosen := os.environ.get("PLATODEF_CACHE_DIR"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG standard says that a relative path is to be ignored.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "platodef"


def key_digest(key: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the canonical JSON of ``key``, in hex."""
    return hashlib.sha256(canonical_json(dict(key)).encode()).hexdigest()


class FeatureCache:
    """Features and artefacts in one folder.

    Entries are written under a temporary name and renamed, so a killed process leaves no half entry
    and several processes may share the folder. A damaged entry is dropped with a warning.
    """

    def __init__(self, directory: str | Path | None = None, *, progress: Progress = SILENT):
        """Use ``directory`` (default: :func:`default_directory`); it is made on the first write."""
        self.directory = default_directory() if directory is None else Path(directory).expanduser().absolute()
        self._progress = progress
        self._writable = True

    def tidy(self) -> None:
        """Remove what processes that were killed left half-written; what others write now stays."""
        for folder in (self.directory, *self.directory.glob("*/"), *(self.directory / FEATURES).glob("*/")):
            remove_left_overs(folder)

    def load(self, key: Mapping[str, Any], *, images: int, dim: int) -> "Shard | None":
        """Return the stored shard, or None where there is none or it is damaged.

        Args:
            key: Everything that the features depend on.
            images: Number of images in the shard.
            dim: Length of a feature.
        """
        from platodef_cli.features.shard import Shard

        path = self._path(key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._progress.warn(f"cannot read cache entry {path}: {error.strerror}; computing it again")
            return None
        try:
            return Shard.parse(data, images, dim)
        except DamagedError as error:
            self._drop(path, str(error))
            return None

    def holds(self, key: Mapping[str, Any]) -> bool:
        """Return whether there is a shard, without reading it."""
        return self._path(key).is_file()

    def store(self, key: Mapping[str, Any], shard: "Shard") -> None:
        """Store a shard; a folder that cannot be written gives one warning, and nothing is cached."""
        if not self._writable:
            return
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, shard.serialise())
        except OSError as error:
            self._give_up(error.strerror or str(error))

    def load_artifact(self, kind: str, key: Mapping[str, Any]) -> Path | None:
        """Return the folder stored by :meth:`store_artifact`, verified, or None."""
        folder = self._artifact(kind, key)
        if not folder.is_dir():
            return None
        try:
            _check_manifest(folder)
        except DamagedError as error:
            self._drop(folder, str(error))
            return None
        return folder

    def keep_artifact(self, kind: str, key: Mapping[str, Any], writer: Callable[[Path], None]) -> Path | None:
        """As :meth:`store_artifact`, but a cache that cannot be written gives one warning, and None.

        For results that are at hand anyway: a full disk shall not cost the hours that they took.
        """
        if not self._writable:
            return None
        try:
            return self._store(kind, key, writer)
        except OSError as error:
            self._give_up(error.strerror or str(error))
            return None

    def store_artifact(self, kind: str, key: Mapping[str, Any], writer: Callable[[Path], None]) -> Path:
        """Store the files that ``writer`` puts into the folder it is given; return the final folder.

        Where another process stored the same key first, its folder stays and is returned.

        Raises:
            IncompleteError: The cache cannot be written.
        """
        try:
            return self._store(kind, key, writer)
        except OSError as error:
            raise IncompleteError(
                f"cannot write to the cache {self.directory}: {error.strerror or error}; free some space or "
                "set PLATODEF_CACHE_DIR to a folder that can be written"
            ) from None

    def _store(self, kind: str, key: Mapping[str, Any], writer: Callable[[Path], None]) -> Path:
        folder = self._artifact(kind, key)
        place: TemporaryFolder | None = None
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            place = TemporaryFolder("entry", inside=folder.parent)
            temporary = place.path
            writer(temporary)
            manifest = {"kind": kind, "key": dict(key), "files": _file_digests(temporary)}
            write_atomically(temporary / MANIFEST, (canonical_json(manifest) + "\n").encode())
            try:
                os.rename(temporary, folder)
            except OSError:
                if not folder.is_dir():
                    raise
        finally:
            if place is not None:
                place.remove()
        return folder

    def entries(self, kind: str | None = None) -> list[CacheEntry]:
        """Return the stored entries (of one kind), oldest first."""
        found = [entry for entry in self._walk() if kind is None or entry.kind == kind]
        return sorted(found, key=lambda entry: (entry.modified, str(entry.path)))

    def verify(self) -> list[tuple[CacheEntry, str]]:
        """Return the damaged entries with what is wrong; nothing is removed."""
        from platodef_cli.features.shard import Shard

        damaged = []
        for entry in self.entries():
            try:
                if entry.kind == FEATURES:
                    Shard.parse(entry.path.read_bytes())
                elif entry.kind != CAPTIONS:  # of those, a line that was cut short is made again
                    _check_manifest(entry.path)
            except (DamagedError, OSError) as error:
                damaged.append((entry, str(error)))
        return damaged

    def remove(
        self,
        *,
        older_than: float | None = None,
        kind: str | None = None,
        paths: Sequence[Path] | None = None,
        everything: bool = False,
    ) -> list[CacheEntry]:
        """Remove the entries that meet all the given conditions, and stale temporary files.

        Args:
            older_than: Seconds since the last change.
            kind: Kind of entry.
            paths: Exactly these entries.
            everything: Allow a call without any condition.

        Returns:
            The removed entries.

        Raises:
            UsageError: No condition is given, and ``everything`` is not set.
        """
        if older_than is None and kind is None and paths is None and not everything:
            raise UsageError("nothing says which cache entries to remove; give an age, a kind, or all")
        now = time.time()
        chosen = [
            entry
            for entry in self.entries(kind)
            if (older_than is None or now - entry.modified >= older_than)
            and (paths is None or entry.path in paths)
        ]
        for entry in chosen:
            _delete(entry.path)
        self.tidy()
        for left_over in self.directory.glob(f"*/**/{TEMPORARY}*"):
            # of older versions; of those with a lock it is known whether somebody still writes them
            if not left_over.name.startswith(HIDDEN) and now - _modified(left_over) > _STALE_SECONDS:
                _delete(left_over)
        return chosen

    def _walk(self) -> Iterator[CacheEntry]:
        for folder in sorted(self.directory.glob("*/")):
            pattern = {FEATURES: "*/*.safetensors", CAPTIONS: "*.jsonl"}.get(folder.name, "*/")
            for path in folder.glob(pattern):
                if not path.name.startswith(TEMPORARY):
                    yield CacheEntry(folder.name, path, _size(path), _modified(path))

    def captions(self, key: Mapping[str, Any]) -> Path:
        """Return the file of captions that were made as ``key`` says; it need not exist."""
        return self.directory / CAPTIONS / f"{key_digest(key)}.jsonl"

    def _path(self, key: Mapping[str, Any]) -> Path:
        digest = key_digest(key)
        return self.directory / FEATURES / digest[:2] / f"{digest}.safetensors"

    def _artifact(self, kind: str, key: Mapping[str, Any]) -> Path:
        if kind in (FEATURES, CAPTIONS) or not kind.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"{kind!r} is no kind of artefact")
        return self.directory / kind / key_digest(key)

    def _give_up(self, why: str) -> None:
        self._writable = False
        self._progress.warn(
            f"cannot write to the cache {self.directory}: {why}; not caching, so an interrupted run would "
            "compute again what it does from here on"
        )

    def _drop(self, path: Path, reason: str) -> None:
        self._progress.warn(f"cache entry {path} is damaged ({reason}); computing it again")
        _delete(path)


def _file_digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def _check_manifest(folder: Path) -> None:
    try:
        stored = json.loads((folder / MANIFEST).read_text())["files"]
        found = _file_digests(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"no usable {MANIFEST}: {' '.join(str(error).split())[:80]}") from None
    if stored != found:
        changed = sorted(name for name in stored.keys() | found.keys() if stored.get(name) != found.get(name))
        raise DamagedError(f"{changed[0]} is not what was stored")


def _size(path: Path) -> int:
    try:
        if path.is_file():
            return path.stat().st_size
        return sum(part.stat().st_size for part in path.rglob("*") if part.is_file())
    except FileNotFoundError:  # removed by another process meanwhile
        return 0


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
