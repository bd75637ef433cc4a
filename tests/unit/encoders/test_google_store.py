"""Models and images of ``gs://`` through the real gcsfs, against a server on loopback."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from platodef_cli.encoders.resolve import examine
from platodef_cli.encoders.stores.address import parse_address
from platodef_cli.encoders.stores.buckets import Bucket
from platodef_cli.errors import IncompleteError, RefusedError, UsageError
from platodef_cli.images.remote import listed
from tests.unit.cli.calls import Call
from tests.unit.cli.conftest import platodef as platodef
from tests.unit.encoders.google_store import GoogleStore
from tests.unit.encoders.test_stores import CLEAN, FILES, REPOSITORY, get
from tests.unit.encoders.test_stores import models as models

pytest.importorskip("gcsfs", reason="gcsfs is not installed: pip install 'platodef[cloud]'")


async def _at_once(seconds: float) -> None:
    """Stand for the pauses between gcsfs's attempts."""


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[GoogleStore]:
    import gcsfs

    monkeypatch.setattr("gcsfs.retry.asyncio", SimpleNamespace(sleep=_at_once))
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    # nothing of the machine's own Google account takes part
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with GoogleStore().running() as running:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", running.endpoint)
        gcsfs.GCSFileSystem.clear_instance_cache()
        yield running
        gcsfs.GCSFileSystem.clear_instance_cache()


@pytest.mark.parametrize("scheme", ["gs", "gcs"])
def test_a_model_is_listed_downloaded_and_pinned(store: GoogleStore, scheme: str) -> None:
    store.put("bucket/models/clean", {**REPOSITORY, "inner/model.safetensors": b"another"})
    local = examine(get(str(CLEAN)))
    resolved = get(f"{scheme}://bucket/models/clean/")
    assert resolved.files == ("README.md", "config.json", "model.safetensors")
    assert examine(resolved).digest == local.digest
    assert not any("pytorch_model.bin" in path and "download" in path for path in store.asked)
    assert examine(get(f"{scheme}://bucket/models/clean@sha256:{local.digest}")).digest == local.digest
    with pytest.raises(RefusedError, match="which the address denies"):
        examine(get(f"{scheme}://bucket/models/clean@sha256:{'0' * 64}"))


def test_a_second_run_downloads_nothing_and_another_version_is_seen(store: GoogleStore) -> None:
    store.put("bucket/clean", FILES)
    first = get("gs://bucket/clean")
    store.asked.clear()
    assert get("gs://bucket/clean").directory == first.directory
    assert not any("download" in path for path in store.asked)
    changed = bytearray(FILES["model.safetensors"])
    changed[-1] ^= 1
    store.put("bucket/clean", {"model.safetensors": bytes(changed)})
    second = get("gs://bucket/clean")
    assert (second.directory / "model.safetensors").read_bytes() == bytes(changed)
    digest = examine(first).digest
    with pytest.raises(RefusedError, match="which the address denies"):
        examine(get(f"gs://bucket/clean@sha256:{digest}"))


def test_bytes_that_are_not_those_of_the_listing(store: GoogleStore, models: Path) -> None:
    store.put("bucket/clean", FILES)
    digest = examine(get(str(CLEAN))).digest
    weights = FILES["model.safetensors"]
    store.lies["clean/model.safetensors"] = weights[:-1] + bytes([weights[-1] ^ 1])
    with pytest.raises(RefusedError, match="which the address denies"):
        examine(get(f"gs://bucket/clean@sha256:{digest}"))
    store.put("bucket/short", FILES)
    store.lies["short/model.safetensors"] = weights[:1000]
    with pytest.raises(IncompleteError):
        get("gs://bucket/short")
    assert not list(models.glob(".tmp-*"))


def test_buckets_that_are_absent_closed_or_empty(
    store: GoogleStore, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    store.buckets["secret"] = {}
    store.put("secret/clean", FILES)
    store.closed.add("secret")
    with pytest.raises(IncompleteError, match=r"Anonymous caller .*check .* your credentials") as error:
        get("gs://secret/clean")
    assert error.value.exit_code == 3
    for uri in ("gs://absent/clean", "gs://bucket/absent", "gs://bucket"):
        with pytest.raises(UsageError, match="there is no such folder|holds no files"):
            get(uri)
    # errors have one line: gcsfs logs tracebacks
    assert "Traceback" not in capfd.readouterr().err + caplog.text


def test_a_network_that_is_lost(store: GoogleStore, models: Path) -> None:
    store.put("bucket/clean", FILES)
    address = parse_address("gs://bucket/clean")
    assert address is not None
    bucket = Bucket(address)
    assert bucket.listed()
    digest = examine(get("gs://bucket/clean")).digest
    store.stop()
    with pytest.raises(IncompleteError, match="check the address, the network"):
        bucket.fetch("config.json", models / "x", 10**6)
    with pytest.raises(IncompleteError, match="cannot be listed"):
        get("gs://bucket/clean")
    # what was kept is there without it
    assert examine(get("gs://bucket/clean", offline=True)).digest == digest


def test_shards_of_images(store: GoogleStore) -> None:
    store.put("bucket/images", {"b.parquet": b"22", "a.tar": b"1", "notes.txt": b"-"})
    found = listed("gs://bucket/images")
    assert [uri for uri, _ in found] == ["gs://bucket/images/a.tar", "gs://bucket/images/b.parquet"]
    assert [uri for uri, _ in listed("gs://bucket/images/*.parquet")] == ["gs://bucket/images/b.parquet"]
    before = dict(found)
    store.put("bucket/images", {"a.tar": b"2"})
    after = dict(listed("gs://bucket/images"))
    assert [uri for uri in after if after[uri] != before[uri]] == ["gs://bucket/images/a.tar"]


def test_the_command_says_it_in_one_line(store: GoogleStore, platodef: Call) -> None:
    store.put("bucket/clean", FILES)
    assert platodef("preflight", "gs://bucket/clean").code == 0
    store.buckets["secret"] = {}
    store.closed.add("secret")
    done = platodef("preflight", "gs://secret/clean", "-v")
    assert done.code == 3, done.err
    assert "Traceback" not in done.err
    assert "Anonymous caller" in done.last
    assert platodef("preflight", "gs://bucket/none").code == 2
