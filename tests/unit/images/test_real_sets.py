"""Image sets as people have them: wrapped folders, tables of other programs, shards in folders, pointers."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from platodef_cli.errors import IncompleteError, UsageError
from platodef_cli.images.columns import Columns
from platodef_cli.images.interface import ImageSource
from platodef_cli.images.open import open_source

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n"


def png(seed: int) -> bytes:
    """Return an encoded picture."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def folder(root: Path, names: Sequence[str], more: Mapping[str, bytes | str] | None = None) -> Path:
    """Write pictures of these names, and other files."""
    files: dict[str, bytes | str] = {name: png(seed) for seed, name in enumerate(names)}
    for name, content in {**files, **(more or {})}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def opened(path: Path, columns: Columns | None = None) -> tuple[ImageSource, list[str]]:
    """Return a source and what it tells the user."""
    said: list[str] = []
    return open_source(str(path), warn=said.append, columns=columns), said


def labels(source: ImageSource) -> list[int | None]:
    """Return the label of every image."""
    return [ref.label for ref in source.refs]


SIX = [f"{number}.png" for number in range(6)]
ROWS = [(name, number % 2) for number, name in enumerate(SIX)]


@pytest.mark.parametrize("around", ["", "images/", "train/", "a/b/"])
def test_class_folders_inside_other_folders(around: str, tmp_path: Path) -> None:
    names = [f"{around}{kind}/{number}.png" for kind in ("cat", "dog") for number in range(3)]
    source, said = opened(folder(tmp_path, names))
    assert source.classes == ("cat", "dog")
    assert labels(source) == [0, 0, 0, 1, 1, 1]
    assert [ref.id for ref in source.refs] == names
    assert not said


def test_splits_inside_another_folder_are_named(tmp_path: Path) -> None:
    names = [f"set/{split}/{kind}/0.png" for split in ("train", "val") for kind in ("cat", "dog")]
    with pytest.raises(UsageError, match="are splits .train, val., not classes; give one .*set/train"):
        opened(folder(tmp_path, names))


@pytest.mark.parametrize(
    "content",
    [
        "file_name,label\n" + "".join(f"{name},{label}\n" for name, label in ROWS),
        "file_name;label\n" + "".join(f"{name};{label}\n" for name, label in ROWS),
        "file_name\tlabel\n" + "".join(f"{name}\t{label}.0\n" for name, label in ROWS),
        "\ufefffile_name,Label\r\n" + "".join(f"./{name},{label}\r\n" for name, label in ROWS),
    ],
)
def test_tables_of_other_programs(content: str, tmp_path: Path) -> None:
    source, said = opened(folder(tmp_path, SIX, {"metadata.csv": content}))
    assert labels(source) == [0, 1, 0, 1, 0, 1]
    assert not said


def test_paths_of_windows_and_tables_in_inner_folders(tmp_path: Path) -> None:
    inner = [f"img/{name}" for name in SIX]
    windows = "file_name,label\n" + "".join(f"img\\{name},{label}\n" for name, label in ROWS)
    assert labels(opened(folder(tmp_path / "a", inner, {"metadata.csv": windows}))[0]) == [0, 1] * 3
    lines = "\n".join(json.dumps({"file_name": name, "label": label}) for name, label in ROWS)
    deep = folder(tmp_path / "b", [f"x/y/{name}" for name in SIX], {"x/y/metadata.jsonl": lines})
    assert labels(opened(deep)[0]) == [0, 1] * 3


