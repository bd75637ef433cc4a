import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from platodef_cli.errors import UsageError
from platodef_cli.images.decode import ImageError
from platodef_cli.images.parquet import ParquetSource
from platodef_cli.images.rows import cell_bytes, class_labels
from tests.unit.images.image_fakes import encode, noise, png

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write(path, images, labels=None, *, kind=STRUCT, names=None, column="image", **options):
    columns = {column: pa.array(images, kind)}
    if labels is not None:
        columns["label"] = pa.array(labels)
    table = pa.table(columns)
    if names is not None:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({b"huggingface": json.dumps(features).encode()})
    pq.write_table(table, path, **options)
    return path


def cells(count):
    return [{"bytes": png(i), "path": f"{i}.png"} for i in range(count)]


def test_cells_of_avif(tmp_path):
    images = [{"bytes": encode(noise(seed=i), "AVIF", quality=90), "path": f"{i}.avif"} for i in range(2)]
    source = ParquetSource(write(tmp_path / "x.parquet", images))
    assert [source.open(i).mode for i in range(len(source.refs))] == ["RGB", "RGB"]


def test_structs_with_declared_class_names(tmp_path):
    file = write(tmp_path / "x.parquet", cells(3), [1, 0, 1], names=["cat", "dog"])
    source = ParquetSource(file)
    assert source.classes == ("cat", "dog")
    assert [(ref.id, ref.label) for ref in source.refs] == [
        ("row-000000", 1),
        ("row-000001", 0),
        ("row-000002", 1),
    ]
    assert source.open(2).size == (7, 9)


def test_plain_bytes_without_labels(tmp_path):
    file = write(tmp_path / "x.parquet", [png(0), png(1)], kind=pa.large_binary(), column="img")
    source = ParquetSource(file)
    assert source.classes is None
    assert source.refs[0].label is None
    assert source.open(1).mode == "RGB"


def test_small_row_groups_in_any_order(tmp_path):
    file = write(tmp_path / "x.parquet", cells(10), row_group_size=3)
    source = ParquetSource(file)
    whole = ParquetSource(write(tmp_path / "y.parquet", cells(10)))
    for index in (9, 0, 4, 3, 8):
        assert source.refs[index] == whole.refs[index]
        assert list(source.open(index).tobytes()) == list(whole.open(index).tobytes())


def test_metadata_too_deep_to_read_is_none(tmp_path):
    table = pa.table({"image": pa.array(cells(2), STRUCT), "label": pa.array([0, 1])})
    pq.write_table(table.replace_schema_metadata({b"huggingface": b"[" * 100_000}), tmp_path / "x.parquet")
    assert ParquetSource(tmp_path / "x.parquet").classes == ("0", "1")


def test_string_labels(tmp_path):
    source = ParquetSource(write(tmp_path / "x.parquet", cells(3), ["dog", "ant", "dog"]))
    assert source.classes == ("ant", "dog")
    assert [ref.label for ref in source.refs] == [1, 0, 1]


def test_rows_without_a_label_are_skipped_only_where_others_have_one(tmp_path):
    some = ParquetSource(write(tmp_path / "x.parquet", cells(20), [0, None, *[1] * 18]))
    assert [ref.id for ref in some.refs][:2] == ["row-000000", "row-000002"]
    assert len(some.refs) == 19
    assert some.notes == ()
    assert some.open(1).tobytes() == ParquetSource(tmp_path / "x.parquet").open(1).tobytes()
    assert some.skipped == [("row-000001", "it has no label, unlike others; --no-labels uses it")]
    many = ParquetSource(write(tmp_path / "z.parquet", cells(3), [0, None, 1]))
    assert (len(many.refs), many.classes, many.skipped) == (3, None, [])
    assert many.notes == ("z.parquet: 1 of its 3 labels are missing; they are not used",)
    none = ParquetSource(write(tmp_path / "y.parquet", cells(3), [-1, -1, -1]))
    assert none.classes is None
    assert len(none.refs) == 3


def test_a_row_that_names_a_path_is_broken_and_never_opened(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(5))
    rows = [*cells(2), {"bytes": None, "path": str(secret)}, {"bytes": None, "path": None}, None]
    source = ParquetSource(write(tmp_path / "x.parquet", rows))
    assert len(source.refs) == 2
    assert source.skipped == [
        ("row-000002", "it names a file path instead of holding bytes; paths are never opened"),
        ("row-000003", "it holds no image bytes"),
        ("row-000004", "it holds no image bytes"),
    ]


def test_a_broken_image_fails_on_opening(tmp_path):
    source = ParquetSource(write(tmp_path / "x.parquet", [png(0), b"junk"], kind=pa.binary()))
    with pytest.raises(ImageError, match="'row-000001' cannot be used"):
        source.open(1)
    assert source.skipped == [("row-000001", source.skipped[0][1])]


