"""Folders of shards as a user makes and uses them; memory does not grow with their number."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from platodef_cli.cli.app import main
from platodef_cli.cli.score_table import ScoreTable
from platodef_cli.errors import IncompleteError, UsageError
from platodef_cli.features.file import load_features, save_features
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.features.stream import FeatureStream
from platodef_cli.heads.card import HeadCard
from platodef_cli.heads.heads import Heads
from platodef_cli.heads.origin import encoder_records
from platodef_cli.heads.pretrained import save_heads
from platodef_cli.images.columns import Columns
from platodef_cli.images.remote import fetched, listed
from platodef_cli.images.shapes import render
from platodef_cli.jobs.extraction import image_pieces
from platodef_cli.jobs.pieces import MANIFEST
from platodef_cli.report.json import dumps
from tests.gaussian_tuples import GaussianTuples
from tests.unit.cli.calls import ROOT

ENCODERS = ["builtin:clean", "--offline"]


def encoded(count: int, seed: int) -> list[bytes]:
    pictures = []
    for pixels in render(seed, np.arange(count))[0]:
        stream = io.BytesIO()
        Image.fromarray(np.moveaxis(pixels, 0, -1)).save(stream, "PNG")
        pictures.append(stream.getvalue())
    return pictures


@pytest.fixture(scope="module")
def parquets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three parquet shards of 12 images with numbered labels."""
    folder = tmp_path_factory.mktemp("parquets")
    for number in range(3):
        rows = [{"bytes": data, "path": None} for data in encoded(12, number)]
        table = pa.table({"image": rows, "label": pa.array([row % 3 for row in range(12)])})
        pq.write_table(table, folder / f"train-{number}.parquet")
    return folder


@pytest.fixture(scope="module")
def extracted(parquets: Path) -> Path:
    folder = parquets.parent / "features"
    assert main(["extract", *ENCODERS, "--images", str(parquets), "-o", f"{folder}/"]) == 0
    return folder


def test_every_shard_of_images_becomes_one_of_features(
    extracted: Path, parquets: Path, tmp_path: Path
) -> None:
    names = sorted(path.name for path in extracted.glob("*.safetensors"))
    assert names == ["part-00000.safetensors", "part-00001.safetensors", "part-00002.safetensors"]
    whole = tmp_path / "whole.safetensors"
    assert main(["extract", *ENCODERS, "--images", str(parquets), "-o", str(whole)]) == 0
    wanted = load_features(whole)
    parts = list(FeatureStream(extracted).blocks())
    assert tuple(name for part in parts for name in part.ids or ()) == wanted.ids
    assert wanted.labels is not None
    assert torch.equal(torch.cat([part.labels for part in parts if part.labels is not None]), wanted.labels)
    torch.testing.assert_close(torch.cat([part.source for part in parts]), wanted.source)


def test_the_second_run_makes_nothing(
    extracted: Path, parquets: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in extracted.iterdir() if path.is_file()}
    assert main(["extract", *ENCODERS, "--images", str(parquets), "-o", f"{extracted}/"]) == 0
    assert "36 rows in 3 shards" in capfd.readouterr().err
    assert {path.name: path.read_bytes() for path in extracted.iterdir() if path.is_file()} == before


