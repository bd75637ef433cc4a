"""Models in object stores and in MLflow's registry: real servers on loopback where they are installed."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from platodef_cli.encoders.reference import parse
from platodef_cli.encoders.resolve import ResolvedModel, examine, resolve
from platodef_cli.encoders.stores.address import parse_address
from platodef_cli.errors import IncompleteError, RefusedError, UsageError
from platodef_cli.progress import SILENT
from platodef_cli.resources import data_dir

CLEAN = data_dir("encoders") / "clean"
FILES = {name: (CLEAN / name).read_bytes() for name in ("config.json", "model.safetensors")}
REPOSITORY = {
    **FILES,
    "README.md": b"---\nlicense: mit\n---\n",
    "pytorch_model.bin": b"\x80\x02 a pickle that nobody may fetch",
}


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLATODEF_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return tmp_path / "models"


class Memory:
    """fsspec's file system in memory, under the scheme of Google's store."""

    def __init__(self) -> None:
        from fsspec.implementations.memory import MemoryFileSystem

        self.system = MemoryFileSystem()

    def put(self, folder: str, files: dict[str, bytes]) -> None:
        for name, data in files.items():
            self.system.pipe(f"/{folder}/{name}", data)

    def remove(self, path: str) -> None:
        self.system.rm(f"/{path}")


class S3:
    """moto's server, through s3fs."""

    def __init__(self, endpoint: str):
        import boto3

        self.client = boto3.client("s3", endpoint_url=endpoint)
        self.client.create_bucket(Bucket="bucket")

    def put(self, folder: str, files: dict[str, bytes]) -> None:
        for name, data in files.items():
            key = f"{folder.removeprefix('bucket/')}/{name}"
            self.client.put_object(Bucket="bucket", Key=key, Body=data)

    def remove(self, path: str) -> None:
        self.client.delete_object(Bucket="bucket", Key=path.removeprefix("bucket/"))


@pytest.fixture(params=["gs", "s3"])
def bucket(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, Memory | S3]]:
    if request.param == "gs":
        from fsspec.implementations.memory import MemoryFileSystem

        memory = Memory()
        monkeypatch.setattr(
            "fsspec.core.url_to_fs", lambda uri: (memory.system, "/" + uri.partition("://")[2])
        )
        yield "gs", memory
        MemoryFileSystem.store.clear()
        return
    server_module = pytest.importorskip("moto.server", reason="moto's server is not installed")
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    for name, value in {
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "no_proxy": "127.0.0.1,localhost",
    }.items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    yield "s3", S3(endpoint)
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def get(uri: str, *, offline: bool = False) -> ResolvedModel:
    return resolve(parse(uri), offline=offline, progress=SILENT)


def test_a_model_of_a_bucket_is_checked_like_a_folder(bucket: tuple[str, Memory | S3]) -> None:
    scheme, store = bucket
    store.put("bucket/models/clean", {**REPOSITORY, "inner/model.safetensors": b"another"})
    resolved = get(f"{scheme}://bucket/models/clean/")
    assert resolved.files == ("README.md", "config.json", "model.safetensors")
    checked, local = examine(resolved), examine(get(str(CLEAN)))
    assert checked.digest == local.digest
    assert checked.files == local.files
    assert any("pytorch_model.bin" in note for note in checked.not_examined)
    assert any(finding.id.startswith("pickle") for finding in checked.findings)
    pinned = get(f"{scheme}://bucket/models/clean@sha256:{local.digest}")
    assert examine(pinned).digest == local.digest
    with pytest.raises(RefusedError, match="which the address denies"):
        examine(get(f"{scheme}://bucket/models/clean@sha256:{'0' * 64}"))


def test_a_second_run_downloads_nothing_and_notices_another_version(
    bucket: tuple[str, Memory | S3], models: Path
) -> None:
    scheme, store = bucket
    uri = f"{scheme}://bucket/clean"
    store.put("bucket/clean", FILES)
    first = get(uri)
    when = {path: path.stat().st_mtime_ns for path in first.directory.iterdir()}
    assert get(uri).directory == first.directory
    assert {path: path.stat().st_mtime_ns for path in first.directory.iterdir()} == when
    changed = bytearray(FILES["model.safetensors"])
    changed[-1] ^= 1
    store.put("bucket/clean", {"model.safetensors": bytes(changed)})
    second = get(uri)
    assert second.directory != first.directory
    assert examine(second).digest != examine(first).digest
    assert get(uri, offline=True).directory == second.directory
    # what the cache lost or changed comes again
    (second.directory / "model.safetensors").write_bytes(b"damage")
    with pytest.raises(IncompleteError, match="offline"):
        get(uri, offline=True)
    assert (get(uri).directory / "model.safetensors").read_bytes() == bytes(changed)
    assert not list(models.glob(".tmp-*"))


def test_what_is_no_model_is_refused_and_leaves_nothing(
    bucket: tuple[str, Memory | S3], models: Path
) -> None:
    scheme, store = bucket
    store.put("bucket/pickle", {"config.json": FILES["config.json"], "pytorch_model.bin": b"\x80\x02."})
    store.put("bucket/text", {"notes.txt": b"nothing"})
    store.put("bucket/broken", {**FILES, "config.json": b"[]"})
    with pytest.raises(RefusedError):
        get(f"{scheme}://bucket/pickle")
    for name in ("text", "none"):
        with pytest.raises(UsageError):
            get(f"{scheme}://bucket/{name}")
    with pytest.raises(RefusedError, match=r"broken/config\.json"):
        get(f"{scheme}://bucket/broken")
    assert not models.exists() or not [path for path in models.iterdir() if path.is_dir()]