def test_limit_keeps_row_ids_and_labels(tmp_path):
    write(tmp_path / "x.parquet", cells(20), list(range(20)), row_group_size=4)
    source, whole = (
        ParquetSource(tmp_path / "x.parquet", limit=5, seed=3),
        ParquetSource(tmp_path / "x.parquet"),
    )
    assert len(source.refs) == 5
    assert all(ref in whole.refs for ref in source.refs)
    assert [ref.id for ref in source.refs] == sorted(ref.id for ref in source.refs)
    assert all(ref.id == f"row-{ref.label:06d}" for ref in source.refs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_bytes(b"PAR1 no parquet PAR1"), "cannot read .* as parquet"),
        (lambda path: path.write_bytes(b""), "cannot read .* as parquet"),
        (lambda path: write(path, [1, 2], kind=pa.int64()), "column 'image' of .* is int64, not image bytes"),
        (
            lambda path: write(path, cells(1), column="photo"),
            r"no column of images .*; its columns are photo",
        ),
        (lambda path: write(path, []), "holds no usable image; give"),
        (lambda path: write(path, [None, None]), r"holds no usable image \(first: row-000000: it holds no"),
        (
            lambda path: write(path, cells(2), [0, 2_000_000]),
            "label 2000000 is too large for a class index",
        ),
        (lambda path: write(path, cells(1), [10**9]), "label 1000000000 is too large"),
    ],
)
def test_unusable_files(tmp_path, make, message):
    path = tmp_path / "x.parquet"
    make(path)
    with pytest.raises(UsageError, match=message) as caught:
        ParquetSource(path)
    assert "\n" not in str(caught.value)


def test_a_file_damaged_inside(tmp_path):
    path = write(tmp_path / "x.parquet", cells(50), compression="zstd", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[200:1200] = b"\xa5" * 1000
    path.write_bytes(data)
    with pytest.raises(UsageError, match="cannot read"):
        ParquetSource(path)


def test_a_row_group_bomb_is_not_unpacked(tmp_path, monkeypatch):
    path = write(tmp_path / "x.parquet", cells(3))
    monkeypatch.setattr("platodef_cli.images.parquet.MAX_GROUP_BYTES", 100)
    with pytest.raises(UsageError, match="row group 0 .* unpacks to .* smaller row groups"):
        ParquetSource(path)


def repeated(path, cell, rows, groups=1):
    """A file whose rows all are one cell, which is stored once: the smallest bomb there is."""
    kind = pa.dictionary(pa.int32(), pa.binary())
    column = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([cell])).cast(kind)
    with pq.ParquetWriter(
        path, pa.schema([("image", kind)]), compression="zstd", store_schema=False
    ) as writer:
        for _ in range(groups):
            writer.write_table(pa.table({"image": column}))
    return path


@pytest.mark.parametrize(("rows", "groups"), [(50_000, 1), (600, 90)])
def test_cells_that_unpack_to_far_more_than_the_file_are_bounded(tmp_path, monkeypatch, rows, groups):
    """50 GB in 400 bytes; what the footer says is one MB."""
    monkeypatch.setattr("platodef_cli.images.parquet._FREE_EXPANSION", 2**26)
    path = repeated(tmp_path / "x.parquet", bytes(2**20 - 16), rows, groups)
    assert path.stat().st_size < 40_000
    assert pq.ParquetFile(path).metadata.row_group(0).total_byte_size < 2**21
    before = pa.total_allocated_bytes()
    with pytest.raises(
        UsageError, match="unpacks to more than 1000 times its .* bytes, which encoded images"
    ):
        ParquetSource(path)
    assert pa.total_allocated_bytes() - before < 2**20
    assert pa.default_memory_pool().max_memory() < 2**30


def test_the_same_image_many_times_is_no_bomb(tmp_path):
    path = repeated(tmp_path / "x.parquet", png(1), 20_000)
    assert len(ParquetSource(path).refs) == 20_000


def test_labels_are_bounded_too(tmp_path, monkeypatch):
    monkeypatch.setattr("platodef_cli.images.parquet.MAX_LABEL_BYTES", 2**20)
    path = write(tmp_path / "x.parquet", cells(1) * 3000, ["a" * 1000] * 3000)
    with pytest.raises(UsageError, match="column 'label' .* unpacks to more than 1,048,576 bytes"):
        ParquetSource(path)


def test_more_rows_than_can_be_listed_need_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("platodef_cli.images.parquet.MAX_ROWS", 20)
    path = write(tmp_path / "x.parquet", cells(21))
    with pytest.raises(UsageError, match="has 21 rows, more than 20; take some of them with --limit"):
        ParquetSource(path)
    assert len(ParquetSource(path, limit=5).refs) == 5


def test_fifty_thousand_images_are_listed_in_little_memory(tmp_path):
    path = write(tmp_path / "x.parquet", [b"\x89PNG" + bytes(2000)] * 50_000, kind=pa.binary())
    before = pa.total_allocated_bytes()
    source = ParquetSource(path)
    assert len(source.refs) == 50_000
    assert pa.total_allocated_bytes() - before < 200 * 2**20


def test_a_row_group_that_is_shorter_than_announced(tmp_path, monkeypatch):
    path = write(tmp_path / "x.parquet", cells(3))

    class Short:
        def __init__(self, file):
            self._file = file

        def __getattr__(self, name):
            return getattr(self._file, name)

        def iter_batches(self, *words, **options):
            for batch in self._file.iter_batches(*words, **options):
                yield batch.slice(1)

    real = pq.ParquetFile
    monkeypatch.setattr(pq, "ParquetFile", lambda path: Short(real(path)))
    with pytest.raises(UsageError, match="row group 0 holds 2 of its 3 rows"):
        ParquetSource(path)


def test_cells_and_labels_by_hand():
    assert cell_bytes(memoryview(b"x"), "r") == b"x"
    with pytest.raises(ImageError, match="holds no image bytes"):
        cell_bytes("x.png", "r")
    assert class_labels([2, 0], ["a"]) == (("a", "1", "2"), [2, 0])
    assert class_labels([None, -1], None) == (None, [None, None])
    with pytest.raises(UsageError, match="int, str"):
        class_labels([1, "a"], None)
