"""A tar that was not downloaded to its end is an error, not a smaller set of images."""

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from platodef_cli.errors import UsageError
from platodef_cli.images.tar import TarSource, members_of


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "whole.tar"
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG")
    with tarfile.open(path, "w") as archive:
        for number in range(3):
            info = tarfile.TarInfo(f"{number}.png")
            info.size = len(stream.getvalue())
            archive.addfile(info, io.BytesIO(stream.getvalue()))
    return path


@pytest.mark.parametrize("size", [1024 + 1, 1024 + 300, 1024 + 511, 2048 + 512 + 10, 900])
def test_a_cut_tar_is_named(whole: Path, size: int) -> None:
    whole.write_bytes(whole.read_bytes()[:size])
    for read in (TarSource, members_of):
        with pytest.raises(
            UsageError, match="cannot read .* as tar: (it ends inside a header|unexpected end)"
        ):
            read(whole)


@pytest.mark.parametrize("size", [3 * 1024, 3 * 1024 + 512, 10240])
def test_a_tar_without_its_closing_zeros_is_whole(whole: Path, size: int) -> None:
    whole.write_bytes(whole.read_bytes()[:size])
    assert len(TarSource(whole).refs) == members_of(whole) == 3
