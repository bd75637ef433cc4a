"""A loopback server that speaks as much of Google Cloud Storage's JSON API as reading takes."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class GoogleStore:
    """Buckets of objects behind HTTP on 127.0.0.1.

    Attributes:
        buckets: Bucket -> name of an object -> its bytes.
        closed: Buckets that anonymous callers may not see.
        lies: Names of objects -> bytes that come in place of the listed ones.
        asked: Paths of all requests.
    """

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, bytes]] = {"bucket": {}}
        self.closed: set[str] = set()
        self.lies: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.gone = False
        self._generations: dict[tuple[str, str], int] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"store": self}))
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator["GoogleStore"]:
        thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        thread.start()
        try:
            yield self
        finally:
            self.stop()
            thread.join()

    def stop(self) -> None:
        """Close the port: from now on nobody answers, on connections that are open neither."""
        self.gone = True
        self._server.shutdown()
        self._server.server_close()

    def put(self, folder: str, files: dict[str, bytes]) -> None:
        bucket, _, inner = folder.partition("/")
        for name, data in files.items():
            key = f"{inner}/{name}" if inner else name
            self.buckets[bucket][key] = data
            self._generations[bucket, key] = self._generations.get((bucket, key), 1000) + 1

    def remove(self, path: str) -> None:
        bucket, _, name = path.partition("/")
        del self.buckets[bucket][name]

    def resource(self, bucket: str, name: str) -> dict[str, Any]:
        """Return an object's metadata: https://cloud.google.com/storage/docs/json_api/v1/objects."""
        data, generation = self.buckets[bucket][name], self._generations[bucket, name]
        return {
            "kind": "storage#object",
            "name": name,
            "bucket": bucket,
            "size": str(len(data)),
            "generation": str(generation),
            "metageneration": "1",
            "md5Hash": base64.b64encode(hashlib.md5(data).digest()).decode(),
            "etag": f"etag-{generation}",
            "updated": "2026-01-01T00:00:00.000Z",
            "timeCreated": "2026-01-01T00:00:00.000Z",
            "storageClass": "STANDARD",
        }


class _Handler(BaseHTTPRequestHandler):
    store: GoogleStore
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.store.gone:
            self.close_connection = True
            return
        address = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(address.query).items()}
        self.store.asked.append(address.path)
        kind, _, rest = address.path.partition("/storage/v1/b/")
        bucket, _, name = rest.partition("/o")
        name = unquote(name.removeprefix("/"))
        objects = self.store.buckets.get(bucket)
        if bucket in self.store.closed and "Authorization" not in self.headers:
            words = "Anonymous caller does not have storage.objects.list access to the bucket."
            self._error(401, words)
        elif objects is None:
            self._error(404, "The specified bucket does not exist.")
        elif not rest.partition("/o")[1]:
            self._json(
                {"kind": "storage#bucket", "name": bucket, "location": "US", "storageClass": "STANDARD"}
            )
        elif not name:
            self._list(bucket, query.get("prefix", ""), query.get("delimiter", ""))
        elif name not in objects:
            self._error(404, f"No such object: {bucket}/{name}")
        elif kind == "/download" or query.get("alt") == "media":
            self._media(self.store.lies.get(name, objects[name]))
        else:
            self._json(self.store.resource(bucket, name))

    def _list(self, bucket: str, prefix: str, delimiter: str) -> None:
        items, prefixes = [], []
        for name in sorted(self.store.buckets[bucket]):
            inner = name.removeprefix(prefix)
            if not name.startswith(prefix):
                continue
            if delimiter and delimiter in inner:
                prefixes.append(prefix + inner.partition(delimiter)[0] + delimiter)
            else:
                items.append(self.store.resource(bucket, name))
        self._json({"kind": "storage#objects", "items": items, "prefixes": sorted(set(prefixes))})

    def _media(self, data: bytes) -> None:
        wanted = self.headers.get("Range", "")
        if not wanted:
            self._send(200, data, "application/octet-stream")
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or len(data)), len(data) - 1)
        if start > end:
            self._error(416, "Requested range not satisfiable")
            return
        self._send(206, data[start : end + 1], "application/octet-stream", f"bytes {start}-{end}/{len(data)}")

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), "application/json")

    def _error(self, status: int, words: str) -> None:
        self._json({"error": {"code": status, "message": words, "errors": []}}, status)

    def _send(self, status: int, body: bytes, kind: str, span: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if span is not None:
            self.send_header("Content-Range", span)
        self.end_headers()
        self.wfile.write(body)
