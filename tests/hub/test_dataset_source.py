"""Image data sets through the real ``datasets`` library, against a loopback hub.

The libraries read the hub's address when they are imported, so they run in a child process.
"""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from platodef_cli.features.stream import FeatureStream
from platodef_cli.jobs.pieces import MANIFEST
from tests.unit.images.image_fakes import png

COMMIT = "a" * 40
ROOT = Path(__file__).parents[2]

CHILD = """
import json, sys
from platodef_cli.errors import PlatodefError
from platodef_cli.images.open import open_source
for uri, limit in json.loads(sys.argv[1]):
    try:
        s = open_source(uri, limit=limit)
        size = s.open(0).size
    except PlatodefError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))
        continue
    print(json.dumps({"uri": s.uri, "classes": s.classes, "skipped": s.skipped, "size": size,
                      "refs": [[r.id, r.digest, r.label] for r in s.refs]}))
"""


def parquet(secret: Path) -> bytes:
    """Three good images, and two rows that name files which are not part of the data set."""
    images = [{"bytes": png(i), "path": None} for i in range(3)]
    images += [{"bytes": None, "path": str(secret)}]
    images += [{"bytes": None, "path": "hf://datasets/org/private@main/x.png"}]
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": images, "label": [0, 1, 1, 0, 1]}), buffer)
    return buffer.getvalue()


README = b"""---
dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype: {class_label: {names: {"0": cat, "1": dog}}}
  splits:
  - {name: train, num_examples: 5, num_bytes: 9}
  - {name: test, num_examples: 5, num_bytes: 9}
configs:
- config_name: default
  data_files:
  - {split: train, path: data/train-*}
  - {split: test, path: data/test-*}
---
"""


class Hub:
    """Serves data sets ``org/<name>`` at one commit."""

    def __init__(self, sets: Mapping[str, Mapping[str, bytes]]):
        self.sets = sets
        self.requests: list[str] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test output clean."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(path)
        match = re.fullmatch(
            r"(?:/api)?/datasets/org/([\w-]+)(?:/(revision|tree|resolve)/([^/]+)/?(.*))?", path
        )
        if match is None or match[1] not in self.hub.sets:
            status, code = {"gated": (403, "GatedRepo"), "down": (500, "")}.get(
                match[1] if match else "", (404, "RepoNotFound")
            )
            self._answer(status, b"{}", {"X-Error-Code": code} if code else {})
        elif match[3] not in (None, "main", COMMIT):
            self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif match[2] == "tree":
            self._tree(self.hub.sets[match[1]], match[4])
        elif match[2] == "resolve":
            self._file(self.hub.sets[match[1]], match[4])
        else:
            body = {"id": f"org/{match[1]}", "sha": COMMIT, "siblings": []}
            self._answer(200, json.dumps(body).encode())

    def _tree(self, files: Mapping[str, bytes], folder: str) -> None:
        prefix = f"{folder}/" if folder else ""
        found: dict[str, dict[str, Any]] = {}
        for name, data in files.items():
            if name.startswith(prefix):
                parts = name[len(prefix) :].split("/")
                for depth in range(1, len(parts)):
                    path = prefix + "/".join(parts[:depth])
                    found[path] = {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
                found[name] = {"type": "file", "path": name, "size": len(data), "oid": _oid(data)}
        if "recursive=true" not in self.path.lower():
            found = {path: entry for path, entry in found.items() if "/" not in path[len(prefix) :]}
        if prefix and not found:
            self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        else:
            self._answer(200, json.dumps(list(found.values())).encode())

    def _file(self, files: Mapping[str, bytes], name: str) -> None:
        if name not in files:
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        data = files[name]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{_oid(data)}"'}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted:
            start, end = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
            self._answer(206, data[start : end + 1], headers)
        else:
            self._answer(200, data, headers)

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(9))
    table = parquet(secret)
    names = ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet")
    sets = {
        "tables": {"README.md": README, **dict.fromkeys(names, table)},
        "folders": {f"test/{name}/{i}.png": png(i) for i, name in enumerate(["cat", "dog", "dog"])},
    }
    server = Hub(sets)
    server.thread.start()
    yield server
    server.server.shutdown()
    server.thread.join()
    server.server.server_close()


def environment(hub: Hub, tmp_path: Path) -> dict[str, str]:
    """Return the environment of a process that takes the loopback hub for the Hub."""
    env = {key: value for key, value in os.environ.items() if not key.upper().endswith("_PROXY")}
    env |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server.server_address[1]}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(ROOT),
    }
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_CACHE", "HF_DATASETS_CACHE"):
        env.pop(name, None)
    return env


