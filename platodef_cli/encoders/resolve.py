"""Ids of encoders: folders, Hub repositories and embedded encoders; and their files on this machine."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from platodef_cli.encoders.checks.preflight import Preflight, preflight
from platodef_cli.encoders.reference import ModelReference
from platodef_cli.encoders.stores.address import StoreAddress
from platodef_cli.errors import RefusedError, UsageError
from platodef_cli.progress import SILENT, Progress


@dataclass(frozen=True)
class ResolvedModel:
    """The files of a model on this machine.

    Attributes:
        uri: The id, with the revision that was asked for.
        directory: Folder that holds them.
        commit: Full commit on the Hub, or None for a local folder.
        files: Names of its entries, sorted.
        listing: Of a Hub repository, all files of the commit below the folder that was asked for, with their
            sizes; of a store likewise; None where it is not known, or for a folder outside the Hub's cache.
        pin: Digest that the examined files must have, or None.
    """

    uri: str
    directory: Path
    commit: str | None
    files: tuple[str, ...]
    listing: Mapping[str, int] | None = None
    pin: str | None = None


def resolve(
    reference: ModelReference,
    *,
    cache_dir: Path | str | None = None,
    offline: bool = False,
    progress: Progress = SILENT,
) -> ResolvedModel:
    """Return the files of a model on this machine, downloading them from the Hub where needed.

    Args:
        reference: A parsed id.
        cache_dir: Cache of Hub downloads; by default ``HF_HUB_CACHE``.
        offline: Use only what the cache holds; ``HF_HUB_OFFLINE=1`` does the same.
        progress: Receives the download.

    Raises:
        UsageError: The folder cannot be listed.
        HubError: The Hub does not give the model; the message says why and what to do.
        RefusedError: The Hub gave something else than it announced.
    """
    from platodef_cli.encoders.hub.hub_cache import cached_listing

    if reference.store is not None:
        return _stored(reference.store, offline=offline, progress=progress)
    commit = None
    if reference.directory is not None:
        directory = reference.directory
    else:
        from platodef_cli.encoders.hub.hub import download

        directory, commit = download(reference, cache_dir=cache_dir, offline=offline, progress=progress)
    try:
        names = tuple(sorted(os.listdir(directory)))
    except OSError as error:
        raise UsageError(f"{directory}: cannot be listed ({error.strerror})") from None
    return ResolvedModel(reference.uri, directory, commit, names, cached_listing(directory))


def _stored(address: StoreAddress, *, offline: bool, progress: Progress) -> ResolvedModel:
    """Return a model of an object store or registry; its version, where the address has an alias."""
    from platodef_cli.encoders.stores.fetch import fetch

    offline = offline or os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in ("1", "ON", "YES", "TRUE")
    directory, uri, listing = fetch(address, offline=offline, progress=progress)
    names = tuple(sorted(os.listdir(directory)))
    uri = uri if address.pin is None else f"{uri}@sha256:{address.pin}"
    return ResolvedModel(uri, directory, None, names, listing, address.pin)


def examine(resolved: ResolvedModel, *, follow_links: bool = False) -> Preflight:
    """Check the files of a model on this machine, as :func:`platodef_cli.encoders.checks.preflight` does.

    Args:
        resolved: The model.
        follow_links: Links in a local folder may lead out of it; those in the cache of the Hub never may.

    Raises:
        UsageError: There is no model.
        RefusedError: Something is unsafe, or other files are there than the address is pinned to.
    """
    own = resolved.commit is None
    checked = preflight(resolved.directory, listing=resolved.listing, follow_links=follow_links and own)
    if resolved.pin is not None and checked.digest != resolved.pin:
        raise RefusedError(
            f"{resolved.uri}: its files have the sha256 {checked.digest}, which the address denies; "
            "do not use this model"
        )
    return checked
