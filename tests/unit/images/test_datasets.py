import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi

from platodef_cli.errors import HubError, UsageError
from platodef_cli.images.datasets import DatasetsSource, _draw
from platodef_cli.images.decode import ImageError
from tests.unit.images.image_fakes import png

FEATURES = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})


@pytest.fixture(autouse=True)
def _private_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))


@pytest.fixture
def parquet(tmp_path):
    rows = [{"bytes": png(i), "path": None} for i in range(12)]
    table = pa.table(
        {
            "image": pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "label": [0, 1] * 6,
        }
    )
    path = tmp_path / "train.parquet"
    pq.write_table(table, path)
    return path


def stream(path):
    return datasets.load_dataset(
        "parquet", data_files=str(path), features=FEATURES, split="train", streaming=True
    )


def test_streamed_parquet(parquet):
    source = DatasetsSource.from_stream(stream(parquet), "here")
    assert source.uri == "here"
    assert source.classes == ("cat", "dog")
    assert [(ref.id, ref.label) for ref in source.refs[:3]] == [
        ("row-000000", 0),
        ("row-000001", 1),
        ("row-000002", 0),
    ]
    assert source.open(11).tobytes() == source.open(11).tobytes()
    assert len({source.open(i).tobytes() for i in range(12)}) == 12


def test_limit_draws_from_the_stream(parquet):
    ids = [ref.id for ref in DatasetsSource.from_stream(stream(parquet), "here", limit=4, seed=1).refs]
    assert ids == sorted(ids)
    assert len(set(ids)) == 4
    assert ids == [
        ref.id for ref in DatasetsSource.from_stream(stream(parquet), "here", limit=4, seed=1).refs
    ]


def test_the_draw_is_uniform():
    counts = [0] * 10
    for seed in range(3000):
        for row, _ in _draw(((i, None) for i in range(10)), 3, seed):
            counts[row] += 1
    # 900 expected each, standard deviation 25.
    assert all(abs(count - 900) < 110 for count in counts)


def image_folder(tmp_path):
    for i, name in enumerate(["cat/0.png", "dog/1.png", "dog/2.png"]):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))
    return tmp_path / "data"


def test_imagefolder_rows_are_paths_inside_the_data_set(tmp_path):
    folder = image_folder(tmp_path)
    opened = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", streaming=True)
    source = DatasetsSource.from_stream(opened, "here", paths=f"{folder}/")
    assert source.classes == ("cat", "dog")
    assert [ref.label for ref in source.refs] == [0, 1, 1]
    assert source.open(2).mode == "RGB"


@pytest.mark.parametrize("paths", ["", "hf://datasets/org/name@abc/"])
def test_rows_with_a_local_path_are_never_opened(tmp_path, paths):
    folder = image_folder(tmp_path)
    opened = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", streaming=True)
    with pytest.raises(UsageError, match=r"no usable image \(first: row-000000: it names a (file )?path"):
        DatasetsSource.from_stream(opened, "here", paths=paths)


def test_a_path_that_climbs_out_is_refused(tmp_path):
    folder = image_folder(tmp_path)
    (tmp_path / "secret.png").write_bytes(png(9))
    rows = [{"bytes": png(0), "path": None}, {"bytes": None, "path": f"{folder}/../secret.png"}]
    table = datasets.Dataset.from_dict(
        {"image": rows}, features=datasets.Features({"image": datasets.Image()})
    )
    source = DatasetsSource.from_stream(table, "here", paths=f"{folder}/")
    assert len(source.refs) == 1
    assert source.skipped[0][1].startswith("it names a path outside the data set")


def test_a_broken_image_fails_on_opening():
    rows = [{"bytes": b"junk", "path": None}]
    table = datasets.Dataset.from_dict(
        {"image": rows}, features=datasets.Features({"image": datasets.Image()})
    )
    source = DatasetsSource.from_stream(table, "here")
    with pytest.raises(ImageError, match="'row-000000' cannot be used"):
        source.open(0)
    assert len(source.skipped) == 1


def test_no_image_column():
    with pytest.raises(UsageError, match=r"no image column \(its columns: text\)"):
        DatasetsSource.from_stream(datasets.Dataset.from_dict({"text": ["a"]}), "here")


@pytest.mark.parametrize(
    "uri",
    ["hf://datasets/", "hf://models/a/b", "hf://datasets/a/b/c", "hf://datasets/a/b@", "hf://datasets/a b"],
)
def test_malformed_addresses(uri):
    with pytest.raises(UsageError, match="is not a data set address; give hf://"):
        DatasetsSource(uri)


def test_offline_says_what_to_do():
    with pytest.raises(UsageError, match="needs the network; save the images as .parquet"):
        DatasetsSource("hf://datasets/org/name", offline=True)


class FakeInfo:
    sha = "c" * 40


@pytest.fixture
def hub(parquet, monkeypatch):
    """The Hub's two calls, answered from the local file; the rest is the real library."""
    asked = []
    real = datasets.load_dataset

    def dataset_info(self, repo, revision=None):
        asked.append((repo, revision))
        return FakeInfo()

    def load_dataset(repo, revision, streaming):
        asked.append((repo, revision))
        files = {"train": str(parquet), "test": str(parquet)}
        return real("parquet", data_files=files, features=FEATURES, streaming=streaming)

    monkeypatch.setattr(HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_the_revision_is_pinned_to_a_commit(hub):
    source = DatasetsSource("hf://datasets/org/name@v1:train", limit=3)
    assert source.uri == f"hf://datasets/org/name@{'c' * 40}:train"
    assert hub == [("org/name", "v1"), ("org/name", "c" * 40)]
    assert len(source.refs) == 3


def test_held_out_split_is_the_default(hub):
    assert DatasetsSource("hf://datasets/org/name").uri.endswith(":test")
    with pytest.raises(UsageError, match=r"no split 'dev'; its splits: train, test"):
        DatasetsSource("hf://datasets/org/name:dev")


def test_hub_failures_are_one_line(monkeypatch):
    def fail(self, repo, revision=None):
        raise ConnectionError("refused\nby peer")

    monkeypatch.setattr(HfApi, "dataset_info", fail)
    with pytest.raises(HubError, match="cannot load 'hf://datasets/org/name': refused by peer"):
        DatasetsSource("hf://datasets/org/name")