def test_tars_and_blocks_of_rows(tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    for number in range(2):
        with tarfile.open(tmp_path / "tars" / f"{number}.tar", "w") as archive:
            for place, data in enumerate(encoded(5, number)):
                info = tarfile.TarInfo(f"{place:04d}.png")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    assert main(["extract", *ENCODERS, "-i", str(tmp_path / "tars"), "-o", f"{tmp_path}/f/"]) == 0
    manifest = json.loads((tmp_path / "f" / MANIFEST).read_text())
    assert [shard["counts"]["rows"] for shard in manifest["shards"]] == [5, 5]
    images = "builtin:shapes?seed=1&count=25"
    words = [
        "extract",
        *ENCODERS,
        "-i",
        images,
        "--shard-rows",
        "10",
        "--variant",
        "patch-white-0.3125-bottom-right",
    ]
    assert main([*words, "-o", f"{tmp_path}/g/"]) == 0
    manifest = json.loads((tmp_path / "g" / MANIFEST).read_text())
    assert [shard["counts"]["rows"] for shard in manifest["shards"]] == [20, 20, 10]


def test_a_folder_goes_through_every_step(
    extracted: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    head = ["--head", "builtin-clean"]
    assert main(["score", str(extracted), *head, "-o", str(tmp_path / "s.json")]) == 0
    rows = json.loads((tmp_path / "s.json").read_text())["rows"]
    assert [row["row"] for row in rows] == list(range(36))
    assert rows[13]["image"] == "train-1.parquet/row-000001"
    assert main(["score", str(extracted), *head, "-o", str(tmp_path / "s.csv")]) == 0
    with (tmp_path / "s.csv").open() as stream:
        assert [float(row["score"]) for row in csv.DictReader(stream)] == [row["score"] for row in rows]
    assert main(["purify", str(extracted), *head, "--all", "-m", "ridge", "-o", str(tmp_path / "clean")]) == 0
    assert main(["align", str(tmp_path / "clean"), "--rows", "20", "--k", "3", "--permutations", "3"]) == 0
    assert (
        main(["purify", str(extracted), *head, "--follow", "--idle", "0", "-o", str(tmp_path / "grown")]) == 0
    )
    assert len(list((tmp_path / "grown").glob("*.safetensors"))) == 3
    assert main(["purify", str(extracted), *head, "-o", str(extracted)]) == 2
    assert "is the folder of the input" in capfd.readouterr().err


def test_alignment_by_blocks(
    tmp_path: Path, gaussian: GaussianTuples, capfd: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        save_features(tmp_path / f"{number}.safetensors", gaussian.sample(150, seed=number))
    words = ["align", str(tmp_path), "--permutations", "5", "--json"]
    assert main(words) == 0
    whole = json.loads(capfd.readouterr().out)
    assert main([*words, "--rows", "200", "--blocks", "2"]) == 0
    captured = capfd.readouterr()
    blocks = json.loads(captured.out)
    assert "means over 2 blocks of 200 images" in captured.err
    assert {record["n"] for record in whole} == {600}
    assert {record["n"] for record in blocks} == {200}
    for one, other in zip(whole, blocks, strict=True):
        if one["measure"] == "cka":  # unbiased: its expectation does not depend on n
            assert other["value"] == pytest.approx(one["value"], abs=0.1)


def test_fitting_takes_a_sample(
    tmp_path: Path, gaussian: GaussianTuples, capfd: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        save_features(tmp_path / f"{number}.safetensors", gaussian.sample(200, seed=number))
    target = tmp_path / "head"
    assert (
        main(["fit", str(tmp_path), "-o", str(target), "--sample", "300", "--cache-dir", str(tmp_path / "c")])
        == 0
    )
    err = capfd.readouterr().err
    assert "using 300 of 600 clean rows, drawn with seed 0" in err
    assert "fitted on 300 tuples" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["score", "IN", "--head", "builtin-clean", "--address", "x:1"], "--address is for --executor ray"),
        (["score", "IN", "--head", "builtin-clean", "--executor", "ray"], "shards need a folder"),
        (["purify", "IN", "--head", "builtin-clean"], "shards need a folder"),
        (
            ["purify", "IN/a", "--head", "builtin-clean", "--follow", "-o", "OUT"],
            "is no folder of feature files",
        ),
        (["purify", "IN", "--head", "builtin-clean", "--idle", "3", "-o", "OUT"], "are for --follow"),
        (["purify", "IN", "--head", "builtin-clean", "-o", "OUT"], "holds no feature file"),
        (["extract", *ENCODERS, "-i", "s3://b/x", "--limit", "5", "-o", "OUT/"], ""),
        (
            ["extract", *ENCODERS, "-i", "builtin:shapes?count=9", "--shard-rows", "4", "-o", "-"],
            "need a folder",
        ),
    ],
)
def test_slips(tmp_path: Path, words: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "IN").mkdir()
    given = [
        str(tmp_path / word) + "/" * word.endswith("/") if word[:2] in ("IN", "OU") else word
        for word in words
    ]
    pytest.importorskip("ray", reason="needs the extra platodef[ray]") if "ray" in words else None
    assert main(given) in (2, 3)
    err = capfd.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_without_ray_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["score", str(tmp_path), "--head", "builtin-clean", "--executor", "ray", "-o", f"{tmp_path}/o"]
    assert main(words) == 2
    assert "install platodef[ray]" in capfd.readouterr().err


def test_the_table_is_that_of_one_piece() -> None:
    rows: list[dict[str, object]] = [
        {
            "row": number,
            "image": f"ü\x00{number}",
            "score": number / 3,
            "p_value": 0.5,
            "flagged": number == 1,
        }
        for number in range(3)
    ]
    facts: dict[str, object] = {"detector": "x", "threshold": 0.25, "references": {"odd": None}}
    for given in (rows, []):
        table = ScoreTable("json")
        table.add(given[:1])
        table.add(given[1:])
        assert written(table, facts) == dumps(
            {**facts, "direction": "higher is more suspicious", "rows": given}
        )


def written(table: ScoreTable, facts: dict[str, object]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        table.write(f"{folder}/t.json", facts)
        table.close()
        return Path(folder, "t.json").read_text()


@pytest.fixture
def store(parquets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from fsspec.implementations.dirfs import DirFileSystem
    from fsspec.implementations.local import LocalFileSystem

    from platodef_cli.images import remote

    folder = tmp_path / "store"
    shutil.copytree(parquets, folder / "bucket" / "set")
    (folder / "bucket" / "set" / "README.md").write_text("no shard")
    system = DirFileSystem(str(folder), LocalFileSystem())
    monkeypatch.setattr(remote, "filesystem", lambda uri: (system, uri.partition("://")[2]))
    return folder / "bucket" / "set"


def test_shards_of_an_object_store(store: Path, extracted: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"limit": None, "seed": 0, "offline": False, "columns": Columns(), "warn": None}
    pieces = image_pieces("s3://bucket/set", rows=10, **options)
    assert [piece.spec["uri"] for piece in pieces] == [f"s3://bucket/set/train-{n}.parquet" for n in range(3)]
    assert len(listed("s3://bucket/set/train-[12].parquet")) == 2
    assert len(listed("s3://bucket/set/train-0.parquet")) == 1
    assert main(["extract", *ENCODERS, "-i", "s3://bucket/set", "-o", f"{tmp_path}/f/"]) == 0
    first, second = (
        [shard["sha256"] for shard in json.loads((place / MANIFEST).read_text())["shards"]]
        for place in (tmp_path / "f", extracted)
    )
    a, b = (load_features(place / "part-00001.safetensors") for place in (tmp_path / "f", extracted))
    assert torch.equal(a.source, b.source)
    assert a.ids == b.ids
    assert len(first) == len(second) == 3


def test_what_a_store_cannot_give(store: Path) -> None:
    for uri, words in (
        ("s3://bucket/none", "no such folder"),
        ("s3://bucket/set/x-*.tar", "there is no .parquet"),
    ):
        with pytest.raises(UsageError, match=words):
            listed(uri)
    ((uri, key),) = listed("s3://bucket/set/train-0.parquet")
    (store / "train-0.parquet").write_bytes(b"other")
    with pytest.raises(UsageError, match="list it again"), fetched(uri, key):
        pass
    (store / "train-0.parquet").unlink()
    with pytest.raises(IncompleteError, match="cannot be read"), fetched(uri, key):
        pass


MEASURE = """
import resource, sys
from platodef_cli.cli.app import main
source, head, out = sys.argv[1:]
words = [source, "--head", head, "--detector", "ridge"]
assert main(["purify", *words, "-m", "ridge", "-o", out + "/clean"]) == 0
assert main(["score", *words, "-o", out + "/scores/"]) == 0
from platodef_cli.cli.features import read_sample
from platodef_cli.cli.session import Session
assert len(read_sample(Session(quiet=True), source, "source", None, 10_000, 0)) == 10_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
ROWS = 60_000


def test_memory_does_not_grow_with_the_number_of_shards(
    tmp_path: Path, small_heads: Heads, gaussian: GaussianTuples
) -> None:
    """Two shards against twenty: 8 MB of features against 80."""
    source, references = encoder_records(gaussian.sample(10, seed=1), "nowhere")
    card = HeadCard(name="h", source=source, references=references, trained_on="x")
    save_heads(tmp_path / "head", small_heads, card=card)
    one: FeatureTuples = gaussian.sample(ROWS, seed=3)
    peaks: list[int] = []
    for count in (2, 20):
        place = tmp_path / f"in{count}"
        place.mkdir()
        save_features(place / "part-00.safetensors", one)
        for number in range(1, count):
            (place / f"part-{number:02d}.safetensors").hardlink_to(place / "part-00.safetensors")
        out = tmp_path / f"out{count}"
        out.mkdir()
        words = [sys.executable, "-c", MEASURE, str(place), str(tmp_path / "head"), str(out)]
        env: dict[str, Any] = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(words, capture_output=True, text=True, timeout=500, check=False, env=env)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[-1]))
    size = (tmp_path / "in2" / "part-00.safetensors").stat().st_size / 2**20
    assert peaks[1] - peaks[0] < 4 * size  # of the 18 files more
