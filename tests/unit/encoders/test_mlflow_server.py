"""``models:/`` against MLflow's own server on loopback: versions, aliases, pins, and what goes wrong."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from platodef_cli.encoders.resolve import examine
from platodef_cli.errors import IncompleteError, RefusedError, UsageError
from tests.unit.cli.calls import Call
from tests.unit.cli.conftest import platodef as platodef
from tests.unit.encoders.test_stores import CLEAN, FILES, REPOSITORY, get
from tests.unit.encoders.test_stores import models as models

_PARTS = ("mlflow", "flask", "sqlalchemy", "alembic", "uvicorn")
if any(importlib.util.find_spec(name) is None for name in _PARTS):  # mlflow-skinny has no server
    pytest.skip("MLflow's server is not installed: pip install mlflow", allow_module_level=True)

_STARTING = 240  # seconds, at most


class Server:
    """A real ``mlflow server`` with SQLite behind it, which serves the artifacts as well."""

    def __init__(self, folder: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.uri, self.artifacts = f"http://127.0.0.1:{port}", folder / "artifacts"
        words = [
            *("--backend-store-uri", f"sqlite:///{folder}/registry.sqlite", "--serve-artifacts"),
            *("--artifacts-destination", str(self.artifacts), "--host", "127.0.0.1"),
            *("--port", str(port), "--workers", "1"),
        ]
        self.log = folder / "server.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *words],
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
                start_new_session=True,
            )

    def wait(self) -> None:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        until = time.monotonic() + _STARTING
        while time.monotonic() < until and self._process.poll() is None:
            try:
                opener.open(f"{self.uri}/health", timeout=5).close()
                return
            except OSError:
                time.sleep(0.2)
        raise AssertionError(self.log.read_text())

    def stop(self) -> None:
        """End the server and its workers."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, 15)
            self._process.wait(60)


