"""Every row of the table of image sources keeps the contract of images/interface.py."""

import io
import tarfile

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from platodef_cli.images import SOURCES
from platodef_cli.images.datasets import DatasetsSource
from platodef_cli.images.open import open_source
from tests.unit.images.image_fakes import png

COUNT = 9


def folder(tmp_path):
    for i in range(COUNT):
        path = tmp_path / f"class-{i % 3}" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(i))
    return lambda limit, seed: open_source(str(tmp_path), limit=limit, seed=seed)


def parquet(tmp_path):
    table = pa.table({"image": [png(i) for i in range(COUNT)], "label": [i % 3 for i in range(COUNT)]})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=4)
    return lambda limit, seed: open_source(str(tmp_path / "x.parquet"), limit=limit, seed=seed)


def hub(tmp_path):
    rows = {
        "image": [{"bytes": png(i), "path": None} for i in range(COUNT)],
        "label": [i % 3 for i in range(COUNT)],
    }
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=3)})
    table = datasets.Dataset.from_dict(rows, features=kinds)
    return lambda limit, seed: DatasetsSource.from_stream(table, "hf://datasets/x", limit=limit, seed=seed)


def shapes(tmp_path):
    return lambda limit, seed: open_source(f"builtin:shapes?count={COUNT}", limit=limit, seed=seed)


def shards(tmp_path):
    for first in range(0, COUNT, 4):
        rows = range(first, min(first + 4, COUNT))
        table = pa.table({"image": [png(i) for i in rows], "label": [i % 3 for i in rows]})
        pq.write_table(table, tmp_path / f"part-{first}.parquet")
    return lambda limit, seed: open_source(str(tmp_path), limit=limit, seed=seed)


def tar(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for i in range(COUNT):
            for name, data in ((f"{i}.png", png(i)), (f"{i}.cls", str(i % 3).encode())):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return lambda limit, seed: open_source(str(tmp_path / "x.tar"), limit=limit, seed=seed)


MAKERS = {
    "folder": folder,
    "parquet": parquet,
    "datasets": hub,
    "shapes": shapes,
    "shards": shards,
    "tar": tar,
}


def test_every_row_is_tested():
    assert set(MAKERS) == set(SOURCES.names())


@pytest.mark.parametrize("name", SOURCES.names())
def test_contract(name, tmp_path):
    make = MAKERS[name](tmp_path)
    source, again = make(None, 0), make(None, 0)
    assert isinstance(source, SOURCES.load(name))
    assert isinstance(source.uri, str)
    assert len(source.refs) == COUNT
    assert list(source.refs) == list(again.refs)
    assert len({ref.id for ref in source.refs}) == COUNT
    assert len({ref.digest for ref in source.refs}) == COUNT
    assert all(len(ref.digest) == 64 and int(ref.digest, 16) >= 0 for ref in source.refs)
    assert all(0 <= ref.label < len(source.classes) for ref in source.refs)
    assert source.skipped == []
    images = [source.open(i) for i in range(COUNT)]
    assert all(image.mode == "RGB" for image in images)
    np.testing.assert_array_equal(np.asarray(again.open(4)), np.asarray(images[4]))


@pytest.mark.parametrize("name", SOURCES.names())
def test_limit(name, tmp_path):
    make = MAKERS[name](tmp_path)
    whole = list(make(None, 0).refs)
    part = make(4, 1)
    rows = [whole.index(ref) for ref in part.refs]
    assert len(rows) == 4
    assert rows == sorted(rows)
    assert list(make(4, 1).refs) == list(part.refs)
    np.testing.assert_array_equal(np.asarray(part.open(2)), np.asarray(make(None, 0).open(rows[2])))
    assert len(make(10 * COUNT, 1).refs) == COUNT
