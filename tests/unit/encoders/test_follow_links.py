"""``--follow-links``: folders of links to files elsewhere, as DVC and Nix lay them out."""

import shutil
from pathlib import Path

import pytest
import torch

from platodef_cli.encoders.checks.preflight import preflight
from platodef_cli.encoders.load import load_tower, open_encoder
from platodef_cli.encoders.reference import parse
from platodef_cli.encoders.resolve import ResolvedModel, examine, resolve
from platodef_cli.errors import RefusedError
from tests.contract import encoder_models as make
from tests.unit.cli.calls import command


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder in an ordinary folder."""
    folder = tmp_path_factory.mktemp("plain") / "model"
    make.timm_model(folder)
    return folder


def linked(plain: Path, parent: Path) -> Path:
    """Return a folder whose files are links into a store, through another link."""
    (parent / "store").mkdir()
    folder = parent / "model"
    folder.mkdir()
    for number, file in enumerate(sorted(plain.iterdir())):
        shutil.copy(file, parent / "store" / str(number))
        (parent / "store" / f"{number}-link").symlink_to(str(number))
        (folder / file.name).symlink_to(f"../store/{number}-link")
    return folder


def test_links_are_refused_unless_the_user_vouches_for_them(plain: Path, tmp_path: Path) -> None:
    folder = linked(plain, tmp_path)
    with pytest.raises(RefusedError, match="give --follow-links if the links are yours"):
        preflight(folder)
    followed, own = preflight(folder, follow_links=True), preflight(plain)
    assert (followed.files, followed.digest) == (own.files, own.digest)
    assert followed.not_examined == own.not_examined


@pytest.mark.parametrize("isolate", [False, True])
def test_features_are_those_of_the_files(isolate: bool, plain: Path, tmp_path: Path) -> None:
    folder = linked(plain, tmp_path)
    with (
        open_encoder(str(plain)) as expected,
        open_encoder(str(folder), follow_links=True, isolate=isolate) as encoder,
    ):
        pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        assert torch.equal(encoder.embed(pixels), expected.embed(pixels))


@pytest.mark.parametrize(
    ("name", "target", "message"),
    [
        ("config.json", "/dev/zero", "not a regular file"),
        ("README.md", "nowhere", "a link to nothing"),
        ("model.safetensors", "../pickle", "cannot|header|safetensors"),
    ],
)
def test_what_a_link_leads_to_is_checked_as_any_file(
    name: str, target: str, message: str, plain: Path, tmp_path: Path
) -> None:
    folder = linked(plain, tmp_path)
    (tmp_path / "pickle").write_bytes(b"\x80\x04" + bytes(100))
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(target)
    with pytest.raises(RefusedError, match=message):
        preflight(folder, follow_links=True)


def test_a_link_that_is_turned_elsewhere_after_the_check_is_refused(plain: Path, tmp_path: Path) -> None:
    folder = linked(plain, tmp_path)
    checked = preflight(folder, follow_links=True)
    other = bytearray((folder / "model.safetensors").read_bytes())
    other[-1] ^= 1
    (tmp_path / "other").write_bytes(other)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../other")
    with pytest.raises(RefusedError, match="changed between check and load"):
        load_tower(checked, torch.device("cpu"), torch.float32)


def test_the_cache_of_the_hub_is_no_folder_of_the_user(plain: Path, tmp_path: Path) -> None:
    folder = linked(plain, tmp_path)
    assert examine(resolve(parse(str(folder))), follow_links=True).follow_links
    downloaded = ResolvedModel("org/name", folder, "a" * 40, tuple(entry.name for entry in folder.iterdir()))
    with pytest.raises(RefusedError, match="a link out of the model folder"):
        examine(downloaded, follow_links=True)


def test_the_command(plain: Path, tmp_path: Path) -> None:
    folder = str(linked(plain, tmp_path))
    refused = command("preflight", folder)
    assert (refused.code, "--follow-links" in refused.err) == (5, True)
    assert command("preflight", folder, "--follow-links").code == 0
