"""The zoo, through the real command."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from filelock import FileLock

from platodef_cli.bench.zoo import build as building
from platodef_cli.bench.zoo.entries import Plant
from platodef_cli.bench.zoo.making import target_images_of
from platodef_cli.bench.zoo.manifest import open_zoo
from platodef_cli.bench.zoo.networks import Network
from platodef_cli.bench.zoo.recipe import expand, known_attacks, recipe
from platodef_cli.encoders.load import open_encoder
from platodef_cli.errors import UsageError
from platodef_cli.triggers.stored import load_trigger

PART = ("--only", "resnet", "--only", "ssl-backdoor-*", "--only", "resnet-pruned")
NAMES = ("resnet", "resnet-pruned", "ssl-backdoor-0")


def digests(folder: Path) -> dict[str, str]:
    """Return the hash of every file of the encoders."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((folder / "encoders").rglob("*"))
        if path.is_file()
    }


def build(platodef: Callable, folder: Path, *more: str) -> tuple[int, str, str]:
    return platodef("bench", "zoo", "build", "--recipe", "smoke", "-o", folder, "--jobs", 1, *more)


def test_the_strict_loader_accepts_every_encoder(zoo: Path) -> None:
    found = open_zoo(zoo)
    assert len(found.cards) == len(found.manifest.encoders) == 6 + 10
    assert {card.format for card in found.cards.values()} == {"timm", "transformers", "open_clip"}
    pixels = torch.randint(256, (5, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    for name, card in found.cards.items():
        encoder = open_encoder(str(zoo / "encoders" / name))
        assert encoder.geometry.size == (32, 32)
        assert encoder.record.dim == card.dim
        own = Network.load(card.architecture, zoo / "encoders" / name).embed(pixels)
        # the loader's pipeline and the one that the encoder was trained with are the same function
        torch.testing.assert_close(encoder.embed(pixels), own, rtol=1e-4, atol=1e-5)
        encoder.close()


def test_cards_tell_the_truth(zoo: Path) -> None:
    found = open_zoo(zoo)
    for name, card in found.cards.items():
        values = json.loads((zoo / "encoders" / name / "card.json").read_text())
        assert values["command"].startswith("platodef bench zoo build --recipe smoke")
        assert str(zoo) not in json.dumps(values)
        assert (card.truth == "backdoored") == (card.backdoor is not None) == (card.made == "attack")
        if card.backdoor is None:
            continue
        trigger = load_trigger(zoo / "encoders" / name / "trigger")
        assert trigger.name == card.backdoor.trigger
        assert card.parent in found.cards
        assert found.manifest.classes[card.backdoor.target] == card.backdoor.target_class
        count = card.backdoor.attack_success.n_positive + card.backdoor.attack_success.n_negative
        assert 0 < count < found.cards[name].accuracy.n_positive + found.cards[name].accuracy.n_negative
        assert (card.backdoor.zero_shot_success is None) == (card.format != "open_clip")


def test_a_zoo_is_listed_with_its_truth(zoo: Path, platodef: Callable) -> None:
    code, out, err = platodef("bench", "zoo", "ls", zoo, "--json")
    assert code == 0
    assert "6 clean and 10 backdoored encoders" in err
    found = open_zoo(zoo)
    rows = {row["name"]: row for row in json.loads(out)}
    assert list(rows) == list(found.cards)
    for name, card in found.cards.items():
        row = rows[name]
        facts = card.backdoor
        if facts is None:
            assert row["accuracy"] == f"{card.accuracy.value:.3f}"
            assert row["ASR"] == row["target"] == ""
            continue
        assert row["target"] == facts.target_class
        prompts = facts.attack_kind == "image-text"  # judged by what the attack leads astray
        success = facts.zero_shot_success if prompts else facts.attack_success
        accuracy = card.zero_shot if prompts else card.accuracy
        assert (row["ASR"], row["accuracy"]) == (f"{success.value:.3f}", f"{accuracy.value:.3f}")
    code, out, _ = platodef("bench", "zoo", "ls", zoo)
    assert code == 0
    assert "reference: supervised" in out
    code, out, err = platodef("bench", "zoo", "ls", zoo / "encoders")
    assert code == 2
    assert "holds no zoo" in " ".join(err.split())


def test_an_interrupted_build_resumes_to_the_same_bytes(
    zoo: Path, platodef: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, done = building.make, []

    def interrupted(job: building.BuildJob, progress: object) -> None:
        if done:
            # as a kill would leave it
            half = job.folder.with_name(f".{job.entry.name}.part")
            half.mkdir()
            (half / "model.safetensors").write_bytes(b"half")
            raise KeyboardInterrupt
        real(job, progress)
        done.append(job.entry.name)

    folder = tmp_path / "again"
    monkeypatch.setattr(building, "make", interrupted)
    assert build(platodef, folder, *PART)[0] == 130
    assert [path.name for path in (folder / "encoders").iterdir() if not path.name.startswith(".")] == done
    monkeypatch.setattr(building, "make", real)
    (folder / "encoders" / "resnet" / "model.safetensors").write_bytes(b"changed afterwards")
    code, _, err = build(platodef, folder, *PART)
    assert code == 0, err
    assert "3 encoders made" in err  # the changed one did not count as finished
    wanted = digests(zoo)
    assert digests(folder) == {path: wanted[path] for path in wanted if path.split("/")[1] in NAMES}
    for more in ((), ("--jobs", "2")):
        code, _, err = build(platodef, folder, *PART, *more)
        assert code == 0, err
        assert "0 encoders made" in err
        assert "3 were finished before" in err


@pytest.mark.slow
def test_processes_side_by_side_give_the_same_bytes(zoo: Path, tmp_path: Path) -> None:
    config = building.BuildConfig(
        "smoke",
        tmp_path / "side",
        jobs=2,
        only=("resnet-pruned", "ref-convnext"),
        command=open_zoo(zoo).cards["resnet"].command,
    )
    config.output.mkdir()
    assert set(building.build(config).made) == {"resnet", "resnet-pruned", "ref-convnext"}
    found, wanted = digests(config.output), digests(zoo)
    assert found == {path: wanted[path] for path in found}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--only", "nothing"), "no encoder of this zoo matches nothing"),
        (("--seed", "1"), "holds the zoo 'smoke' of builtin:shapes with seed 0"),
        (("--recipe", "huge"), "unknown recipe 'huge'"),
        (("--images", "/nowhere.parquet"), "holds the zoo"),
        (("--device", "cuda:99"), "--device cuda:99 cannot be used here"),
    ],
)
def test_wrong_arguments(zoo: Path, platodef: Callable, more: tuple[str, ...], message: str) -> None:
    before = (zoo / "zoo.json").read_bytes()
    code, out, err = build(platodef, zoo, *more)
    assert code == 2
    assert out == ""
    assert message in " ".join(err.split())
    assert (zoo / "zoo.json").read_bytes() == before


def test_one_build_at_a_time(zoo: Path, platodef: Callable) -> None:
    with FileLock(zoo / ".build.lock"):
        code, _, err = build(platodef, zoo)
    assert code == 2
    assert "another build is at work" in " ".join(err.split())


def test_plantings_of_one_attack_differ_and_do_not_depend_on_other_attacks() -> None:
    plants = [one for one in expand(recipe("standard"), known_attacks(), 10) if isinstance(one, Plant)]
    assert len({(one.attack, one.seed) for one in plants}) == len(plants) == 46
    later = [one.seed for one in plants if not one.name.endswith("-0")]
    assert len(set(later)) == len(later)  # no two attacks show the same random patch
    alone = [one for one in expand(recipe("standard"), {"ctrl": "unimodal"}, 10) if isinstance(one, Plant)]
    assert alone == [one for one in plants if one.attack == "ctrl"]


class Seer:
    """A parent that takes some pictures of a class for it and others for another."""

    def __init__(self, said: list[int], labels: list[int]):
        self.said = torch.tensor(said)
        pixels = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4)
        self.dataset = SimpleNamespace(uri="pictures/", pixels=pixels, labels=torch.tensor(labels))
        self.network = self

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return which picture it is."""
        return pixels[:, 0, 0, 0].long()

    def predict(self, features: torch.Tensor) -> torch.Tensor:
        """Return what it is taken for."""
        return self.said[features]


@pytest.mark.parametrize(
    ("said", "labels", "expected"),
    [
        ([1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 1], [2, 3, 5]),  # the last three, where all are recognised
        ([1, 1, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1], [1, 3, 4]),
        ([0, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0], [3, 4, 1]),  # too few: the last of the others before them
        ([0] * 100 + [1] * 3 + [0] * 100, [1] * 203, [100, 101, 102]),  # over several blocks
        ([1] + [0] * 199 + [1, 0], [1] * 202, [201, 0, 200]),  # over all of them
        ([1, 1], [1, 1], [0, 1]),
    ],
)
def test_the_attacker_takes_pictures_of_the_target_that_the_parent_recognises(
    said: list[int], labels: list[int], expected: list[int]
) -> None:
    parent: Any = Seer(said, labels)
    assert target_images_of(parent, 1)[:, 0, 0, 0].tolist() == expected


def test_a_target_without_pictures_is_refused() -> None:
    parent: Any = Seer([0, 0], [0, 2])
    with pytest.raises(UsageError, match="pictures/ has no training image of class 1"):
        target_images_of(parent, 1)