def open_in_child(hub: Hub, tmp_path: Path, *asked: tuple[str, int | None]) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(asked)],
        env=environment(hub, tmp_path), capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "it/s" not in done.stderr, "the library drew its own progress bars"
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_tables_and_folders_stream_at_the_pinned_commit(hub: Hub, tmp_path: Path) -> None:
    tables, folders, part = open_in_child(
        hub,
        tmp_path,
        ("hf://datasets/org/tables@main", None),
        ("hf://datasets/org/folders", None),
        ("hf://datasets/org/folders:test", 2),
    )
    assert tables["uri"] == f"hf://datasets/org/tables@{COMMIT}:test"
    expected = [[f"row-{i:06d}", hashlib.sha256(png(i)).hexdigest(), min(i, 1)] for i in range(3)]
    for found in (tables, folders):
        assert found["classes"] == ["cat", "dog"]
        assert found["refs"] == expected
        assert found["size"] == [7, 9]
    # Neither a file of this machine nor another repository is opened because a row says so.
    assert [name for name, _ in tables["skipped"]] == ["row-000003", "row-000004"]
    assert all("names a path outside the data set" in reason for _, reason in tables["skipped"])
    assert not any("private" in path for path in hub.requests)
    assert len(part["refs"]) == 2
    assert all(ref in expected for ref in part["refs"])
    contents = [path for path in hub.requests if "/resolve/" in path]
    assert contents
    assert all(f"/resolve/{COMMIT}/" in path for path in contents)


def test_tables_of_real_size(tmp_path: Path) -> None:
    """Shards of 30 MB in all stream through, every image as it was published."""
    noise = np.random.default_rng(3)
    pictures = []
    for _ in range(160):
        buffer = io.BytesIO()
        Image.fromarray(noise.integers(0, 256, (256, 256, 3), dtype=np.uint8)).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    shards = {}
    for number in range(2):
        part = pictures[80 * number : 80 * (number + 1)]
        buffer = io.BytesIO()
        images = [{"bytes": data, "path": None} for data in part]
        pq.write_table(pa.table({"image": images, "label": [0, 1] * 40}), buffer, row_group_size=20)
        shards[f"data/test-0000{number}-of-00002.parquet"] = buffer.getvalue()
    assert sum(map(len, shards.values())) > 30_000_000
    shards["data/train-00000-of-00001.parquet"] = parquet(tmp_path / "nothing.png")
    server = Hub({"large": {"README.md": README.replace(b"num_examples: 5", b"num_examples: 160"), **shards}})
    server.thread.start()
    try:
        whole, part = open_in_child(
            server, tmp_path, ("hf://datasets/org/large:test", None), ("hf://datasets/org/large:test", 10)
        )
    finally:
        server.server.shutdown()
        server.thread.join()
        server.server.server_close()
    assert "error" not in whole, whole
    digests = [hashlib.sha256(data).hexdigest() for data in pictures]
    assert [digest for _, digest, _ in whole["refs"]] == digests
    assert [label for _, _, label in whole["refs"]] == [0, 1] * 80
    assert whole["size"] == [256, 256]
    assert len(part["refs"]) == 10
    assert all(ref in whole["refs"] for ref in part["refs"])


def test_a_data_set_becomes_shards_of_features(hub: Hub, tmp_path: Path) -> None:
    """Blocks of rows of a data set of the Hub, at its commit; made once, and the same as from its files."""
    table = tmp_path / "local.parquet"
    table.write_bytes(hub.sets["tables"]["data/test-00000-of-00001.parquet"])

    def extracted(images: str, folder: str, *more: str) -> tuple[Path, str]:
        words = ["extract", "builtin:clean", "--images", images, "--max-broken", "0.9", *more]
        done = subprocess.run(
            [sys.executable, "-m", "platodef_cli.cli.app", *words, "-o", f"{tmp_path / folder}/"],
            env=environment(hub, tmp_path), capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return tmp_path / folder, done.stderr

    blocks = ("--shard-rows", "2")
    folder, said = extracted("hf://datasets/org/tables:test", "hub", *blocks)
    manifest = json.loads((folder / MANIFEST).read_text())
    assert [shard["counts"]["rows"] for shard in manifest["shards"]] == [2, 1]
    assert all(f"/resolve/{COMMIT}/" in path for path in hub.requests if "/resolve/" in path)
    before = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    _, said = extracted("hf://datasets/org/tables:test", "hub", *blocks)
    assert "3 rows in 2 shards" in said
    assert {path.name: path.read_bytes() for path in folder.glob("*.safetensors")} == before
    local, _ = extracted(str(table), "local", *blocks)
    for one, other in zip(FeatureStream(folder).blocks(), FeatureStream(local).blocks(), strict=True):
        assert torch.equal(one.source, other.source)
        assert one.ids == other.ids


def test_failures_are_one_line_each(hub: Hub, tmp_path: Path) -> None:
    asked = {
        "hf://datasets/org/gone": ("HubError", "data set org/gone does not exist, or is private"),
        "hf://datasets/org/gated": ("HubError", "data set org/gated is gated; ask for access"),
        "hf://datasets/org/down": ("HubError", "cannot load 'hf://datasets/org/down': "),
        "hf://datasets/org/tables@v9": ("HubError", "data set org/tables has no revision 'v9'"),
        "hf://datasets/org/tables:dev": ("UsageError", "no split 'dev'; its splits: train, test"),
    }
    answers = open_in_child(hub, tmp_path, *((uri, None) for uri in asked))
    for answer, (kind, message) in zip(answers, asked.values(), strict=True):
        assert answer["error"] == kind
        assert message in answer["message"]
        assert "\n" not in answer["message"]
