import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from platodef_cli.errors import IncompleteError, UsageError
from platodef_cli.features.file import describe, image_set_digest, load_features, save_features
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.features.shard import to_bytes
from platodef_cli.images.interface import ImageRef
from tests.unit.features.feature_fakes import ProjectionEncoder


def tuples(n=4, **changes):
    generator = torch.Generator().manual_seed(0)
    fields = {
        "source": torch.randn(n, 3, generator=generator),
        "references": {
            "zeta": torch.randn(n, 5, generator=generator),
            "alpha": torch.randn(n, 2, generator=generator),
        },
        "labels": torch.arange(n) % 2,
        "variants": torch.tensor([0] * (n - 1) + [2]),
        "metadata": {"images": "here", "note": "\u00fc"},
    }
    return FeatureTuples(**(fields | changes))


def same(first, second):
    assert torch.equal(first.source, second.source)
    assert list(first.references) == list(second.references)
    assert all(torch.equal(first.references[name], second.references[name]) for name in first.references)
    for one, other in ((first.labels, second.labels), (first.variants, second.variants)):
        assert (one is None and other is None) or torch.equal(one, other)


def test_round_trip_through_a_file_keeps_the_order_of_references(tmp_path):
    save_features(tmp_path / "f.safetensors", tuples())
    found = load_features(tmp_path / "f.safetensors")
    same(found, tuples())
    assert found.metadata["note"] == "\u00fc"
    assert found.metadata["schema_version"] == "1"


def test_round_trip_through_a_stream_without_options():
    stream = io.BytesIO()
    save_features(stream, tuples(labels=None, variants=None))
    stream.seek(0)
    same(load_features(stream), tuples(labels=None, variants=None))


def test_standard_streams():
    code = "from platodef_cli.features.file import *; save_features('-', load_features('-'))"
    stream = io.BytesIO()
    save_features(stream, tuples())
    done = subprocess.run(
        [sys.executable, "-c", code], input=stream.getvalue(), capture_output=True, check=True
    )
    assert done.stdout == stream.getvalue()


def test_equal_content_gives_equal_bytes_that_the_library_reads(tmp_path):
    first, second = io.BytesIO(), io.BytesIO()
    save_features(first, tuples())
    save_features(second, tuples(metadata=dict(reversed(tuples().metadata.items()))))
    assert first.getvalue() == second.getvalue()
    save_features(tmp_path / "f.safetensors", tuples())
    assert (tmp_path / "f.safetensors").read_bytes() == first.getvalue()
    with safe_open(tmp_path / "f.safetensors", framework="pt") as file:
        assert set(file.keys()) == {"source", "reference.alpha", "reference.zeta", "label", "variant"}
        assert torch.equal(file.get_tensor("reference.zeta"), tuples().references["zeta"])
        assert file.metadata()["images"] == "here"


def test_files_of_other_tools(tmp_path):
    tensors = {"clip": torch.randn(6, 4).half(), "dino": torch.randn(6, 3).double(), "big": torch.zeros(2)}
    save_file({**tensors, "label": torch.arange(6, dtype=torch.int32)}, tmp_path / "x.safetensors")
    found = load_features(tmp_path / "x.safetensors", "clip", ["dino"])
    assert found.source.dtype == found.references["dino"].dtype == torch.float32
    assert torch.equal(found.source, tensors["clip"].float())
    assert torch.equal(found.labels, torch.arange(6))
    with pytest.raises(UsageError, match="no tensor 'vit'; it has: big, clip, dino, label"):
        load_features(tmp_path / "x.safetensors", "clip", ["vit"])
    with pytest.raises(UsageError, match=r"no tensor named reference.<name> \(others: big, dino, label\)"):
        load_features(tmp_path / "x.safetensors", "clip")


BROKEN = [
    ({"references": {}}, "there is no reference"),
    ({"source": torch.zeros(3, 3)}, "'reference.zeta' has 4 rows, 'source' has 3"),
    ({"source": torch.zeros(4)}, r"'source' has shape \[4\], it must be \[N, D\]"),
    ({"source": torch.zeros(4, 0)}, r"shape \[4, 0\]"),
    ({"source": torch.zeros(4, 3, dtype=torch.int64)}, "holds int64, features must be floating point"),
    ({"labels": torch.zeros(3, dtype=torch.int64)}, r"'label' is int64 \[3\], it must be int64 \[4\]"),
    ({"labels": torch.zeros(4)}, "must be int64"),
    ({"labels": torch.tensor([0, -1, 2, 3])}, "'label' holds -1"),
    ({"variants": torch.zeros(4, 1, dtype=torch.int64)}, "'variant' is int64"),
    ({"source": torch.tensor([[1.0], [float("nan")], [0.0], [float("inf")]])}, r"in 2 rows \(first: row 1\)"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN)
def test_broken_tuples_are_neither_written_nor_read(tmp_path, change, message):
    broken = tuples(**change)
    path = tmp_path / "f.safetensors"
    with pytest.raises(UsageError, match=message):
        save_features(path, broken)
    assert list(tmp_path.iterdir()) == []
    tensors = {"source": broken.source, "label": broken.labels, "variant": broken.variants}
    path.write_bytes(to_bytes(tensors | {f"reference.{k}": v for k, v in broken.references.items()}))
    with pytest.raises(UsageError) as caught:
        load_features(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a feature file"),
        (b"\xff" * 50, "is not a feature file"),
        (b"\x02\0\0\0\0\0\0\0{}", "no tensor named reference"),
        (
            to_bytes({"source": torch.zeros(2, 2), "reference.a": torch.zeros(2, 2)})[:-3],
            "is not a feature file",
        ),
    ],
)
def test_files_that_are_no_feature_files(tmp_path, content, message):
    path = tmp_path / "f.safetensors"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        load_features(path)
    with pytest.raises(UsageError, match="the stream is empty" if not content else message):
        load_features(io.BytesIO(content))


