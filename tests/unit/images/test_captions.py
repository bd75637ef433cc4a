"""Captions of images, from every kind of source, and the sentences that text references read."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from platodef_cli.errors import UnknownNameError, UsageError
from platodef_cli.images.columns import Columns
from platodef_cli.images.interface import ImageSource, caption_column
from platodef_cli.images.open import open_source
from platodef_cli.texts.names import check_captions, check_references, check_sentences, check_templates
from platodef_cli.texts.sentences import sentences_of

SAID = ["a red  circle", ["a star", "something bright"], "a square"]
WANTED = [("a red circle",), ("a star", "something bright"), ("a square",)]


def picture(number: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 20 * number, dtype=np.uint8)).save(stream, "png")
    return stream.getvalue()


def parquet(path: Path, captions: list, name: str = "caption") -> Path:
    texts = (
        captions if all(isinstance(c, str | None) for c in captions) else [json.dumps(c) for c in captions]
    )
    rows = {"image": [picture(n) for n in range(len(captions))], name: texts, "label": [0, 1, 1]}
    if any(isinstance(c, list) for c in captions):
        rows[name] = [c if isinstance(c, list) else [c] for c in captions]
    pq.write_table(pa.table(rows), path)
    return path


def folder(path: Path, captions: list) -> Path:
    path.mkdir()
    lines = []
    for number, caption in enumerate(captions):
        (path / f"{number}.png").write_bytes(picture(number))
        lines.append(json.dumps({"file_name": f"{number}.png", "text": caption}))
    (path / "metadata.jsonl").write_text("\n".join(lines))
    return path


def tar(path: Path, captions: list, beside: bool) -> Path:
    with tarfile.open(path, "w") as archive:
        for number, caption in enumerate(captions):
            side = (
                ("txt", str(caption).encode())
                if beside
                else ("json", json.dumps({"caption": caption}).encode())
            )
            for suffix, data in (("png", picture(number)), side):
                entry = tarfile.TarInfo(f"{number}.{suffix}")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return path


def opened(path: Path, **columns: object) -> ImageSource:
    return open_source(str(path), columns=Columns(**{"captions": True, **columns}))  # type: ignore[arg-type]


def captions_of(source: ImageSource) -> list[tuple[str, ...]]:
    return [ref.captions for ref in source.refs]


def test_every_source_reads_captions(tmp_path: Path) -> None:
    plain = [text for text in SAID if isinstance(text, str)] + ["a fourth"]
    for source in (
        opened(parquet(tmp_path / "a.parquet", SAID)),
        opened(folder(tmp_path / "b", SAID)),
        opened(tar(tmp_path / "c.tar", SAID, beside=False)),
    ):
        assert captions_of(source) == WANTED
        assert caption_column(source) in ("caption", "text")
    assert captions_of(opened(tar(tmp_path / "d.tar", plain, beside=True)))[0] == ("a red circle",)
    shards = tmp_path / "shards"
    shards.mkdir()
    for name in ("x.parquet", "y.parquet"):
        parquet(shards / name, SAID)
    assert captions_of(opened(shards)) == WANTED * 2
    assert caption_column(opened(shards, labels=False)) == "caption"
    few = open_source(str(tmp_path / "a.parquet"), limit=2, columns=Columns(captions=True))
    assert all(ref.captions in WANTED for ref in few.refs)


def test_captions_are_read_where_they_are_asked_for_only(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", SAID, "words")
    assert captions_of(opened(path, captions=False)) == [()] * 3
    assert captions_of(opened(path)) == [()] * 3
    assert captions_of(opened(path, caption="words")) == WANTED
    with pytest.raises(UsageError, match="has no column 'word'; its columns are image, words, label"):
        opened(path, caption="word")


def test_the_hub_library_reads_captions(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    from platodef_cli.images.datasets import DatasetsSource

    made = datasets.Dataset.from_dict({"image": [picture(n) for n in range(2)], "caption": ["one", "two"]})
    made = made.cast_column("image", datasets.Image())
    source = DatasetsSource.__new__(DatasetsSource)
    source.uri = "x"
    source._take(made, "", None, 0, Columns(captions=True))
    assert captions_of(source) == [("one",), ("two",)]


def test_an_image_without_a_sentence_is_named(tmp_path: Path) -> None:
    source = opened(parquet(tmp_path / "a.parquet", ["one", None, "  "]))
    with pytest.raises(UsageError, match=r"image 'row-000001' has no caption in column 'caption' \(2 of 3"):
        sentences_of(source, None, "clip-80")
    numbers = opened(parquet(tmp_path / "b.parquet", SAID), labels=True)
    with pytest.raises(UsageError, match="the class '0' has no name that a sentence could say"):
        sentences_of(numbers, "templates", "photo")
    bare = open_source(str(tmp_path / "b.parquet"), columns=Columns(labels=False))
    with pytest.raises(UsageError, match="have neither captions nor labels"):
        sentences_of(bare, None, "clip-80")
    with pytest.raises(UsageError, match="no column of captions"):
        sentences_of(bare, "column", "clip-80")
    shapes = open_source("builtin:shapes?count=5")
    named = sentences_of(shapes, None, "photo")
    assert shapes.classes is not None
    assert named.rows[0] == (f"a photo of a {shapes.classes[shapes.refs[0].label or 0]}.",)
    assert [len(sentences_of(shapes, None, name).rows[0]) for name in ("clip-80", "clip-7")] == [80, 7]
    assert "clip-7" in sentences_of(shapes, None, "clip-7").origin


def test_a_file_of_captions_is_found_by_the_bytes_of_the_images(tmp_path: Path) -> None:
    source = opened(parquet(tmp_path / "a.parquet", SAID))
    rows = [
        {"id": "other", "sha256": ref.digest, "caption": f"made {n}"} for n, ref in enumerate(source.refs)
    ]
    made = tmp_path / "captions.parquet"
    pq.write_table(pa.Table.from_pylist(rows[::-1]), made)
    assert list(sentences_of(source, str(made), "photo").rows) == [(f"made {n}",) for n in range(3)]
    pq.write_table(pa.Table.from_pylist(rows[:2]), made)
    with pytest.raises(
        UsageError, match=r"no caption of image 'row-000002' in its column 'caption' \(1 of 3"
    ):
        sentences_of(source, str(made), "photo")
    pq.write_table(pa.table({"id": ["a"], "caption": ["b"]}), made)
    with pytest.raises(UsageError, match="has no column 'sha256'"):
        sentences_of(source, str(made), "photo")
    made.write_text("no parquet")
    with pytest.raises(UsageError, match="cannot read"):
        sentences_of(source, str(made), "photo")


def test_options_about_sentences_agree(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--captions x\.txt: give column, templates or a \.parquet file"):
        check_captions("x.txt")
    with pytest.raises(UnknownNameError, match="clip-80"):
        check_templates("clip-81")
    with pytest.raises(UsageError, match="name the model with --captioner"):
        check_sentences(["text:a"], None, None, recaption=True)
    with pytest.raises(UsageError, match="give one of them"):
        check_sentences(["text:a"], "column", "org/name", recaption=False)
    with pytest.raises(UsageError, match="no reference reads sentences"):
        check_sentences(["a"], "column", None, recaption=False)
    with pytest.raises(UsageError, match="add a visual reference"):
        check_references(["text:a", "text:b"])
    check_references([])
    check_references(["a", "text:b"])
