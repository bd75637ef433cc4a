"""Scoring and purifying shard by shard: what one file gives in memory, and a folder that grows."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from platodef_cli.defences import make_purifier, purify_flagged
from platodef_cli.defences.alarm import calibrated
from platodef_cli.defences.calibrate import conformal_pvalues
from platodef_cli.defences.interface import PurifyOptions
from platodef_cli.errors import IncompleteError, UsageError
from platodef_cli.features.file import load_features, save_features
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.features.stream import FeatureFile
from platodef_cli.heads.card import HeadCard
from platodef_cli.heads.heads import Heads
from platodef_cli.heads.origin import encoder_records
from platodef_cli.heads.pretrained import save_heads
from platodef_cli.jobs.cleaning import Judging, Purifying, Scoring, feature_pieces
from platodef_cli.jobs.follow import follow
from platodef_cli.jobs.pieces import MANIFEST, Folder, InProcess, Result
from tests.gaussian_tuples import GaussianTuples


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory, small_heads: Heads, gaussian: GaussianTuples) -> Path:
    folder = tmp_path_factory.mktemp("heads") / "head"
    source, references = encoder_records(gaussian.sample(10, seed=1), "nowhere")
    save_heads(
        folder, small_heads, card=HeadCard(name="h", source=source, references=references, trained_on="x")
    )
    return folder


@pytest.fixture
def shards(tmp_path: Path, gaussian: GaussianTuples) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        save_features(folder / f"part-{number}.safetensors", mixed(gaussian, number))
    return folder


def mixed(gaussian: GaussianTuples, seed: int, rows: int = 60) -> FeatureTuples:
    clean = gaussian.sample(rows, seed=20 + seed)
    source = clean.source.clone()
    source[::4] = 4 * source.roll(1, 0)[::4]
    ids = tuple(f"{seed}/{row}" for row in range(rows))
    return FeatureTuples(source, clean.references, ids=ids, metadata={"images": "made"})


def run(work: Scoring | Purifying, source: Path, out: Path) -> Result:
    paths = sorted(source.glob("*.safetensors"))
    with Folder(out) as folder:
        result = folder.run(work, feature_pieces(paths), InProcess())
    result.check()
    return result


@pytest.mark.parametrize("method", ["mean", "heun"])
def test_a_shard_is_what_memory_gives(
    head: Path, shards: Path, small_heads: Heads, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = PurifyOptions(steps=2)
    work = Purifying(Judging(str(head), "platonic"), method, options=options)
    result = run(work, shards, shards.parent / "out")
    alarm = calibrated("platonic", small_heads, None, 0.05, 0)
    flagged = 0
    for path in sorted(shards.iterdir()):
        tuples, cleaned = load_features(path), load_features(shards.parent / "out" / path.name)
        flags = alarm.detector.score(tuples) > alarm.threshold
        generator = torch.Generator().manual_seed(0)
        wanted = purify_flagged(
            make_purifier(method, small_heads, options), tuples, flags, generator=generator
        )
        torch.testing.assert_close(cleaned.source, wanted)
        assert cleaned.ids == tuples.ids
        assert torch.equal(cleaned.references["left"], tuples.references["left"])
        flagged += int(flags.sum())
    assert result.total("flagged") == flagged > 0
    # blocks of rows inside of a file change nothing where nothing is drawn
    if method == "mean":
        whole = FeatureFile.blocks
        monkeypatch.setattr(FeatureFile, "blocks", lambda self, rows=7: whole(self, 7))
        run(work, shards, shards.parent / "cut")
        for path in shards.iterdir():
            first, second = (load_features(shards.parent / name / path.name) for name in ("out", "cut"))
            torch.testing.assert_close(first.source, second.source, rtol=1e-5, atol=1e-5)


def test_scores(head: Path, shards: Path, small_heads: Heads) -> None:
    run(Scoring(Judging(str(head), "energy")), shards, shards.parent / "out")
    alarm = calibrated("energy", small_heads, None, 0.05, 0)
    for path in shards.iterdir():
        tuples = load_features(path)
        with safe_open(shards.parent / "out" / path.name, framework="pt") as file:
            scores = alarm.detector.score(tuples)
            torch.testing.assert_close(file.get_tensor("score"), scores)
            torch.testing.assert_close(file.get_tensor("p_value"), conformal_pvalues(alarm.clean, scores))
            assert file.get_tensor("flagged").bool().tolist() == (scores > alarm.threshold).tolist()
            assert len(file.get_tensor("image"))


def test_the_manifest_depends_on_contents_alone(head: Path, shards: Path) -> None:
    work = Purifying(Judging(str(head), "platonic"), "mean")
    for name in ("one", "two"):
        run(work, shards, shards.parent / name)
    one, two = ((shards.parent / name / MANIFEST).read_bytes() for name in ("one", "two"))
    assert one == two
    assert str(shards.parent).encode() not in one


class World:
    """A folder that grows while it is followed, in a time of its own."""

    def __init__(self, source: Path):
        self.source, self.now = source, 0.0
        self.events: dict[float, Callable[[], object]] = {}

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for when in [when for when in self.events if when <= self.now]:
            self.events.pop(when)()

    def follow(self, head: Path, out: Path, **options: object) -> Result:
        work = Purifying(Judging(str(head), "platonic"), "mean")
        told: list[int] = []
        with Folder(out) as folder:
            result = follow(
                self.source,
                folder,
                work,
                InProcess(),
                tell=lambda result: told.append(len(result.made)),
                sleep=self.sleep,
                clock=lambda: self.now,
                **options,  # type: ignore[arg-type]
            )
        self.told = told
        return result


def test_what_comes_is_cleaned_until_nothing_comes(
    head: Path, shards: Path, gaussian: GaussianTuples
) -> None:
    world = World(shards)
    late = shards / "part-9.safetensors"
    world.events = {20.0: lambda: save_features(late, mixed(gaussian, 9))}
    result = world.follow(head, shards.parent / "out", idle=30.0)
    assert [made.name for made in result.made] == [f"part-{n}.safetensors" for n in (0, 1, 2, 9)]
    assert world.told == [3, 4]
    assert 50 <= world.now <= 60
    result.check()
    assert world.follow(head, shards.parent / "out", idle=0.0).before == 4


def test_it_ends_when_it_is_told(head: Path, shards: Path) -> None:
    world = World(shards)
    world.events = {15.0: lambda: (shards / "_SUCCESS").touch()}
    assert len(world.follow(head, shards.parent / "out", until="_SUCCESS").made) == 3
    assert world.now == 15.0


def test_a_file_is_taken_when_it_is_complete(head: Path, shards: Path) -> None:
    world = World(shards)
    slow = shards / "part-0.safetensors"
    data = slow.read_bytes()
    slow.write_bytes(data[: len(data) // 2])
    (shards / "part-1.safetensors").write_bytes(b"")
    world.events = {20.0: lambda: slow.write_bytes(data)}
    result = world.follow(head, shards.parent / "out", idle=30.0)
    assert [made.name for made in result.made] == ["part-0.safetensors", "part-2.safetensors"]
    with pytest.raises(IncompleteError, match=r"part-1.safetensors: it is not complete"):
        result.check()


def test_a_broken_file_is_told_once_and_tried_again_when_it_changed(head: Path, shards: Path) -> None:
    world = World(shards)
    bad = shards / "part-0.safetensors"
    data = bad.read_bytes()
    bad.write_bytes(b"\xff" * 4000)
    world.events = {20.0: lambda: bad.write_bytes(data)}
    result = world.follow(head, shards.parent / "out", idle=30.0)
    assert len(result.made) == 3
    assert world.told == [2, 3]
    result.check()
    bad.write_bytes(b"\xff" * 4000)
    with pytest.raises(UsageError, match=r"part-0.safetensors"):
        world.follow(head, shards.parent / "out", idle=0.0).check()


def test_what_changed_is_cleaned_again(head: Path, shards: Path, gaussian: GaussianTuples) -> None:
    world = World(shards)
    changed = shards / "part-1.safetensors"
    world.events = {20.0: lambda: save_features(changed, mixed(gaussian, 7, rows=30))}
    result = world.follow(head, shards.parent / "out", idle=30.0)
    assert [made.counts["rows"] for made in result.made] == [60, 30, 60]
    assert len(load_features(shards.parent / "out" / changed.name)) == 30
