"""A model hub on 127.0.0.1 that speaks the protocol of huggingface_hub, and fails on demand."""

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Fault:
    """Something that goes wrong with matching requests.

    Attributes:
        path: Regular expression, searched in the path.
        method: Only this method, or None.
        times: How many requests it hits; None means all.
        status: Answer with this status instead.
        code: ``X-Error-Code`` of that answer.
        without_token: Hits only requests that bring no token.
        headers: Headers that replace those of the answer.
        cut: Send only so many bytes of the body, then drop the connection.
        body: Send these bytes (of the same length as announced) instead.
        hold: Send half of the body, then wait until the event is set.
        endless: Send the body again and again in chunks, without an announced length.
    """

    path: str
    method: str | None = None
    times: int | None = None
    status: int | None = None
    code: str | None = None
    without_token: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    body: bytes | None = None
    hold: threading.Event | None = None
    endless: bool = False


def git_blob(data: bytes) -> str:
    """Return git's object id of a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class HubServer:
    """Serves repositories; use as a context manager. Those of data are named ``datasets/org/name``.

    Attributes:
        url: For ``HF_ENDPOINT``.
        requests: ``(method, path)`` of every request, in order.
        tokens: The ``Authorization`` header of every request.
        faults: What goes wrong; the first match counts.
    """

    def __init__(self) -> None:
        self._commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self._refs: dict[str, dict[str, str]] = {}
        self.requests: list[tuple[str, str]] = []
        self.tokens: list[str | None] = []
        self.faults: list[Fault] = []
        self.reached_half = threading.Event()
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        # Large files come from another host, as on the real Hub: clients treat such a redirect differently.
        self.storage = f"http://localhost:{self._server.server_address[1]}"

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def commit(self, repository: str, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Add a commit, move the branch to it and return its id."""
        content = json.dumps([repository, len(self._commits.get(repository, {})), sorted(files)])
        sha = hashlib.sha1(content.encode()).hexdigest()
        self._commits.setdefault(repository, {})[sha] = dict(files)
        self._refs.setdefault(repository, {})[branch] = sha
        return sha

    def find(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Return the commit and the files of a revision."""
        sha = self._refs[repository].get(revision, revision)
        files = self._commits[repository].get(sha)
        return None if files is None else (sha, files)

    def knows(self, repository: str) -> bool:
        """Tell whether the repository exists."""
        return repository in self._commits

    def blob(self, sha256: str) -> bytes | None:
        """Return a large file by its hash."""
        for commits in self._commits.values():
            for files in commits.values():
                for data in files.values():
                    if _sha256(data) == sha256:
                        return data
        return None

    def fault_for(self, method: str, path: str, token: str | None) -> Fault | None:
        """Return what goes wrong with this request and count it."""
        with self._lock:
            for fault in self.faults:
                if fault.times == 0 or fault.method not in (None, method) or not re.search(fault.path, path):
                    continue
                if fault.without_token and token:
                    continue
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None


@lru_cache(maxsize=64)
def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def is_large(name: str) -> bool:
    """Tell whether a file is stored as LFS."""
    return name.endswith((".safetensors", ".bin"))


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test output clean."""

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        token = self.headers.get("Authorization")
        self.hub.requests.append((self.command, path))
        self.hub.tokens.append(token)
        fault = self.hub.fault_for(self.command, path, token) or Fault("")
        if fault.status is not None:
            self._answer(fault.status, b"{}", {"X-Error-Code": fault.code} if fault.code else {}, fault)
            return
        path = path.replace("/api/models/", "/api/")
        if match := re.fullmatch(r"/api/((?:datasets/)?[^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._info(match[1], match[2] or "main", fault)
        elif match := re.fullmatch(r"/api/((?:datasets/)?[^/]+/[^/]+)/tree/([^/]+)", path):
            self._tree(match[1], match[2], fault)
        elif match := re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(match[1], match[2], match[3], fault)
        elif match := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
            self._large(match[1], fault)
        else:
            self._answer(404, b"", {}, fault)

    def _found(self, repository: str, revision: str, fault: Fault) -> tuple[str, dict[str, bytes]] | None:
        if not self.hub.knows(repository):
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"}, fault)
            return None
        found = self.hub.find(repository, revision)
        if found is None:
            self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, fault)
        return found

    def _info(self, repository: str, revision: str, fault: Fault) -> None:
        found = self._found(repository, revision, fault)
        if found:
            siblings = [
                {"rfilename": name, "size": len(data), "blobId": git_blob(data), **_lfs(name, data, "sha256")}
                for name, data in found[1].items()
            ]
            body = {"id": repository.removeprefix("datasets/"), "sha": found[0], "siblings": siblings}
            self._answer(200, json.dumps(body).encode(), {}, fault)

    def _tree(self, repository: str, revision: str, fault: Fault) -> None:
        found = self._found(repository, revision, fault)
        if found:
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": git_blob(data)}
                | _lfs(name, data, "oid")
                for name, data in found[1].items()
            ]
            self._answer(200, json.dumps(entries).encode(), {}, fault)

    def _resolve(self, repository: str, revision: str, name: str, fault: Fault) -> None:
        found = self._found(repository, revision, fault)
        if not found:
            return
        if name not in found[1]:
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": found[0]}, fault)
            return
        data = found[1][name]
        headers = {"X-Repo-Commit": found[0]}
        if is_large(name):
            sha256 = _sha256(data)
            headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(data))}
            self._answer(302, b"", {**headers, "Location": f"{self.hub.storage}/lfs/{sha256}"}, fault)
        else:
            self._answer(200, data, {**headers, "ETag": f'"{git_blob(data)}"'}, fault)

    def _large(self, sha256: str, fault: Fault) -> None:
        data = self.hub.blob(sha256)
        if data is None:
            self._answer(404, b"", {}, fault)
            return
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if wanted else {}
        self._answer(206 if wanted else 200, data[start:], {"ETag": f'"{sha256}"', **headers}, fault)

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str], fault: Fault) -> None:
        if fault.body is not None and self.command == "GET":
            body = fault.body
        self.send_response(status)
        length = {"Transfer-Encoding": "chunked"} if fault.endless else {"Content-Length": str(len(body))}
        for key, value in {**headers, **length, **fault.headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault.cut is not None:
            self.wfile.write(body[: fault.cut])
            self.close_connection = True
        elif fault.endless:
            self.close_connection = True
            with contextlib.suppress(OSError):  # the client leaves
                while True:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))
        elif fault.hold is not None:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.hub.reached_half.set()
            fault.hold.wait()
            self.close_connection = True
        else:
            self.wfile.write(body)


def _lfs(name: str, data: bytes, key: str) -> dict[str, Any]:
    """Return the LFS part of a listing."""
    if not is_large(name):
        return {}
    return {"lfs": {key: _sha256(data), "size": len(data), "pointerSize": 130}}