def _connect(uri: str, patch: pytest.MonkeyPatch) -> Any:
    import mlflow

    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        patch.setenv(name, uri)
    for name in ("HTTP_PROXY", "http_proxy", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME"):
        patch.delenv(name, raising=False)
    patch.setenv("no_proxy", "127.0.0.1")
    patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return mlflow.MlflowClient()


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server with a model in three versions: of a run, of a run's folder, of a logged model."""
    folder = tmp_path_factory.mktemp("mlflow")
    server = Server(folder)
    patch = pytest.MonkeyPatch()
    try:
        server.wait()
        client = _connect(server.uri, patch)
        client.create_registered_model("encoder")
        for inner in ("", "model"):
            local = folder / f"local-{inner}"
            local.mkdir()
            for name, data in REPOSITORY.items():
                (local / name).write_bytes(data)
            run = client.create_run(client.create_experiment(f"experiment-{inner}")).info.run_id
            client.log_artifacts(run, str(local), f"encoder/{inner}".rstrip("/"))
            client.create_model_version("encoder", f"runs:/{run}/encoder", run)
        logged = client.create_logged_model(client.create_experiment("logged"), name="encoder")
        client.log_model_artifacts(logged.model_id, str(folder / "local-"))
        client.create_model_version("encoder", f"models:/{logged.model_id}", model_id=logged.model_id)
        client.set_registered_model_alias("encoder", "champion", "2")
        yield server
    finally:
        patch.undo()
        server.stop()


@pytest.fixture
def server(registered: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    import mlflow

    _connect(registered.uri, monkeypatch)
    yield registered
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)


def test_versions_aliases_and_pins(server: Server) -> None:
    local = examine(get(str(CLEAN))).digest
    for uri, found in {
        "models:/encoder/1": "models:/encoder/1",
        "models:/encoder/2": "models:/encoder/2",
        "models:/encoder/2/model": "models:/encoder/2/model",
        "models:/encoder/3": "models:/encoder/3",
        "models:/encoder@champion": "models:/encoder/2",
        f"models:/encoder/1@sha256:{local}": f"models:/encoder/1@sha256:{local}",
    }.items():
        resolved = get(uri)
        assert resolved.uri == found
        checked = examine(resolved)
        assert checked.digest == local
        assert "pytorch_model.bin" not in resolved.files
        assert any("pytorch_model.bin" in note for note in checked.not_examined)
    with pytest.raises(RefusedError, match="which the address denies"):
        examine(get(f"models:/encoder@champion@sha256:{'0' * 64}"))


def test_an_alias_that_moves_is_followed(server: Server) -> None:
    import mlflow

    client = mlflow.MlflowClient()
    assert get("models:/encoder@champion").uri == "models:/encoder/2"
    client.set_registered_model_alias("encoder", "champion", "1")
    assert get("models:/encoder@champion").uri == "models:/encoder/1"
    client.set_registered_model_alias("encoder", "champion", "2")


@pytest.mark.parametrize(
    "uri",
    [
        "models:/encoder/9", "models:/nobody/1", "models:/encoder@nobody", "models:/encoder/latest",
        "models:/encoder/Production", "models:/encoder/Staging",
    ],
)  # fmt: skip
def test_what_is_not_there_is_a_usage_error(server: Server, uri: str) -> None:
    with pytest.raises(UsageError, match=r"MLflow does not give it|give a version"):
        get(uri)


def test_files_that_are_written_over_are_noticed(server: Server, models: Path) -> None:
    """MLflow has no checksums: bytes of the same length behind the same version are others."""
    first = examine(get("models:/encoder/1"))
    (weights,) = [
        path
        for path in server.artifacts.rglob("model.safetensors")
        if path.parent.name == "encoder" and "models" not in path.parts[-4:]
    ]
    held = weights.read_bytes()
    try:
        weights.write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
        second = examine(get("models:/encoder/1"))
        assert second.digest != first.digest
        with pytest.raises(RefusedError, match="which the address denies"):
            examine(get(f"models:/encoder/1@sha256:{first.digest}"))
    finally:
        weights.write_bytes(held)
    assert examine(get("models:/encoder/1")).digest == first.digest
    # equal bytes share their place, however often they came
    assert len([path for path in models.iterdir() if path.is_dir()]) == 2
    assert not list(models.glob(".tmp-*"))


def test_a_version_without_a_model(server: Server, tmp_path: Path) -> None:
    import mlflow

    client = mlflow.MlflowClient()
    client.create_registered_model("empty")
    run = client.create_run(client.create_experiment("empty")).info.run_id
    client.create_model_version("empty", f"runs:/{run}/nothing", run)
    with pytest.raises(UsageError, match="holds no files"):
        get("models:/empty/1")
    unsafe = tmp_path / "unsafe"
    unsafe.mkdir()
    (unsafe / "config.json").write_bytes(FILES["config.json"])
    (unsafe / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    client.log_artifacts(run, str(unsafe), "unsafe")
    client.create_model_version("empty", f"runs:/{run}/unsafe", run)
    with pytest.raises(RefusedError):
        get("models:/empty/2")


def test_the_command(server: Server, platodef: Call) -> None:
    done = platodef("preflight", "models:/encoder@champion")
    assert done.code == 0, done.err
    assert platodef("preflight", "models:/encoder/9").code == 2


class _Closed(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        body = b'{"error_code": "UNAUTHENTICATED", "message": "You are not authenticated."}'
        self.send_response(401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_a_server_that_wants_credentials(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = ThreadingHTTPServer(("127.0.0.1", 0), _Closed)
    thread = threading.Thread(target=closed.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        _connect(f"http://127.0.0.1:{closed.server_address[1]}", monkeypatch)
        with pytest.raises(IncompleteError, match=r"not authenticated.*MLFLOW_TRACKING_") as error:
            get("models:/encoder/1")
        assert error.value.exit_code == 3
    finally:
        closed.shutdown()
        closed.server_close()
        thread.join()


def test_a_server_that_is_gone(server: Server, monkeypatch: pytest.MonkeyPatch, models: Path) -> None:
    digest = examine(get("models:/encoder@champion")).digest
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        _connect(f"http://127.0.0.1:{free.getsockname()[1]}", monkeypatch)  # bound, and nobody listens
        with pytest.raises(IncompleteError, match="check MLFLOW_TRACKING_URI"):
            get("models:/encoder@champion")
        assert examine(get("models:/encoder@champion", offline=True)).digest == digest
    shutil.rmtree(models)
    with pytest.raises(IncompleteError, match="offline"):
        get("models:/encoder@champion", offline=True)