def test_a_file_that_does_not_arrive_whole_is_not_kept(
    bucket: tuple[str, Memory | S3], models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheme, store = bucket
    store.put("bucket/clean", FILES)
    from platodef_cli.encoders.stores.buckets import Bucket

    real = Bucket.fetch

    def cut(self: Bucket, name: str, target: Path, most: int) -> None:
        real(self, name, target, most)
        if name == "model.safetensors":
            os.truncate(target, 1000)

    monkeypatch.setattr(Bucket, "fetch", cut)
    with pytest.raises(IncompleteError, match="1000 bytes came"):
        get(f"{scheme}://bucket/clean")
    assert not [path for path in models.iterdir() if path.is_dir()]
    monkeypatch.setattr(Bucket, "fetch", real)
    assert examine(get(f"{scheme}://bucket/clean"))


def test_a_store_that_gives_more_than_it_lists_is_stopped(
    bucket: tuple[str, Memory | S3], tmp_path: Path
) -> None:
    scheme, store = bucket
    store.put("bucket/clean", FILES)
    from platodef_cli.encoders.stores.buckets import Bucket

    address = parse_address(f"{scheme}://bucket/clean")
    assert address is not None
    with pytest.raises(RefusedError, match="longer than its listing"):
        Bucket(address).fetch("model.safetensors", tmp_path / "x", 1000)


def test_offline_without_a_cache_and_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(IncompleteError, match="not completely in the local cache"):
        get("s3://bucket/model", offline=True)
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    with pytest.raises(UsageError, match=r"platodef\[mlflow\]"):
        get("models:/name/1")


@pytest.mark.parametrize(
    "uri",
    [
        "s3://", "s3:///x", "s3://b/../x", "s3://bucket/a//b", "s3://bucket/*", "gs://bucket/a?x=1",
        "models:/", "models:/name", "models:/name/1/../x", "s3://bucket/x@sha256:abc", "models:/a/b@sha256:",
        "s3://user:secret@bucket/x", "s3://bucket/x@main", "gs://bucket/\0",
    ],
)  # fmt: skip
def test_malformed_addresses_are_usage_errors(uri: str) -> None:
    with pytest.raises(UsageError):
        parse(uri)


def test_addresses_say_what_they_are() -> None:
    pin = "a" * 64
    for uri, name in {
        "s3://bucket/folder/model": "model",
        "gs://bucket": "bucket",
        f"gcs://bucket/m@sha256:{pin}": "m",
        "models:/name/3": "name",
        "models:/name@champion": "name",
        f"models:/name/3/model@sha256:{pin}": "name",
    }.items():
        reference = parse(uri)
        assert reference.store is not None
        assert (reference.uri, reference.short_name) == (uri, name)
        with pytest.raises(UsageError, match="--revision"):
            parse(uri, "main")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """MLflow's registry in a folder, with two versions of a model."""
    mlflow = pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.setenv(name, (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    mlflow.set_registry_uri((tmp_path / "mlruns").as_uri())
    client = mlflow.MlflowClient()
    client.create_registered_model("encoder")
    for version, inner in ((1, ""), (2, "model")):
        folder = tmp_path / f"artifacts-{version}"
        (folder / inner).mkdir(parents=True)
        for name, data in REPOSITORY.items():
            (folder / inner / name).write_bytes(data)
        if inner:
            (folder / "MLmodel").write_text("flavors: {transformers: {}}")
        client.create_model_version("encoder", folder.as_uri())
    client.set_registered_model_alias("encoder", "champion", "2")
    yield client
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)


def test_models_of_the_registry(registry: object, tmp_path: Path) -> None:
    local = examine(get(str(CLEAN))).digest
    for uri, found in {
        "models:/encoder/1": "models:/encoder/1",
        "models:/encoder/2": "models:/encoder/2",
        "models:/encoder/2/model": "models:/encoder/2/model",
        "models:/encoder@champion": "models:/encoder/2",
        f"models:/encoder/1@sha256:{local}": f"models:/encoder/1@sha256:{local}",
    }.items():
        resolved = get(uri)
        assert resolved.uri == found
        assert examine(resolved).digest == local
        assert "pytorch_model.bin" not in resolved.files
    for uri in ("models:/encoder/9", "models:/nobody/1", "models:/encoder@nobody", "models:/encoder/latest"):
        with pytest.raises(UsageError):
            get(uri)
    shutil.rmtree(tmp_path / "mlruns")
    assert examine(get("models:/encoder@champion", offline=True)).digest == local


def test_an_audit_names_the_version_and_the_digest(
    registry: object, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from platodef_cli.cli.app import main

    monkeypatch.setattr("platodef_cli.environment.prepare", lambda: None)
    assert main(["preflight", "models:/encoder@champion", "--json", "--exit-zero"]) == 0
    shown = json.loads(capfd.readouterr().out)
    assert shown["uri"] == "models:/encoder/2"
    weights = next(file for file in shown["files"] if file["path"] == "model.safetensors")
    assert weights["sha256"] == hashlib.sha256(FILES["model.safetensors"]).hexdigest()


def test_a_download_that_was_killed_leaves_nothing_once_there_is_another(
    bucket: tuple[str, Memory | S3], models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheme, store = bucket
    if scheme != "gs":
        pytest.skip("what is killed is the same")
    store.put("bucket/model", REPOSITORY)
    killed = os.fork()
    if not killed:
        monkeypatch.setattr("platodef_cli.encoders.stores.fetch.needed_files", lambda *_: os._exit(9))
        get("gs://bucket/model")
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(killed, 0)[1]) == 9
    assert [path.name for path in models.rglob(".tmp-*/*/config.json")]
    monkeypatch.setattr("platodef_cli.temporary._looked_at", set())
    assert (get("gs://bucket/model").directory / "model.safetensors").is_file()
    assert not list(models.rglob(".tmp-*"))
