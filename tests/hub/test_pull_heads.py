"""Heads published by ``fit --push-to`` and pulled again from a loopback hub by the real client."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from platodef_cli.errors import EXIT_INCOMPLETE, EXIT_PASS, EXIT_REFUSED, EXIT_USAGE
from platodef_cli.heads.backbone import BackboneConfig
from platodef_cli.heads.fit import FitConfig, fit_heads
from platodef_cli.heads.heads import Heads
from platodef_cli.heads.mismatch import MismatchConfig
from platodef_cli.heads.pretrained import load_heads
from platodef_cli.heads.publish import publish_heads
from platodef_cli.heads.pull import pull_heads
from platodef_cli.heads.train import TrainConfig
from tests.gaussian_tuples import GaussianTuples
from tests.hub.server import Fault, HubServer
from tests.unit.cli.calls import command
from tests.unit.heads.test_pretrained import CARD

Files = Mapping[str, bytes]


@pytest.fixture
def published(tmp_path: Path, small_heads: Heads) -> Path:
    publish_heads(tmp_path / "published", small_heads, card=CARD)
    return tmp_path / "published"


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLATODEF_HEADS_DIR", str(tmp_path / "pulled"))
    return tmp_path / "pulled"


def test_published_heads_come_back_and_are_used_by_name(hub: HubServer, published: Path, place: Path) -> None:
    commit = hub.commit("org/heads", files_of(published))
    done = command("heads", "pull", f"hf://org/heads@{commit}")
    assert done.code == EXIT_PASS, done.err
    assert f"--head org/heads@{commit}" in done.last
    folder = place / f"org--heads@{commit}"
    assert sorted(os.listdir(folder)) == ["CARD.md", "head.json", "head.safetensors"]
    assert load_heads(folder).rows == 1500
    assert not any("README" in path for _, path in hub.requests)
    for name in (f"org/heads@{commit}", f"hf://org/heads@{commit}"):
        assert "Gaussian tuples" in command("heads", "show", name).out
    assert f"org/heads@{commit}" in command("heads", "ls").out
    again = len(hub.requests)
    assert command("heads", "pull", f"org/heads@{commit}", "--offline").code == EXIT_PASS
    assert len(hub.requests) == again


@pytest.fixture(scope="module")
def large_heads(gaussian: GaussianTuples) -> Heads:
    """Heads of the size of real ones, hardly trained."""
    config = FitConfig(
        backbone=BackboneConfig(width=416, depth=2, heads=2),
        mismatch=MismatchConfig(queue=256),
        energy=TrainConfig(epochs=1, batch_size=256),
        denoiser=TrainConfig(epochs=1, batch_size=256),
        lift_features=0,
    )
    return fit_heads(gaussian.sample(600, seed=1), config)


@pytest.mark.parametrize("broken", [False, True])
def test_heads_of_real_size(
    broken: bool, hub: HubServer, large_heads: Heads, tmp_path: Path, place: Path
) -> None:
    publish_heads(tmp_path / "published", large_heads, card=CARD)
    files = files_of(tmp_path / "published")
    size = len(files["head.safetensors"])
    assert size > 30_000_000
    commit = hub.commit("org/heads", files)
    if broken:
        hub.faults = [Fault("/lfs/", method="GET", times=2, cut=size // 3)]
    done = command("heads", "pull", f"hf://org/heads@{commit}")
    assert done.code == EXIT_PASS, done.err
    assert (place / f"org--heads@{commit}" / "head.safetensors").read_bytes() == files["head.safetensors"]


@pytest.mark.parametrize("uri", ["hf://org/heads", "hf://org/heads@main", "hf://org/heads@abc123", "heads@x"])
def test_unpinned_heads_are_refused_before_any_request(hub: HubServer, place: Path, uri: str) -> None:
    done = command("heads", "pull", uri)
    assert done.code == EXIT_USAGE
    assert not hub.requests
    assert not place.exists()


def test_heads_with_other_bytes_than_they_say_are_not_kept(
    hub: HubServer, published: Path, place: Path
) -> None:
    files = files_of(published)
    weights = bytearray(files["head.safetensors"])
    weights[-1] ^= 1
    commit = hub.commit("org/heads", {**files, "head.safetensors": bytes(weights)})
    done = command("heads", "pull", f"hf://org/heads@{commit}")
    assert done.code == EXIT_REFUSED
    assert "SHA-256 differs" in done.last
    assert str(place) not in done.last
    assert not list(place.iterdir())


def test_a_changed_local_copy_is_noticed(hub: HubServer, published: Path, place: Path) -> None:
    commit = hub.commit("org/heads", files_of(published))
    folder = pull_heads(f"hf://org/heads@{commit}", place)
    (folder / "CARD.md").write_text("harmless")
    done = command("heads", "pull", f"hf://org/heads@{commit}")
    assert done.code == EXIT_REFUSED
    assert "CARD.md" in done.last


def test_a_repository_without_heads_is_a_usage_error(hub: HubServer, model_files: Files, place: Path) -> None:
    commit = hub.commit("org/model", model_files)
    done = command("heads", "pull", f"hf://org/model@{commit}")
    assert done.code == EXIT_USAGE
    assert "has no CARD.md" in done.last


def test_a_hub_that_fails_is_incomplete_and_keeps_nothing(
    hub: HubServer, published: Path, place: Path
) -> None:
    commit = hub.commit("org/heads", files_of(published))
    hub.faults.append(Fault(path="org/heads", status=403))
    done = command("heads", "pull", f"hf://org/heads@{commit}")
    assert done.code == EXIT_INCOMPLETE
    assert not place.exists() or not list(place.iterdir())


def test_heads_that_were_not_pulled_are_named_with_the_way_to_get_them(place: Path) -> None:
    done = command("heads", "show", f"org/heads@{'a' * 40}")
    assert done.code == EXIT_USAGE
    assert f"platodef heads pull hf://org/heads@{'a' * 40}" in done.last


def test_published_folder_has_a_model_card_hashes_and_no_local_path(
    tmp_path: Path, small_heads: Heads
) -> None:
    local = CARD.source.model_copy(update={"uri": "/home/someone/secret/suspect", "commit": None})
    card = CARD.model_copy(
        update={"source": local, "trained_on": "/home/someone/images and hf://datasets/o/n"}
    )
    publish_heads(tmp_path / "out", small_heads, card=card)
    files = files_of(tmp_path / "out")
    assert set(files) == {
        "head.safetensors",
        "head.json",
        "CARD.md",
        "README.md",
        "SHA256SUMS",
        ".gitattributes",
    }
    assert not any(b"/home/someone" in content for content in files.values())
    metadata = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert metadata["license"] == "apache-2.0"
    assert metadata["base_model"] == ["org/left", "org/right"]
    assert files["CARD.md"].decode() in files["README.md"].decode()
    for line in files["SHA256SUMS"].decode().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256(files[name]).hexdigest() == digest
    assert "images and hf://datasets/o/n" in files["CARD.md"].decode()
    publish_heads(tmp_path / "again", small_heads, card=card)
    assert files_of(tmp_path / "again") == files
