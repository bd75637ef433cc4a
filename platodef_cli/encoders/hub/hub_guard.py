"""What a Hub's answers are held to before huggingface_hub uses parts of them as file names."""

import json
import re
import threading
from typing import Any

import httpx2
from huggingface_hub.utils import _http
from tqdm.std import tqdm  # type: ignore[import-untyped]

from platodef_cli.errors import HubError
from platodef_cli.progress import Task

_COMMIT = re.compile(r"^[0-9a-f]{40}$")
_ETAG = re.compile(r'^(W/)?"?[\w:+=-][\w.:+=-]*"?$', re.ASCII)
_OID = re.compile(r"^[0-9a-f]{40}([0-9a-f]{24})?$")
_TRANSFER = "huggingface_hub.snapshot_download.transfer"
_guard = threading.Lock()
_guarded = False


def install_guard() -> None:
    """Make every client of huggingface_hub in this process check the answers it gets."""
    global _guarded
    with _guard:
        if _guarded:
            return
        make = _http._GLOBAL_CLIENT_FACTORY

        def guarded() -> httpx2.Client:
            client = make()
            client.event_hooks["response"] = [*client.event_hooks.get("response", []), _check_response]
            return client

        _http.set_client_factory(guarded)
        _guarded = True


def _check_response(response: httpx2.Response) -> None:
    """Refuse entity tags, commits and object ids that are paths.

    Raises:
        HubError: One of them is.
    """
    for header in ("ETag", "X-Linked-Etag"):
        value = response.headers.get(header)
        if value is not None and not _ETAG.match(value):
            raise HubError(
                f"{response.url.host}: sent the {header} {value[:80]!r}, which is no hash; do not trust it"
            )
    commit = response.headers.get("X-Repo-Commit")
    if commit is not None and not _COMMIT.match(commit):
        raise HubError(
            f"{response.url.host}: sent the commit {commit[:80]!r}, which is no hash; do not trust it"
        )
    if "/tree/" in response.url.path and response.is_success:
        _check_tree(response)


def _check_tree(response: httpx2.Response) -> None:
    """Refuse a listing whose object ids are not hashes: they too become file names in the cache."""
    response.read()
    try:
        entries = json.loads(response.content)
        oids = [entry[key] for entry in entries for key in ("oid",) if key in entry]
        oids += [entry["lfs"]["oid"] for entry in entries if entry.get("lfs")]
    except (ValueError, TypeError, KeyError, AttributeError):
        # Not a listing; huggingface_hub reports that.
        return
    if not all(isinstance(oid, str) and _OID.match(oid) for oid in oids):
        raise _distrust(response, "lists an object id that is no hash")


def _distrust(response: httpx2.Response, reason: str) -> HubError:
    return HubError(f"{response.url.host}: {reason}; do not trust this hub, check HF_ENDPOINT")


def meter(task: Task, most: int, uri: str) -> type[tqdm]:
    """Return a progress bar class that draws nothing, reports bytes, and stops an endless body."""

    class Meter(tqdm):  # type: ignore[misc]
        seen = 0

        def __init__(self, *args: Any, **kwargs: Any):
            self._bytes = kwargs.get("unit") == "B" and kwargs.get("name") != _TRANSFER
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            if self._bytes and n:
                type(self).seen += int(n)
                if type(self).seen > most:
                    raise HubError(f"{uri}: sends more bytes than it announced; do not trust it")
                task.advance(max(0, int(n)))
            return None

    return Meter
