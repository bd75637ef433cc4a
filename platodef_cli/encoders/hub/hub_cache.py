"""The cache of huggingface_hub: finding commits, checking blobs against their names."""

import hashlib
import json
import os
import re
from pathlib import Path

from platodef_cli.disk import canonical_json, check_json_size, write_atomically
from platodef_cli.errors import HubError

COMMIT = re.compile(r"^[0-9a-f]{40}$")
_LISTINGS = "platodef-listings"
_MOST_FILES = 200_000
_OID = re.compile(r"^([0-9a-f]{40}|[0-9a-f]{64})$")


def repository_folder(cache: Path, repository: str) -> Path:
    """Return the folder of a model repository in the cache."""
    return cache / f"models--{repository.replace('/', '--')}"


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


def cached_listing(snapshot: Path) -> dict[str, int] | None:
    """Return the files of the commit that a snapshot, or a folder in it, belongs to; None if unknown."""
    for place in (snapshot, *snapshot.parents):
        if place.parent.name != "snapshots":
            continue
        try:
            data = (place.parent.parent / _LISTINGS / f"{place.name}.json").read_bytes()
            check_json_size(data, _MOST_FILES)
            value = json.loads(data)
        except (OSError, ValueError, RecursionError):
            return None
        sizes = value.items() if isinstance(value, dict) else ()
        return {str(name): size for name, size in sizes if isinstance(size, int)}
    return None


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
