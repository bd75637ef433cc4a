"""Ids of encoders."""

import re
from pathlib import Path

import pytest

from platodef_cli.encoders import reference
from platodef_cli.encoders.reference import DEFAULT_REFERENCES, parse
from platodef_cli.encoders.resolve import resolve
from platodef_cli.errors import UnknownNameError, UsageError
from tests.unit.encoders.folders import folder


@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two embedded encoders and a stray folder."""
    root = tmp_path / "embedded"
    for name in ("clean", "backdoored"):
        folder(root / name)
    (root / "notes").mkdir()
    monkeypatch.setattr(reference, "data_dir", lambda name: root)
    return root


@pytest.mark.parametrize(
    ("uri", "revision", "repository", "wanted", "pinned"),
    [
        ("org/name", None, "org/name", None, "org/name"),
        ("org/name@v1.2", None, "org/name", "v1.2", "org/name@v1.2"),
        ("hf://org/name@refs/pr/3", None, "org/name", "refs/pr/3", "org/name@refs/pr/3"),
        ("hf://org/name", "main", "org/name", "main", "org/name@main"),
        ("org/na.me_x-y", "a" * 40, "org/na.me_x-y", "a" * 40, f"org/na.me_x-y@{'a' * 40}"),
    ],
)
def test_hub_ids(uri: str, revision: str | None, repository: str, wanted: str | None, pinned: str) -> None:
    parsed = parse(uri, revision)
    assert (parsed.repository, parsed.revision, parsed.uri) == (repository, wanted, pinned)
    assert parsed.directory is None
    assert parsed.short_name == repository.partition("/")[2]


def test_a_folder_wins_over_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path / "org" / "name")
    monkeypatch.chdir(tmp_path)
    parsed = parse("org/name")
    assert parsed.directory == tmp_path / "org" / "name"
    assert parsed.repository is None
    assert parsed.short_name == "name"
    assert parse("hf://org/name").repository == "org/name"
    assert resolve(parsed).files == ("config.json", "model.safetensors")
    assert resolve(parsed).commit is None


@pytest.mark.parametrize(
    ("uri", "revision", "message"),
    [
        ("", None, "empty"),
        (" org/name", None, "stray spaces"),
        ("org/name\0", None, "empty or has"),
        ("name", None, "neither an existing folder nor a Hub id"),
        ("a/b/../c", None, "neither"),
        ("org/..", None, "neither"),
        ("../x/y", None, "does not exist"),
        ("/no/such/folder", None, "does not exist"),
        ("~/no-such-folder-anywhere", None, "does not exist"),
        ("org/na me", None, "neither"),
        ("https://huggingface.co/org/name", None, "write 'org/name'$"),
        ("https://huggingface.co/org/name/tree/v1", None, "write 'org/name@v1'$"),
        ("https://huggingface.co/org/name/", None, "write 'org/name'$"),
        ("https://huggingface.co/org/name/tree/main/sub/dir", None, "write 'org/name/sub/dir@main'$"),
        ("https://huggingface.co/org/name/blob/v1/config.json", None, "write 'org/name@v1'$"),
        ("https://hf.co/org/name/resolve/v1/sub/model.bin?x=1", None, "write 'org/name/sub@v1'$"),
        ("huggingface.co/org/name", None, "write 'org/name'$"),
        ("hf-mirror.com/org/name/tree/v1", None, "write 'org/name@v1'$"),
        ("https://huggingface.co/datasets/org/name", None, "no model but one of the Hub's datasets"),
        ("hf://spaces/org/name", None, "no model but one of the Hub's spaces"),
        ("models/org/name", None, "write it without 'models/', as in 'org/name'"),
        ("https://example.com/model.zip", None, "not read from this kind of address"),
        ("local-dir:models/x", None, "write a folder without 'local-dir:', as in 'models/x'"),
        ("hf-hub:org/name", None, "write org/name without 'hf-hub:', as in 'org/name'"),
        ("hf:org/name", None, "as in 'org/name'"),
        (
            "timm:vit_tiny",
            None,
            r"names of timm say nothing .* as 'timm/resnet50.*search there for 'timm/vit_tiny'",
        ),
        ("open_clip:ViT-B-32", None, "names of open_clip say nothing of the weights; .* as 'laion/CLIP-ViT"),
        ("file:///data/my%20model", None, "write the folder as a plain path, as in '/data/my model'"),
        ("file://localhost/data/x", None, "as in '/data/x'"),
        ("file:models/x", None, "as in 'models/x'"),
        ("gpt2", None, r"models\?search=gpt2 and write it as org/gpt2$"),
        ("hf://resnet50@main", None, r"which has two parts: .*search=resnet50 "),
        ("org/name:main", None, "a revision follows an @, as in 'org/name@main'"),
        ("features.npy", None, "an array of features, not a model"),
        ("model.onnx", None, "onnx models are not supported"),
        ("checkpoint.pth", None, r"platodef convert checkpoint\.pth --architecture timm/NAME -o FOLDER"),
        ("org/name@", None, "not a branch"),
        ("org/name@a..b", None, "not a branch"),
        ("org/name@-x", None, "not a branch"),
        ("org/name", "x y", "not a branch"),
        ("org/name@v1", "v1", "give only one"),
        ("org/name@v1", "v2", "give only one"),
        ("x" * 5000, None, "neither"),
    ],
)
def test_nonsense(uri: str, revision: str | None, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse(uri, revision)
    assert "\n" not in str(caught.value)


def test_a_folder_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no revisions"):
        parse(str(folder(tmp_path / "model")), "main")


def test_embedded_encoders(embedded: Path) -> None:
    parsed = parse("builtin:clean")
    assert parsed.directory == embedded / "clean"
    assert parsed.uri == "builtin:clean"
    with pytest.raises(UnknownNameError, match=r"did you mean 'clean'\?\).* backdoored, clean$"):
        parse("builtin:cleen")
    with pytest.raises(UnknownNameError, match="choose one of: backdoored, clean"):
        parse("builtin:../embedded/clean")
    with pytest.raises(UsageError, match="no revisions"):
        parse("builtin:clean", "main")


def test_default_references_are_pinned_by_full_commit() -> None:
    for uri in DEFAULT_REFERENCES:
        assert re.fullmatch(r"[0-9a-f]{40}", parse(uri).revision or "")


def test_a_folder_of_a_repository() -> None:
    parsed = parse("org/name/sub/folder@v1")
    assert (parsed.repository, parsed.subfolder, parsed.revision) == ("org/name", "sub/folder", "v1")
    assert (parsed.short_name, parsed.uri) == ("folder", "org/name/sub/folder@v1")
    assert parsed.at("c" * 40) == f"org/name/sub/folder@{'c' * 40}"
    assert parse("org/name").at("c" * 40) == f"org/name@{'c' * 40}"


@pytest.mark.parametrize("name", ["weights.pth", "model.bin", "notes.txt"])
def test_a_file_is_no_model(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(
        UsageError, match="platodef convert" if "txt" not in name else "is a file; give the folder"
    ):
        parse(str(tmp_path / name))
