"""Tables that others wrote: their columns, labels, shards and archives; and links in folders."""

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from platodef_cli.errors import UsageError
from platodef_cli.images.columns import Columns
from platodef_cli.images.open import open_source


def picture(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 9, 3), dtype=np.uint8)).save(
        stream, "PNG"
    )
    return stream.getvalue()


def table(path: Path, image: str = "image", first: int = 0, **columns: list[Any]) -> Path:
    count = len(next(iter(columns.values()), [0] * 4))
    cells = [{"bytes": picture(first + n), "path": None} for n in range(count)]
    pq.write_table(pa.table({image: cells, **columns}), path)
    return path


@pytest.mark.parametrize("image", ["image", "img", "jpg", "png"])
@pytest.mark.parametrize("label", ["label", "fine_label", "cls", "target"])
def test_usual_names(image: str, label: str, tmp_path: Path) -> None:
    source = open_source(str(table(tmp_path / "a.parquet", image, **{label: [1, 0, 1, 2]})))
    assert [ref.label for ref in source.refs] == [1, 0, 1, 2]


def test_columns_that_the_user_names(tmp_path: Path) -> None:
    path = str(table(tmp_path / "a.parquet", "photo", fine_label=[0, 1, 2, 3], coarse_label=[0, 0, 1, 1]))
    with pytest.raises(UsageError, match="no column of images.*photo.*--image-column"):
        open_source(path)
    source = open_source(path, columns=Columns(image="photo"))
    assert [ref.label for ref in source.refs] == [0, 1, 2, 3]
    source = open_source(path, columns=Columns("photo", "coarse_label"))
    assert [ref.label for ref in source.refs] == [0, 0, 1, 1]
    with pytest.raises(UsageError, match="has no column 'kind'"):
        open_source(path, columns=Columns("photo", "kind"))
    bare = open_source(path, columns=Columns("photo", labels=False))
    assert bare.classes is None
    assert {ref.label for ref in bare.refs} == {None}
    assert bare.open(0).size == (9, 8)


@pytest.mark.parametrize(
    ("labels", "expected", "word"),
    [
        ([1.0, 0.0, 1.0, 2.0], [1, 0, 1, 2], None),
        ([0.5, 0.1, 0.2, 0.3], None, "numbers such as 0.5, not classes"),
        ([[1], [0], [1, 2], []], None, "lists, not one class per image"),
        ([None, None, None, None], None, None),
        ([True, False, True, True], [1, 0, 1, 1], None),
        (["b", "a", "b", "b"], [1, 0, 1, 1], None),
    ],
)
def test_odd_labels_are_classes_or_left_aside_with_a_word(
    labels: list[Any], expected: list[int] | None, word: str | None, tmp_path: Path
) -> None:
    said: list[str] = []
    source = open_source(str(table(tmp_path / "a.parquet", label=labels)), warn=said.append)
    assert len(source.refs) == 4
    assert [ref.label for ref in source.refs] == (expected or [None] * 4)
    assert (word is None and not said) or (word is not None and word in said[0])


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    cells = pa.array([{"bytes": picture(0), "path": None}])
    pq.write_table(pa.Table.from_arrays([cells, cells], names=["image", "image"]), tmp_path / "a.parquet")
    with pytest.raises(UsageError, match="2 columns called 'image'; rename one"):
        open_source(str(tmp_path / "a.parquet"))


