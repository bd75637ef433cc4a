"""Brings a model from a store into a cache on this machine: the files that a load reads, whole and hashed."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from platodef_cli.disk import canonical_json, explaining, write_atomically
from platodef_cli.encoders.checks.limits import Limits
from platodef_cli.encoders.checks.loaders import refuse_adapters
from platodef_cli.encoders.hub.needed import configurations_of, needed_files
from platodef_cli.encoders.stores.address import StoreAddress
from platodef_cli.encoders.stores.interface import Store, StoredFile
from platodef_cli.errors import IncompleteError, RefusedError, UsageError
from platodef_cli.progress import Progress
from platodef_cli.temporary import TemporaryFolder

_NAME = re.compile(r"^[\w-][\w.-]*$", re.ASCII)
_ALSO = ("README.md",)
_LARGEST_TEXT = 2**20


def models_directory() -> Path:
    """Return ``$PLATODEF_MODELS_DIR``, or ``platodef-models`` in the user's cache folder (XDG)."""
    if chosen := os.environ.get("PLATODEF_MODELS_DIR"):
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("platodef-models")


def open_store(address: StoreAddress) -> Store:
    """Return the store of an address.

    Raises:
        UsageError: Its package is missing, or there is no such model.
        IncompleteError: It does not answer.
    """
    if address.kind == "mlflow":
        from platodef_cli.encoders.stores.registry import Registered

        return Registered(address)
    from platodef_cli.encoders.stores.buckets import Bucket

    return Bucket(address)


def fetch(
    address: StoreAddress,
    *,
    root: Path | None = None,
    offline: bool = False,
    progress: Progress,
    limits: Limits | None = None,
) -> tuple[Path, str, Mapping[str, int]]:
    """Return the folder of a model on this machine, its address, and all of its files with their sizes.

    What was downloaded before and still is what the store lists is verified by its hashes, not downloaded.
    Files that are listed without a tag or checksum (MLflow's registry) may be others by now: they come again.

    Args:
        address: Of the model.
        root: Cache of models; by default :func:`models_directory`.
        offline: Use only what the cache holds.
        progress: Receives the bytes.
        limits: Bounds; nothing is downloaded past ``total_bytes``.

    Raises:
        UsageError: There is no such model, or a package is missing.
        RefusedError: It is too large, its weights are only in unsafe formats, or the store gives other bytes
            than it lists.
        IncompleteError: The store does not answer, the cache cannot be written, or does not hold it offline.
    """
    limits, root = limits or Limits(), root or models_directory()
    pointer = root / f"{hashlib.sha256(address.uri.encode()).hexdigest()[:32]}.json"
    if offline:
        folder = _last(pointer)
        if folder is None or (record := _verified(folder)) is None:
            raise IncompleteError(
                f"{address.uri}: not completely in the local cache, and this run is offline; run it once "
                "online"
            )
        return folder, str(record["uri"]), record["listing"]
    store = open_store(address)
    listing = {name: file for name, file in store.listed().items() if _NAME.match(name)}
    if not listing:
        raise UsageError(f"{store.uri}: none of its files belongs to a model")
    sizes = {name: file.size or 0 for name, file in listing.items()}
    folder = None
    if all(file.identity for file in listing.values()):
        folder = _place(root, store.uri, {name: asdict(file) for name, file in listing.items()})
        if folder.is_dir() and _verified(folder) is None:
            shutil.rmtree(folder, ignore_errors=True)
    if folder is None or not folder.is_dir():
        folder = _download(store, listing, root, folder, progress, limits)
    with explaining(f"cannot write the cache in {root}", IncompleteError):
        write_atomically(pointer, canonical_json({"folder": folder.name}).encode())
    return folder, store.uri, sizes


def _place(root: Path, uri: str, content: object) -> Path:
    """Return the folder of a model in the cache, by what tells its content."""
    return root / hashlib.sha256(canonical_json([uri, content]).encode()).hexdigest()[:32]


def _download(
    store: Store,
    listing: Mapping[str, StoredFile],
    root: Path,
    folder: Path | None,
    progress: Progress,
    limits: Limits,
) -> Path:
    """Download what a load reads into a folder that appears when it is whole; return that folder.

    Where nothing in the listing tells the content (``folder`` is None), its hashes name the folder.
    """
    refuse_adapters(set(listing), store.uri)
    with explaining(f"cannot write the cache in {root}", IncompleteError):
        root.mkdir(parents=True, exist_ok=True)
        place = TemporaryFolder("model", inside=root)
    temporary = place.path / "model"
    with place:
        with explaining(f"cannot write the cache in {root}", IncompleteError):
            temporary.mkdir()
        sums: dict[str, str] = {}
        small = configurations_of(set(listing))
        _fetch(store, listing, small, temporary, sums, progress, limits)
        needed = needed_files(temporary, set(listing), store.uri, limits)
        also = [
            name for name in _ALSO if 0 < (listing.get(name, StoredFile(0, "")).size or 0) < _LARGEST_TEXT
        ]
        _fetch(store, listing, [*needed, *also], temporary, sums, progress, limits)
        sizes = {name: file.size or 0 for name, file in listing.items()}
        record = {"uri": store.uri, "sha256": sums, "listing": sizes}
        named = folder is None
        folder = folder or _place(root, store.uri, [sums, sizes])
        with explaining(f"cannot write the cache in {root}", IncompleteError):
            if named and folder.is_dir() and _verified(folder) is None:
                shutil.rmtree(folder, ignore_errors=True)
            if not folder.is_dir():  # another run may have been faster
                write_atomically(_record_of(folder), canonical_json(record).encode())
                os.replace(temporary, folder)
        return folder


def _fetch(
    store: Store,
    listing: Mapping[str, StoredFile],
    names: list[str],
    folder: Path,
    sums: dict[str, str],
    progress: Progress,
    limits: Limits,
) -> None:
    names = [name for name in dict.fromkeys(names) if name not in sums]
    total = sum(listing[name].size or 0 for name in names)
    if total > limits.total_bytes:
        raise RefusedError(
            f"{store.uri}: would download {total / 2**30:.1f} GiB, more than "
            f"{limits.total_bytes / 2**30:.1f} GiB; nothing was downloaded"
        )
    with progress.step(f"downloading {store.uri}", total) as task:
        for name in names:
            size = listing[name].size
            store.fetch(name, folder / name, limits.total_bytes if size is None else size)
            with explaining(f"{folder / name} cannot be read", IncompleteError):
                got = (folder / name).stat().st_size
                sums[name] = _sha256(folder / name)
            if size is not None and got != size:
                raise IncompleteError(f"{store.uri}/{name}: {got} bytes came of {size}; run it again")
            task.advance(got)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _last(pointer: Path) -> Path | None:
    """Return the folder that an address was downloaded to last."""
    try:
        name = json.loads(pointer.read_bytes())["folder"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return pointer.parent / name if isinstance(name, str) and re.fullmatch(r"[0-9a-f]{32}", name) else None


def _record_of(folder: Path) -> Path:
    """Return the record of a cached model: beside its folder, which holds the model's files only."""
    return folder.with_name(f"{folder.name}.files.json")


def _verified(folder: Path) -> dict[str, dict[str, int]] | None:
    """Return the record of a cached model, if its files still have the hashes that they came with."""
    try:
        record = json.loads(_record_of(folder).read_bytes())
        right = all(_sha256(folder / name) == digest for name, digest in record["sha256"].items())
        whole = isinstance(record["listing"], dict) and isinstance(record["uri"], str)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return record if right and whole else None
