import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from platodef_cli.disk import save_tensors
from platodef_cli.errors import IncompleteError, UsageError
from platodef_cli.features.cache import FeatureCache, default_directory, key_digest
from platodef_cli.features.shard import Shard
from tests.unit.features.feature_fakes import Recorder

KEY = {"encoder": "e" * 64, "variant": "clean"}


def shard(rows=3, dim=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Shard(torch.randn(rows, dim, generator=generator), torch.tensor([0, 2, 3])[:rows], ((1, "trunc"),))


def test_round_trip_is_exact(tmp_path):
    cache = FeatureCache(tmp_path)
    assert cache.load(KEY, images=4, dim=4) is None
    cache.store(KEY, shard())
    found = cache.load(KEY, images=4, dim=4)
    assert torch.equal(found.features, shard().features)
    assert torch.equal(found.kept, shard().kept)
    assert found.broken == ((1, "trunc"),)


def test_equal_content_gives_equal_bytes(tmp_path):
    for name in ("a", "b"):
        FeatureCache(tmp_path / name).store(KEY, shard())
    first, second = (next((tmp_path / n).rglob("*.safetensors")) for n in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    assert set(load_file(first)) == {"features", "kept"}  # the library reads it


def test_key_ignores_the_order_but_nothing_else():
    assert key_digest({"a": 1, "b": [1, 2]}) == key_digest({"b": [1, 2], "a": 1})
    assert len({key_digest(k) for k in ({"a": 1}, {"a": "1"}, {"a": [1]}, {"b": 1}, {"a": 1.5})}) == 5


def damage_bit(path):
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)


def damage_header(path):
    data = path.read_bytes()
    path.write_bytes(data.replace(b"trunc", b"other"))


@pytest.mark.parametrize(
    "damage",
    [
        damage_bit,
        damage_header,
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff" * 200),
    ],
)
def test_a_damaged_entry_is_dropped_with_a_warning(tmp_path, damage):
    progress = Recorder()
    cache = FeatureCache(tmp_path, progress=progress)
    cache.store(KEY, shard())
    damage(next(tmp_path.rglob("*.safetensors")))
    assert len(cache.verify()) == 1
    assert cache.load(KEY, images=4, dim=4) is None
    assert len(progress.warnings) == 1
    assert "is damaged" in progress.warnings[0]
    assert cache.entries() == []


@pytest.mark.parametrize(("images", "dim"), [(5, 4), (4, 3)])
def test_an_entry_of_another_shape_is_dropped(tmp_path, images, dim):
    progress = Recorder()
    cache = FeatureCache(tmp_path, progress=progress)
    cache.store(KEY, shard())
    assert cache.load(KEY, images=images, dim=dim) is None
    assert "is damaged" in progress.warnings[0]


def test_a_folder_that_cannot_be_written_warns_once(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    progress = Recorder()
    cache = FeatureCache(blocked, progress=progress)
    cache.store(KEY, shard())
    cache.store({"other": 1}, shard())
    assert len(progress.warnings) == 1
    assert "cannot write to the cache" in progress.warnings[0]
    with pytest.raises(IncompleteError, match="PLATODEF_CACHE_DIR"):
        cache.store_artifact("head", KEY, lambda folder: None)


def test_a_disk_that_fills_up_costs_no_result_that_is_at_hand(tmp_path, monkeypatch):
    """One warning, whatever cannot be kept first; what the library of the weights says included."""
    progress = Recorder()
    cache = FeatureCache(tmp_path, progress=progress)
    kept = cache.keep_artifact("search", KEY, write_head)
    assert kept == cache.load_artifact("search", KEY)

    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    for _ in range(2):
        key = {"another": 1}
        found = cache.keep_artifact("search", key, lambda folder: save_tensors({}, folder / "x"))
        assert found is None
        assert cache.load_artifact("search", key) is None
    cache.store(KEY, shard())
    assert len(progress.warnings) == 1
    assert "No space left on device; not caching" in progress.warnings[0]
    assert [path.name for path in tmp_path.rglob(".tmp*")] == []
    assert cache.load_artifact("search", KEY) == kept
    # that which needs its place on the disk says so
    with pytest.raises(IncompleteError, match="No space left on device; free some space"):
        cache.store_artifact("head", KEY, lambda folder: save_tensors({}, folder / "x"))


def test_a_clock_that_jumped_harms_no_entry(tmp_path):
    cache = FeatureCache(tmp_path)
    cache.store(KEY, shard())
    stored = cache.store_artifact("head", KEY, write_head)
    future = time.time() + 10 * 365 * 24 * 3600
    for path in (cache.entries("features")[0].path, stored):
        os.utime(path, (future, future))
    assert cache.load(KEY, images=4, dim=4) is not None
    assert cache.load_artifact("head", KEY) == stored
    assert cache.remove(older_than=0.0) == []  # it is of the future
    assert len(cache.remove(everything=True)) == 2


def write_head(folder: Path):
    (folder / "head.bin").write_bytes(b"weights")
    (folder / "more").mkdir()
    (folder / "more" / "head.json").write_text("{}")


def test_artifacts_round_trip_and_are_verified(tmp_path):
    progress = Recorder()
    cache = FeatureCache(tmp_path, progress=progress)
    assert cache.load_artifact("head", KEY) is None
    stored = cache.store_artifact("head", KEY, write_head)
    assert cache.load_artifact("head", KEY) == stored
    assert (stored / "more" / "head.json").read_text() == "{}"
    assert cache.load_artifact("search", KEY) is None
    (stored / "head.bin").write_bytes(b"weightz")
    assert cache.verify()[0][1] == "head.bin is not what was stored"
    assert cache.load_artifact("head", KEY) is None
    assert "head.bin is not what was stored" in progress.warnings[0]
    assert not stored.exists()


def test_a_failing_writer_leaves_nothing(tmp_path):
    cache = FeatureCache(tmp_path)

    def fail(folder):
        (folder / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.store_artifact("head", KEY, fail)
    assert cache.load_artifact("head", KEY) is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_concurrent_writers_agree_on_one_folder(tmp_path):
    cache = FeatureCache(tmp_path)
    barrier = threading.Barrier(4)
    results = []

    def writer(folder):
        write_head(folder)
        barrier.wait()

    threads = [
        threading.Thread(target=lambda: results.append(cache.store_artifact("head", KEY, writer)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert len(set(results)) == 1
    assert cache.load_artifact("head", KEY) == results[0]
    assert len(list((tmp_path / "head").iterdir())) == 1


def test_entries_and_removal(tmp_path):
    cache = FeatureCache(tmp_path)
    cache.store(KEY, shard())
    cache.store({"other": 1}, shard())
    cache.store_artifact("head", KEY, write_head)
    old = cache.entries("features")[0]
    os.utime(old.path, (1_000_000_000, 1_000_000_000))
    stale = old.path.parent / ".tmp-123.safetensors"
    stale.write_bytes(b"left by a killed process")
    os.utime(stale, (1_000_000_000, 1_000_000_000))
    assert [entry.kind for entry in cache.entries()] == ["features", "features", "head"]
    assert all(entry.size > 0 for entry in cache.entries())
    assert cache.verify() == []
    with pytest.raises(UsageError, match="give an age"):
        cache.remove()
    assert [entry.path for entry in cache.remove(older_than=86400)] == [old.path]
    assert not stale.exists()
    assert [entry.kind for entry in cache.remove(kind="head")] == ["head"]
    assert len(cache.remove(everything=True)) == 1
    assert cache.entries() == []


def test_default_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("PLATODEF_CACHE_DIR", str(tmp_path))
    assert default_directory() == tmp_path
    monkeypatch.delenv("PLATODEF_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_directory() == tmp_path / "xdg" / "platodef"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_directory() == tmp_path / ".cache" / "platodef"


def test_looking_at_the_cache_does_not_load_torch(tmp_path):
    code = (
        "import sys; from platodef_cli.features.cache import FeatureCache; "
        "FeatureCache(sys.argv[1]).entries(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