def test_missing_places(tmp_path):
    with pytest.raises(UsageError, match="does not exist; make one with: platodef extract"):
        load_features(tmp_path / "gone")
    with pytest.raises(UsageError, match="the folder .* does not exist"):
        save_features(tmp_path / "gone" / "f", tuples())
    with pytest.raises(UsageError, match="it is a folder"):
        save_features(tmp_path, tuples())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(IncompleteError, match="ermission denied"):
        save_features(tmp_path / "f", tuples())


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "f.safetensors"
    save_features(path, tuples())
    before = path.read_bytes()

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(IncompleteError, match="No space left"):
        save_features(path, tuples(6))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_newer_schema_is_refused(tmp_path):
    tensors = {"source": torch.zeros(2, 2), "reference.a": torch.zeros(2, 2)}
    path = tmp_path / "f.safetensors"
    path.write_bytes(to_bytes(tensors, {"schema_version": "2", "references": '["a"]'}))
    with pytest.raises(UsageError, match="schema version 2, this platodef reads 1; update"):
        load_features(path)
    path.write_bytes(to_bytes(tensors, {"schema_version": "7.1"}))  # another tool's own numbering
    assert len(load_features(path)) == 2


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_files_give_one_line(data):
    stream = io.BytesIO()
    save_features(stream, tuples())
    damaged = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    keep = data.draw(st.one_of(st.just(len(damaged)), st.integers(0, len(damaged))))
    message = ""
    try:
        load_features(io.BytesIO(bytes(damaged[:keep])))
    except UsageError as error:
        message = str(error)
    assert "\n" not in message


def test_metadata_names_everything_that_made_the_features():
    encoder = ProjectionEncoder().record
    refs = [ImageRef("a", "0" * 64, None), ImageRef("b", "1" * 64, None)]
    metadata = describe(encoder, {"r": encoder}, refs, images="folder", variants=("clean", "patch"))
    assert all(isinstance(value, str) for value in metadata.values())
    assert encoder.digest in metadata["encoder.source"]
    assert metadata["image_set"] == image_set_digest(refs)
    assert image_set_digest(refs) == hashlib.sha256(("0" * 64 + "1" * 64).encode()).hexdigest()
    assert image_set_digest(refs) != image_set_digest(refs[::-1])
    moved = describe(encoder, {"r": encoder}, [refs[0], ImageRef("c", "1" * 64, None)], images="folder")
    assert moved["sample_ids"] != metadata["sample_ids"]


def test_image_ids_travel_with_their_rows(tmp_path: Path) -> None:
    ids = ("a/1.png", "=cmd, [x]", "ü\n")
    tuples = FeatureTuples(torch.eye(3), {"r": torch.eye(3)}, ids=ids)
    save_features(tmp_path / "f.safetensors", tuples)
    assert load_features(tmp_path / "f.safetensors").ids == ids
    assert tuples.select(torch.tensor([2, 0])).ids == ("ü\n", "a/1.png")
    assert tuples.select(torch.tensor([False, True, False])).ids == ("=cmd, [x]",)
    assert tuples.with_source(torch.zeros(3, 2)).ids == ids


HOSTILE_IDS = (b"[1, 2, 3]", b'["a"]', b"\xff\xff", b"[" * 9000, b'{"a": 1}', b"x" * 99_999)


@pytest.mark.parametrize(
    "text", [b"[1, 2, 3]", b'["a"]', b"\xff\xff", b"[" * 9000, b'{"a": 1}', b"x" * 99_999]
)
def test_hostile_image_ids_are_refused(text: bytes, tmp_path: Path) -> None:
    tensors = {
        "source": torch.eye(3),
        "reference.r": torch.eye(3),
        "image": torch.frombuffer(bytearray(text), dtype=torch.uint8),
    }
    save_file(tensors, tmp_path / "f.safetensors")
    with pytest.raises(UsageError, match="tensor 'image' holds no list of 3 image ids"):
        load_features(tmp_path / "f.safetensors")
