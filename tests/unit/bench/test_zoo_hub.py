"""A zoo laid out for a hub: cards, checksums, the same bytes each time."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from platodef_cli.bench.zoo.card import files_of, read_card
from platodef_cli.bench.zoo.hub.export import export
from platodef_cli.bench.zoo.hub.sums import check_path, read_sums, sums_text, whole
from platodef_cli.bench.zoo.manifest import open_zoo, read_manifest, write_manifest
from platodef_cli.errors import EXIT_PASS, EXIT_USAGE, IncompleteError, RefusedError, UsageError
from platodef_cli.triggers.stored import load_trigger


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.fixture(scope="session")
def exported(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "zoo"
    export(zoo, folder)
    return folder


@pytest.fixture
def copy(zoo: Path, tmp_path: Path) -> Path:
    shutil.copytree(zoo, tmp_path / "copy")
    return tmp_path / "copy"


def front(path: Path) -> dict:
    return yaml.safe_load(path.read_text().split("---")[1])


def test_the_command_says_what_it_laid_out(platodef: Callable, zoo: Path, tmp_path: Path) -> None:
    code, out, err = platodef("bench", "zoo", "export", "--format", "hub", zoo, "-o", tmp_path / "out")
    assert (code, out) == (EXIT_PASS, "")
    digest = hashlib.sha256((tmp_path / "out" / "SHA256SUMS").read_bytes()).hexdigest()
    assert "16 encoders, 10 of them backdoored" in err
    assert digest in err


def test_the_same_zoo_gives_the_same_bytes(zoo: Path, exported: Path, tmp_path: Path) -> None:
    export(zoo, tmp_path / "again")
    assert tree(tmp_path / "again") == tree(exported)


def test_checksums_hold_for_every_file_and_for_sha256sum(exported: Path) -> None:
    sums = read_sums(exported, "zoo")
    assert set(sums) == set(tree(exported)) - {"SHA256SUMS", ".gitattributes"}
    done = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=exported, check=False)
    assert done.returncode == 0


def test_cards_are_valid_for_the_hub_and_warn(exported: Path) -> None:
    from huggingface_hub import DatasetCard, ModelCard

    for kind in (ModelCard, DatasetCard):
        card = kind.load(exported / "README.md", ignore_metadata_errors=False)
        assert card.data.license == "apache-2.0"
        assert "backdoor" in card.data.tags
    text = (exported / "README.md").read_text()
    assert "10 of the 16 encoders here were trained to misbehave" in text
    for name, card in open_zoo(exported).cards.items():
        own = (exported / "encoders" / name / "README.md").read_text()
        assert front(exported / "encoders" / name / "README.md")["license"] == "apache-2.0"
        assert ("Deliberately backdoored" in own) == (card.truth == "backdoored")
        assert f"encoders/{name})" in text


def test_rows_are_a_table_that_datasets_reads(exported: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    rows = load_dataset(
        "json", data_files=str(exported / "encoders.jsonl"), split="train", cache_dir=str(tmp_path)
    )
    cards = open_zoo(exported).cards
    assert rows["name"] == list(cards)
    assert [truth == "backdoored" for truth in rows["truth"]] == [row is not None for row in rows["attack"]]


def test_an_exported_zoo_is_a_zoo(exported: Path, platodef: Callable) -> None:
    zoo = open_zoo(exported)
    for card in zoo.cards.values():
        assert files_of(zoo.folder(card.name)) == card.files
        if card.backdoor is not None:
            assert load_trigger(zoo.folder(card.name) / "trigger").name == card.backdoor.trigger
    code, out, _ = platodef("bench", "zoo", "ls", exported, "--json")
    assert code == EXIT_PASS
    assert len(json.loads(out)) == len(zoo.cards)


def test_an_interrupted_export_goes_on(zoo: Path, exported: Path, tmp_path: Path, monkeypatch) -> None:
    from platodef_cli.bench.zoo.hub import export as module

    real, copied = module.put, []

    def put(content: bytes | Path, target: Path, expected: str) -> bool:
        if len(copied) == 20:
            raise KeyboardInterrupt
        copied.append(target)
        return real(content, target, expected)

    monkeypatch.setattr(module, "put", put)
    with pytest.raises(KeyboardInterrupt):
        export(zoo, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    partial = tmp_path / ".out.part"
    before = {path: path.stat().st_ino for path in copied}
    copied[3].write_bytes(b"half")
    (partial / "encoders" / "stray").mkdir()
    (partial / "encoders" / "stray" / "model.bin").write_bytes(b"left by another zoo")
    monkeypatch.setattr(module, "put", real)
    export(zoo, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(exported)
    assert not partial.exists()
    final = [tmp_path / "out" / path.relative_to(partial) for path in copied]
    kept = [before[old] == new.stat().st_ino for old, new in zip(copied, final, strict=True)]
    assert kept == [number != 3 for number in range(20)]


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        whole(tmp_path / "out", frozenset()),
        pytest.raises(UsageError, match="another run"),
        whole(tmp_path / "out", frozenset()),
    ):
        pass


def test_what_is_in_the_folder_is_never_overwritten(zoo: Path, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.md").write_text("years of work")
    with pytest.raises(UsageError, match="not empty"):
        export(zoo, tmp_path / "out")
    assert tree(tmp_path / "out") == {"thesis.md": b"years of work"}
    shutil.copytree(exported, tmp_path / "same")
    assert export(zoo, tmp_path / "same").written is False
    (tmp_path / "same" / "encoders" / "clip" / "card.json").write_text("{}")
    with pytest.raises(UsageError, match="clip/card.json was changed"):
        export(zoo, tmp_path / "same")


def test_a_changed_encoder_is_not_published(copy: Path, tmp_path: Path) -> None:
    (copy / "encoders" / "resnet" / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(UsageError, match="other files than its card"):
        export(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_paths_of_this_machine_are_left_out(copy: Path, tmp_path: Path) -> None:
    from platodef_cli.bench.zoo.card import write_card

    private = "/home/somebody/my secret data/train.parquet"
    manifest = read_manifest(copy)
    write_manifest(copy, manifest.model_copy(update={"images": private}))
    for name, card in open_zoo(copy).cards.items():
        command = f"platodef bench zoo build --images '{private}'"
        write_card(copy / "encoders" / name, card.model_copy(update={"images": private, "command": command}))
    with pytest.raises(UsageError, match="--license"):
        export(copy, tmp_path / "out")
    export(copy, tmp_path / "out", licence="MyOwn-1.0")
    for path, data in tree(tmp_path / "out").items():
        assert b"somebody" not in data, path
        assert b"secret" not in data, path
    assert read_card(tmp_path / "out" / "encoders" / "clip").images == "train.parquet"
    assert front(tmp_path / "out" / "README.md")["license"] == "other"
    assert front(tmp_path / "out" / "README.md")["license_name"] == "myown-1.0"


def test_a_full_disk_leaves_no_zoo(zoo: Path, tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("platodef_cli.bench.zoo.hub.sums.shutil.copyfile", full)
    with pytest.raises(IncompleteError, match="No space left"):
        export(zoo, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [("--format", "zip"), ("--license", "no licence; at all"), ("--license", "")],
)
def test_wrong_options_change_nothing(
    platodef: Callable, zoo: Path, tmp_path: Path, arguments: tuple[str, str]
) -> None:
    assert platodef("bench", "zoo", "export", zoo, "-o", tmp_path / "out", *arguments)[0] == EXIT_USAGE
    assert list(tmp_path.glob("*out*")) == []


@pytest.mark.parametrize(
    "path",
    [
        "../x.json",
        "/etc/x.json",
        "a/../../x.json",
        "a//x.json",
        ".git/config.json",
        "a\\x.json",
        "C:x.json",
        "aux.json",
        "a/con.json",
        "a./x.json",
        "x.json\n",
        "x.py",
        "pytorch_model.bin",
        "a/b/c/d/e.json",
        "",
        "x\u202e.json",
    ],
)
def test_unsafe_paths_are_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError):
        check_path(path, "zoo")
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  {path}\n")
    with pytest.raises(RefusedError):
        read_sums(tmp_path, "zoo")


@pytest.mark.parametrize("second", ["a.json", "A.json", "a.json/b.json"])
def test_one_file_twice_is_refused(second: str, tmp_path: Path) -> None:
    lines = [f"{'0' * 64}  {path}\n" for path in ("a.json", second)]
    (tmp_path / "SHA256SUMS").write_text("".join(lines))
    with pytest.raises(RefusedError, match="twice"):
        read_sums(tmp_path, "zoo")


def test_sums_come_back(tmp_path: Path) -> None:
    sums = {"b/a.json": "1" * 64, "a.md": "2" * 64}
    (tmp_path / "SHA256SUMS").write_text(sums_text(sums))
    assert read_sums(tmp_path, "zoo") == sums
