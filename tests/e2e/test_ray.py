"""Shards on a Ray cluster of two nodes: actors and a node are lost in mid-run, and the bytes are the same."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from platodef_cli.cli.app import main
from platodef_cli.errors import UsageError
from platodef_cli.features.file import load_features, save_features
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.card import HeadCard
from platodef_cli.heads.heads import Heads
from platodef_cli.heads.origin import encoder_records
from platodef_cli.heads.pretrained import save_heads
from platodef_cli.jobs.cleaning import Judging, Purifying, feature_pieces
from platodef_cli.jobs.pieces import MANIFEST, Executor, Folder, InProcess, Result
from platodef_cli.jobs.ray_cluster import load_ray
from platodef_cli.jobs.ray_pieces import RayPieces
from tests.gaussian_tuples import GaussianTuples
from tests.unit.cli.calls import ROOT

_OF_PYTEST = "pytest.PytestUnraisableExceptionWarning"
_IGNORED = ("ResourceWarning", "DeprecationWarning", "FutureWarning", _OF_PYTEST)
pytestmark = [pytest.mark.slow, *(pytest.mark.filterwarnings(f"ignore::{name}") for name in _IGNORED)]
SHARDS = 10


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two raylets of one processor each on loopback."""
    pytest.importorskip("ray", reason="needs the extra platodef[ray]")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    ray = load_ray()
    from ray.cluster_utils import Cluster

    store = 100 * 2**20
    started = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": store, "include_dashboard": False},
    )
    started.add_node(num_cpus=1, object_store_memory=store)
    ray.init(address=started.address, logging_level="ERROR", log_to_driver=False)
    yield started
    ray.shutdown()
    started.shutdown()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, small_heads: Heads, gaussian: GaussianTuples) -> Path:
    """Heads in ``head``, and feature files in ``in``."""
    folder = tmp_path_factory.mktemp("ray")
    source, references = encoder_records(gaussian.sample(10, seed=1), "nowhere")
    card = HeadCard(name="h", source=source, references=references, trained_on="x")
    save_heads(folder / "head", small_heads, card=card)
    (folder / "in").mkdir()
    for number in range(SHARDS):
        clean = gaussian.sample(200, seed=number)
        moved = clean.source.clone()
        moved[::4] = 4 * moved.roll(1, 0)[::4]
        tuples = FeatureTuples(moved, clean.references, metadata={"images": str(number)})
        save_features(folder / "in" / f"part-{number}.safetensors", tuples)
    return folder


def run(place: Path, name: str, executor: Executor) -> Result:
    work = Purifying(Judging(str(place / "head"), "platonic"), "heun")
    paths = sorted((place / "in").glob("*.safetensors"))
    with Folder(place / name) as folder:
        return folder.run(work, feature_pieces(paths), executor)


@pytest.fixture(scope="module")
def wanted(place: Path) -> bytes:
    """The manifest of the run in this process: names, counts and hashes of all files."""
    run(place, "local", InProcess()).check()
    return (place / "local" / MANIFEST).read_bytes()


def test_the_same_hashes_although_an_actor_and_a_node_are_lost(
    cluster: Any, place: Path, wanted: bytes
) -> None:
    ray = load_ray()
    node = cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    done = 0
    lost: list[str] = []

    def disturb(actors: Sequence[Any]) -> None:
        nonlocal done
        done += 1
        if done == 2 and actors:
            ray.kill(actors[0])
            lost.append("actor")
        if done == 5:
            cluster.remove_node(node, allow_graceful=False)
            lost.append("node")

    result = run(place, "ray", RayPieces(changed=disturb))
    result.check()
    assert lost == ["actor", "node"]
    assert (place / "ray" / MANIFEST).read_bytes() == wanted
    assert not [path for path in (place / "ray").iterdir() if path.name.startswith(".tmp-")]
    # and what is there is not made again, by whichever executor
    assert run(place, "ray", InProcess()).before == SHARDS


def test_a_broken_shard_stops_no_other(cluster: Any, place: Path) -> None:
    bad = place / "in" / "part-3.safetensors"
    data = bad.read_bytes()
    bad.write_bytes(b"\xff" * 5000)
    try:
        result = run(place, "broken", RayPieces())
        assert len(result.made) == SHARDS - 1
        with pytest.raises(UsageError, match=r"part-3.safetensors"):
            result.check()
    finally:
        bad.write_bytes(data)


def test_work_that_cannot_start_ends_with_its_reason(cluster: Any, place: Path, tmp_path: Path) -> None:
    work = Purifying(Judging(str(place / "head"), "clipscore"), "mean")
    paths = sorted((place / "in").glob("*.safetensors"))
    with Folder(tmp_path / "out") as folder, pytest.raises(UsageError, match="no clean scores"):
        folder.run(work, feature_pieces(paths), RayPieces())


def test_the_commands(cluster: Any, place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    head = str(place / "head")
    words = ["--head", head, "--executor", "ray"]
    assert main(["purify", str(place / "in"), *words, "-m", "heun", "-o", str(tmp_path / "clean")]) == 0
    assert len(load_features(tmp_path / "clean" / "part-0.safetensors")) == 200
    assert main(["score", str(place / "in"), *words, "-o", str(tmp_path / "scores")]) == 0
    assert len(list((tmp_path / "scores").glob("*.safetensors"))) == SHARDS
    images = "builtin:shapes?seed=4&count=60"
    extract = ["extract", "builtin:clean", "--images", images, "--shard-rows", "25", "--offline"]
    assert main([*extract, "-o", str(tmp_path / "here")]) == 0
    assert main([*extract, "-o", str(tmp_path / "there"), "--executor", "ray", "--actors", "2"]) == 0
    here, there = ((tmp_path / name / MANIFEST).read_bytes() for name in ("here", "there"))
    assert here == there
    assert b'"rows": 10' in here


def test_many_audits(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickled model and one that is not there, each in a process on some node."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad").mkdir()
    clean = ROOT / "examples" / "encoders" / "clean"
    (tmp_path / "bad" / "config.json").write_bytes((clean / "config.json").read_bytes())
    (tmp_path / "bad" / "model.safetensors").write_bytes(b"\x80\x04pickle")
    (tmp_path / "m.toml").write_text(
        "suspects = ['./bad', './absent']\n[audit]\nimages = 'builtin:shapes?seed=1&count=600'\n"
        "references = ['builtin:reference-vit', 'builtin:reference-cnx']\n"
    )
    assert main(["audit-many", "m.toml", "-o", "out", "--executor", "ray"]) == 5
    names = {path.name.split(".", 1)[1] for path in (tmp_path / "out").glob("*bad*")}
    assert names >= {"json", "log", "run.json"}
