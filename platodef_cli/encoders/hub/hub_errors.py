"""One line for every way in which the Hub can fail to give a model, and whether trying again may help."""

import errno

import httpx2
from huggingface_hub.errors import (
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from platodef_cli.errors import HubError

DROPPED = (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError, httpx2.TimeoutException)


def cause_of(error: BaseException) -> BaseException:
    """Return the error that huggingface_hub wrapped into "not in the local cache"."""
    while isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def may_recover(error: BaseException) -> bool:
    """Tell whether the same request may succeed a moment later: 429, 5xx, a dropped connection."""
    if isinstance(error, LocalEntryNotFoundError):
        # huggingface_hub has already tried this one several times.
        return False
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    return isinstance(error, DROPPED) or "Consistency check failed" in str(error)


def explain(
    error: BaseException, repository: str, revision: str | None, endpoint: str, kind: str = "model"
) -> HubError:
    """Return the message for the user."""
    error = cause_of(error)
    where = f"{repository}@{revision}" if revision else repository
    if isinstance(error, HfHubHTTPError):
        return HubError(f"{where}: {_status(error, repository, revision, endpoint, kind)}")
    if isinstance(error, OfflineModeIsEnabled):
        return not_cached(repository, revision)
    if isinstance(error, httpx2.ConnectError):
        return HubError(
            f"{where}: cannot connect to {_asked(error, endpoint)} ({_first(error)}); "
            "check the network and HF_ENDPOINT, or use --offline with a model that is in the cache"
        )
    if isinstance(error, httpx2.TimeoutException):
        return HubError(f"{where}: {endpoint} did not answer in time; try again later")
    if isinstance(error, DROPPED) or "Consistency check failed" in str(error):
        return HubError(f"{where}: the connection to {endpoint} broke during the download; run it again")
    if isinstance(error, FileMetadataError | httpx2.HTTPError | ValueError | TypeError | KeyError):
        return HubError(
            f"{where}: {endpoint} does not answer like a model hub ({_first(error)}); check HF_ENDPOINT"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HubError(
            f"{where}: the disk of the model cache is full; free space or choose another --cache-dir"
        )
    return HubError(f"{where}: the download failed ({_first(error)}); check --cache-dir and run it again")


def _asked(error: httpx2.RequestError, endpoint: str) -> str:
    """Return the endpoint, or the other host that it sent the client to."""
    try:
        url = error.request.url
    except RuntimeError:  # it knows none
        return endpoint
    asked = httpx2.URL(endpoint)
    if (url.host, url.port) == (asked.host, asked.port):
        return endpoint
    return f"{url.scheme}://{url.netloc.decode('ascii', 'replace')}, where {endpoint} keeps its files"


def not_cached(repository: str, revision: str | None) -> HubError:
    """Return the error for a model that an offline run does not have."""
    where = f"{repository}@{revision}" if revision else repository
    return HubError(
        f"{where}: not completely in the local cache, and this run is offline; run it once online"
    )


def _status(error: HfHubHTTPError, repository: str, revision: str | None, endpoint: str, kind: str) -> str:
    """Explain an HTTP status."""
    kind = {"dataset": "data set"}.get(kind, kind)
    code = error.response.status_code
    if isinstance(error, GatedRepoError):
        return (
            f"is gated ({code}); accept its conditions at {endpoint}/{repository} and set HF_TOKEN to a "
            "token of that account"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"has no revision {revision or 'main'!r} ({code}); give an existing branch, tag or full commit"
    if code == 401:
        return (
            f"access was denied (401) by {endpoint}; check the id, and set HF_TOKEN if the {kind} is private"
        )
    if isinstance(error, RemoteEntryNotFoundError):
        return f"a file vanished from {endpoint} during the download ({code}); run it again"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"no such {kind} on {endpoint} ({code}); check the id, and set HF_TOKEN if the {kind} is private"
        )
    if code == 404:
        return f"{endpoint} lost a file of the {kind} during the download (404); run it again"
    if code == 403:
        return f"{endpoint} forbids access (403); check what the token in HF_TOKEN may read"
    if code == 429:
        return f"{endpoint} limits the rate of requests (429); wait some minutes or set HF_TOKEN"
    return f"{endpoint} failed with status {code}; try again later"


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:160]