def test_shards_are_one_source_in_the_order_of_their_names(tmp_path: Path) -> None:
    table(tmp_path / "b.parquet", label=["dog", "cat"], first=4)
    table(tmp_path / "a.parquet", label=["cat", "fox"])
    source = open_source(str(tmp_path))
    assert [ref.id for ref in source.refs] == [
        f"{file}.parquet/row-00000{row}" for file in "ab" for row in range(2)
    ]
    assert source.classes == ("cat", "dog", "fox")
    assert [ref.label for ref in source.refs] == [0, 2, 1, 0]
    assert np.array(source.open(3)).tolist() == np.array(Image.open(io.BytesIO(picture(5)))).tolist()
    assert len(open_source(str(tmp_path), limit=2).refs) == 2
    table(tmp_path / "c.parquet", other=[0, 1])
    with pytest.raises(UsageError, match="some shards .* have labels and others none; give --no-labels"):
        open_source(str(tmp_path))
    assert len(open_source(str(tmp_path), columns=Columns(labels=False)).refs) == 6


def archive(path: Path, members: dict[str, bytes], link: str = "") -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        if link:
            entry = tarfile.TarInfo("link.png")
            entry.type, entry.linkname = tarfile.SYMTYPE, link
            tar.addfile(entry)
    return path


def test_tars_of_samples(tmp_path: Path) -> None:
    members = {"0.png": picture(0), "0.cls": b"1", "a/1.png": picture(1), "a/1.json": b'{"label": 0}',
               "../../2.png": picture(2), "../../2.cls": b"1\n", "x.txt": b"-"}  # fmt: skip
    source = open_source(str(archive(tmp_path / "w.tar", members, link="/etc/passwd")))
    assert [(ref.id, ref.label) for ref in source.refs] == [("0.png", 1), ("a/1.png", 0), ("../../2.png", 1)]
    assert source.open(1).size == (9, 8)
    for bad in (b"", b"no tar" * 200, (tmp_path / "w.tar").read_bytes()[:700]):
        (tmp_path / "bad.tar").write_bytes(bad)
        with pytest.raises(UsageError, match=r"bad\.tar"):
            open_source(str(tmp_path / "bad.tar"))


def folder(root: Path, names: dict[str, int]) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(number))
    return root


def test_links_to_class_folders(tmp_path: Path) -> None:
    folder(tmp_path / "root" / "all", {f"{n}.png": n for n in range(3)})
    folder(tmp_path / "root" / "cat", {"9.png": 9})
    folder(tmp_path / "elsewhere", {"1.png": 1})
    os.symlink(tmp_path / "root" / "all", tmp_path / "root" / "dog")
    os.symlink(tmp_path / "elsewhere", tmp_path / "root" / "cow")
    os.symlink(tmp_path / "root", tmp_path / "root" / "all" / "loop")
    said: list[str] = []
    source = open_source(str(tmp_path / "root"), warn=said.append)
    assert source.classes == ("all", "cat", "dog")
    assert len(source.refs) == 7
    assert ("cow", "it is a link to a folder outside the given one") in source.skipped
    assert len(said) == 1
    assert "cow, a link, leads out of it and is not followed" in said[0]


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_labels_in_a_table_beside_the_images(form: str, tmp_path: Path) -> None:
    folder(tmp_path, {"a.png": 0, "b.png": 1, "train/c.png": 2})
    rows = [
        {"file_name": "a.png", "label": 1, "text": "x, y"},
        {"file_name": "b.png", "label": 0, "text": ""},
    ]
    if form == "jsonl":
        (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (tmp_path / "train" / "metadata.jsonl").write_text('{"file_name": "c.png", "label": 1}')
    else:
        (tmp_path / "metadata.csv").write_text('file_name,label,text\na.png,1,"x, y"\nb.png,0,\n')
        (tmp_path / "train" / "metadata.csv").write_text("file_name,label\nc.png,1\n")
    source = open_source(str(tmp_path))
    assert [(ref.id, ref.label) for ref in source.refs] == [("a.png", 1), ("b.png", 0), ("train/c.png", 1)]
    assert open_source(str(tmp_path), columns=Columns(labels=False)).classes is None
    (tmp_path / f"metadata.{form}").write_bytes(b'{"a"\xff')
    with pytest.raises(UsageError, match=r"metadata\.\w+ cannot be read.*--no-labels"):
        open_source(str(tmp_path))