def test_a_table_of_parquet_beside_images(tmp_path: Path) -> None:
    root = folder(tmp_path, SIX)
    table = {"file_name": SIX, "label": [label for _, label in ROWS], "boxes": [[1]] * 6}
    pq.write_table(pa.table(table), root / "metadata.parquet")
    assert labels(opened(root)[0]) == [0, 1] * 3
    (root / "metadata.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match="metadata.parquet cannot be read"):
        opened(root)


@pytest.mark.parametrize(
    ("cells", "word"),
    [
        ([f"{number / 7}" for number in range(6)], "numbers such as 0.142857, not classes"),
        ([""] * 6, None),
        (["a", "", "a", "", "a", "a"], "2 of its 6 labels are missing"),
    ],
)
def test_labels_of_a_table_that_are_no_classes(cells: list[str], word: str | None, tmp_path: Path) -> None:
    rows = "".join(f"{name},{cell}\n" for name, cell in zip(SIX, cells, strict=True))
    source, said = opened(folder(tmp_path, SIX, {"metadata.csv": f"file_name,label\n{rows}"}))
    assert source.classes is None
    assert (word is None and not said) or (word is not None and word in said[0])


def test_formats_that_are_not_read_are_counted(tmp_path: Path) -> None:
    root = folder(tmp_path, ["a.png"], {"b.heic": b"x", "c.HEIC": b"x", "d.jp2": b"x", "readme.md": b"x"})
    said = opened(root)[1]
    assert said == [f"{root}: 3 .heic/.jp2 files, which are not read; convert them, e.g. to PNG"]
    (root / "a.png").unlink()
    with pytest.raises(UsageError, match=r"holds no image .4 other files: 3 \.heic/\.jp2 files"):
        opened(root)


def test_pointers_and_pages_in_place_of_images(tmp_path: Path) -> None:
    source, _ = opened(folder(tmp_path, ["a.png"], {"b.png": POINTER, "c.jpg": b"<!DOCTYPE html>"}))
    for index, reason in (
        (1, "it is a Git LFS pointer, not the file itself; run `git lfs pull`"),
        (2, "a web page"),
    ):
        with pytest.raises(UsageError, match=reason):
            source.open(index)
    for name, content, word in (
        ("x.parquet", POINTER, "a Git LFS pointer"),
        ("x.tar", b"<html>", "a web page"),
        ("y.tar", b"\x1f\x8b\x08" + bytes(50), "compressed .gzip.; unpack it first"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(IncompleteError, match=word):
            opened(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("x.zip", "packed .unpack it first"),
        ("x.png", "one image .give its folder"),
        ("x.arrow", "write the encoded images into a parquet file"),
        ("*.tar", "patterns are not expanded: give the folder of the shards"),
    ],
)
def test_sources_of_other_kinds_say_what_to_do(name: str, word: str, tmp_path: Path) -> None:
    if "*" not in name:
        (tmp_path / name).write_bytes(png(0))
    with pytest.raises(UsageError, match=word):
        opened(tmp_path / name)


def shard(path: Path, **columns: Any) -> Path:
    """Write a parquet file of four pictures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": png(seed), "path": None} for seed in range(4)]
    pq.write_table(pa.table({"image": images, **columns}), path)
    return path


def test_shards_in_the_folders_of_a_repository(tmp_path: Path) -> None:
    for number in range(2):
        shard(tmp_path / f"data/train-0000{number}-of-00002.parquet", label=[0, 1, 0, 1])
    (tmp_path / "README.md").write_text("x")
    source, said = opened(tmp_path)
    assert labels(source) == [0, 1] * 4
    assert source.refs[4].id == "data/train-00001-of-00002.parquet/row-000000"
    assert source.open(7).size == (5, 6)
    assert not said
    shard(tmp_path / "data/test-00000-of-00001.parquet", label=[0, 1, 0, 1])
    assert "takes the images of all its splits (test, train); give a folder of one" in opened(tmp_path)[1][0]


def test_what_shards_say_is_told(tmp_path: Path) -> None:
    for number in range(5):
        shard(tmp_path / f"{number}.parquet", label=[[0], [1], [0], [1]])
    source, said = opened(tmp_path)
    assert source.classes is None
    assert len(said) == 4
    assert said[0] == "0.parquet: its labels are lists, not one class per image; they are not used"
    assert said[3] == "2 more shards say so"


def test_columns_in_capitals_and_views_of_bytes(tmp_path: Path) -> None:
    views = pa.array([png(seed) for seed in range(4)], pa.binary_view())
    pq.write_table(pa.table({"Image": views, "Label": ["a", "b", "a", "b"]}), tmp_path / "a.parquet")
    source, _ = opened(tmp_path / "a.parquet")
    assert labels(source) == [0, 1, 0, 1]
    assert source.open(0).mode == "RGB"


def test_dates_are_no_classes(tmp_path: Path) -> None:
    import datetime

    said = opened(shard(tmp_path / "a.parquet", label=[datetime.date(2020, 1, 1)] * 4))[1]
    assert said == ["a.parquet: its labels are of the type date, not classes; they are not used"]


@pytest.mark.parametrize(
    ("end", "content", "expected"),
    [
        ("cls", b"%d", [0, 1, 0, 1]),
        ("CLS", b"%d\n", [0, 1, 0, 1]),
        ("cls.txt", b"%d", [0, 1, 0, 1]),
        ("cls", b"%d.0", [0, 1, 0, 1]),
        ("cls", b"\x80\x04K%d.", [None] * 4),
    ],
)
@pytest.mark.parametrize("before", ["", "./", "./shard.1/"])
def test_keys_of_tars(
    end: str, content: bytes, expected: list[int | None], before: str, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number in range(4):
            for name, data in ((f"{number}.png", png(number)), (f"{number}.{end}", content % (number % 2))):
                member = tarfile.TarInfo(before + name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    assert labels(opened(tmp_path / "a.tar")[0]) == expected
