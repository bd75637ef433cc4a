"""The cache of huggingface_hub: finding commits, checking blobs against their names."""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from platodef_cli.disk import canonical_json, check_json_size, write_atomically
from platodef_cli.errors import HubError

COMMIT = re.compile(r"^[0-9a-f]{40}$")
_LISTINGS = "platodef-listings"
_MOST_FILES = 200_000
_OID = re.compile(r"^([0-9a-f]{40}|[0-9a-f]{64})$")


def repository_folder(cache: Path, repository: str, kind: str = "model") -> Path:
    """Return the folder of a repository (``model`` or ``dataset``) in the cache."""
    return cache / f"{kind}s--{repository.replace('/', '--')}"


def cached_commit(folder: Path, revision: str | None) -> str | None:
    """Return the commit that a revision had when it was last downloaded completely, or None."""
    if revision is not None and COMMIT.match(revision):
        return revision
    try:
        commit = (folder / "refs" / (revision or "main")).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return commit if COMMIT.match(commit) else None


def remember_commit(folder: Path, revision: str | None, commit: str) -> None:
    """Record what a branch or tag pointed to, as huggingface_hub does, so that offline runs find it."""
    if revision is not None and COMMIT.match(revision):
        return
    path = folder / "refs" / (revision or "main")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, commit.encode())
    except OSError:
        # A read-only cache still serves this run; only a later offline run by branch name misses out.
        return


def remember_listing(folder: Path, commit: str, listing: dict[str, int]) -> None:
    """Record which files a commit has, with their sizes, so that a later run from the cache can name them."""
    path = folder / _LISTINGS / f"{commit}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, canonical_json(listing).encode())
    except OSError:
        return  # as above


@dataclass(frozen=True)
class Place:
    """A folder inside a snapshot of the cache.

    Attributes:
        snapshot: ``models--ORG--NAME/snapshots/COMMIT``, which holds what somebody fetched of the commit.
        folder: The path below it, empty for the snapshot itself.
    """

    snapshot: Path
    folder: str

    @property
    def name(self) -> str:
        """The id that the Hub knows the snapshot by, ``org/name@commit``."""
        repository = self.snapshot.parent.parent.name.removeprefix("models--").replace("--", "/")
        return f"{repository}@{self.snapshot.name}"


def place_in_cache(directory: Path) -> Place | None:
    """Return where in a cache of the Hub a folder lies, or None if it lies in none."""
    directory = Path(os.path.abspath(directory))
    for place in (directory, *directory.parents):
        repository = place.parent.parent.name
        cached = place.parent.name == "snapshots" and repository.startswith("models--")
        if cached and COMMIT.match(place.name):
            inner = directory.relative_to(place).as_posix()
            return Place(place, "" if inner == "." else inner)
    return None


def cached_listing(directory: Path) -> dict[str, int] | None:
    """Return the files that a repository has below a folder of a snapshot, with their sizes; None if unknown.

    What other tools downloaded has no listing; platodef keeps one.
    """
    place = place_in_cache(directory)
    if place is None:
        return None
    try:
        snapshot = place.snapshot
        data = (snapshot.parent.parent / _LISTINGS / f"{snapshot.name}.json").read_bytes()
        check_json_size(data, _MOST_FILES)
        value = json.loads(data)
    except (OSError, ValueError, RecursionError):
        return None
    prefix = f"{place.folder}/" if place.folder else ""
    sizes = value.items() if isinstance(value, dict) else ()
    return {
        str(name).removeprefix(prefix): size
        for name, size in sizes
        if isinstance(size, int) and str(name).startswith(prefix)
    }


def wrong_files(snapshot: Path, expected: dict[str, str | None]) -> list[str]:
    """Return the files whose bytes are not what their object id says.

    Args:
        snapshot: ``snapshots/COMMIT`` folder.
        expected: File name -> SHA-256 (LFS) or git blob SHA-1 that the Hub announced; None takes the name of
            the blob in the cache, which is the id that it was downloaded as.
    """
    wrong = []
    for name, announced in expected.items():
        path = snapshot / name
        oid = announced or (Path(os.readlink(path)).name if path.is_symlink() else "")
        if _OID.match(oid) and object_id(path, len(oid)) != oid:
            wrong.append(name)
    return wrong


def object_id(path: Path, length: int) -> str:
    """Return the SHA-256 (length 64) or the git blob SHA-1 (length 40) of a file, hex."""
    digest = hashlib.sha256()
    if length == 40:
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(2**22):
            digest.update(chunk)
    return digest.hexdigest()


def evict(snapshot: Path, name: str) -> None:
    """Remove a file and its blob from the cache, so that the next download fetches it again.

    Raises:
        HubError: It cannot be removed.
    """
    path = snapshot / name
    blob = snapshot / os.readlink(path) if path.is_symlink() else None
    try:
        for stale in (path, *([blob, blob.resolve()] if blob else [])):
            stale.unlink(missing_ok=True)
    except OSError as error:
        raise HubError(
            f"{path}: has wrong bytes and cannot be removed ({error.strerror}); delete it"
        ) from None
