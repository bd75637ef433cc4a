"""What a Hub's answers are held to before huggingface_hub uses parts of them as file names."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
from huggingface_hub import get_session, set_client_factory
from tqdm.std import tqdm  # type: ignore[import-untyped]

from platodef_cli.errors import HubError
from platodef_cli.progress import Task

_COMMIT = re.compile(r"^[0-9a-f]{40}$")
_ETAG = re.compile(r'^(W/)?"?[\w:+=-][\w.:+=-]*"?$', re.ASCII)
_OID = re.compile(r"^[0-9a-f]{40}([0-9a-f]{24})?$")
_SLACK = 2**20  # listings and redirects have no announced size
_lock = threading.Lock()
_downloads: list[int] = []


@contextmanager
def guarded(most: int = 2**26) -> Iterator[None]:
    """Check the answers that huggingface_hub gets in this process while the block runs.

    The check stays in its client and rests between downloads: a change of client closes the connections of
    every other thread. The client is like the one before in all that can be read of it; its proxies and
    certificates are those of the environment (``HTTPS_PROXY``, ``SSL_CERT_FILE``).

    Args:
        most: Longest body of one answer, bytes: what the largest file has that is expected.
    """
    with _lock:
        client = get_session()
        if _check_response not in client.event_hooks["response"]:
            # A factory, because huggingface_hub drops its client after an error of the connection.
            set_client_factory(_factory_like(client))
        _downloads.append(most)
    try:
        yield
    finally:
        with _lock:
            _downloads.remove(most)


def _factory_like(client: httpx2.Client) -> Callable[[], httpx2.Client]:
    """Return what makes clients with the settings of ``client`` that check every answer."""
    settings: dict[str, Any] = {
        name: getattr(client, name)
        for name in ("auth", "headers", "cookies", "timeout", "follow_redirects", "max_redirects")
    }
    hooks, base_url, trust_env = client.event_hooks, client.base_url, client.trust_env

    def make() -> httpx2.Client:
        made = httpx2.Client(**settings, base_url=base_url, trust_env=trust_env)
        made.event_hooks = {**hooks, "response": [*hooks["response"], _check_response]}
        return made

    return make


def _check_response(response: httpx2.Response) -> None:
    """Refuse entity tags, commits and object ids that are paths, and bodies without an end.

    Raises:
        HubError: One of them is.
    """
    most = max(_downloads, default=None)
    if most is None:
        return
    response.stream = _Bounded(response.stream, most + _SLACK, response.url.host)
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
    linked = response.headers.get("X-Linked-Size", "").strip()
    if linked and not (linked.isascii() and linked.isdigit() and len(linked) < 19):
        raise _distrust(response, f"announces a file of {linked[:40]!r} bytes")
    if linked and int(linked) > most + _SLACK:
        raise _distrust(response, f"announces a file of {linked} bytes, where its listing has {most} at most")
    if "/tree/" in response.url.path and response.is_success:
        _check_tree(response)


class _Bounded(httpx2.SyncByteStream):
    """The body of an answer, up to a length: a body in chunks announces none, and could fill the disk."""

    def __init__(self, stream: Any, most: int, host: str):
        self._stream, self._most, self._host = stream, most, host

    def __iter__(self) -> Iterator[bytes]:
        seen = 0
        for part in self._stream:
            seen += len(part)
            if seen > self._most:
                raise HubError(f"{self._host}: sends more bytes than it announced; do not trust it")
            yield part

    def close(self) -> None:
        """Close the connection's stream."""
        self._stream.close()


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
    """Return a progress bar class that draws nothing, reports bytes, and stops an endless body.

    huggingface_hub opens several bars of bytes for one download, one for what arrives and one for what is
    written, and names them only for classes of its own. So no bar is told from another: each one may count
    up to the limit, and progress is that of the one that is furthest.
    """

    class Meter(tqdm):  # type: ignore[misc]
        furthest = 0

        def __init__(self, *args: Any, **kwargs: Any):
            self._bytes = kwargs.get("unit") == "B"
            self._seen = 0
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            if self._bytes and n:
                self._seen += int(n)  # less than nothing where a transfer starts again
                if self._seen > most:
                    raise HubError(f"{uri}: sends more bytes than it announced; do not trust it")
                if self._seen > Meter.furthest:
                    task.advance(self._seen - Meter.furthest)
                    Meter.furthest = self._seen
            return None

    return Meter
