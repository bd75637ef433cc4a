"""Feature files in blocks: the same rows, the same bytes, the same refusals; and samples of streams."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from platodef_cli.errors import UsageError
from platodef_cli.features.file import load_features, save_features
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.features.reservoir import Reservoir, joined, sample
from platodef_cli.features.stream import FeatureFile, FeatureStream
from platodef_cli.features.writer import write_features


def tuples(n: int, seed: int = 0, **changes: object) -> FeatureTuples:
    generator = torch.Generator().manual_seed(seed)
    made = FeatureTuples(
        source=torch.randn(n, 3, generator=generator),
        references={
            "zeta": torch.randn(n, 5, generator=generator),
            "alpha": torch.randn(n, 2, generator=generator),
        },
        labels=torch.arange(n) % 3,
        variants=torch.arange(n) % 2,
        metadata={"images": "here", "classes": '["a","b","c"]'},
        ids=tuple(f"{seed}-{row} ä" for row in range(n)),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def same(first: FeatureTuples, second: FeatureTuples) -> None:
    assert torch.equal(first.source, second.source)
    assert list(first.references) == list(second.references)
    assert all(torch.equal(first.references[name], second.references[name]) for name in first.references)
    for one, other in ((first.labels, second.labels), (first.variants, second.variants)):
        assert (one is None and other is None) or torch.equal(one, other)  # type: ignore[arg-type]
    assert first.ids == second.ids


@pytest.mark.parametrize("changes", [{}, {"labels": None, "ids": None}, {"variants": None}])
def test_blocks_are_the_rows_of_the_file(tmp_path: Path, changes: dict[str, object]) -> None:
    path = tmp_path / "f.safetensors"
    save_features(path, tuples(50, **changes))
    file = FeatureFile(path)
    assert (file.rows, file.dims["source"]) == (50, 3)
    for rows in (7, 50, 1000):
        blocks = list(file.blocks(rows))
        assert len(blocks) == -(-50 // rows)
        same(joined(blocks), load_features(path))


def test_the_writer_gives_the_same_bytes(tmp_path: Path) -> None:
    for number, changes in enumerate(({}, {"labels": None}, {"ids": None, "variants": None, "metadata": {}})):
        whole = tuples(40, **changes)
        save_features(tmp_path / "whole", whole)
        parts = [whole.select(torch.arange(start, min(start + 9, 40))) for start in range(0, 40, 9)]
        write_features(tmp_path / f"parts{number}", parts, 40, whole.ids)
        assert (tmp_path / f"parts{number}").read_bytes() == (tmp_path / "whole").read_bytes()


def test_files_of_other_tools_and_types(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    values = {"emb": torch.randn(9, 4).to(torch.float16), "other": torch.randn(9, 2).bfloat16()}
    save_file({**values, "label": torch.arange(9, dtype=torch.int32)}, path)
    found = FeatureFile(path, "emb", ["other"]).read(2, 9)
    assert torch.equal(found.source, values["emb"][2:].float())
    assert torch.equal(found.references["other"], values["other"][2:].float())
    assert found.labels is not None
    assert found.labels.tolist() == list(range(2, 9))


def test_a_folder_is_its_files_in_order(tmp_path: Path) -> None:
    for number in (2, 0, 1):
        save_features(tmp_path / f"part-{number}.safetensors", tuples(10 + number, seed=number))
    (tmp_path / ".tmp-x.safetensors").write_bytes(b"half")
    (tmp_path / "manifest.json").write_text("{}")
    stream = FeatureStream(tmp_path)
    assert stream.rows == 33
    rows = joined(list(stream.blocks(4)))
    same(rows, joined([tuples(10 + number, seed=number) for number in range(3)]))
    assert [name.partition("-")[0] for name in rows.ids or ()] == ["0"] * 10 + ["1"] * 11 + ["2"] * 12


def test_labels_of_other_classes_are_left_aside(tmp_path: Path) -> None:
    save_features(tmp_path / "a.safetensors", tuples(5))
    save_features(tmp_path / "b.safetensors", tuples(5, metadata={"classes": '["x"]'}))
    assert all(block.labels is None for block in FeatureStream(tmp_path).blocks())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_bytes(b""), "no complete feature file"),
        (lambda path: path.write_bytes(b"x" * 100), "no complete feature file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-3]), "no complete feature file"),
        (lambda path: save_features(path, tuples(5, source=torch.zeros(5, 9))), "has the tensors"),
        (lambda path: save_features(path, tuples(5, variants=None)), "says the variant"),
        (lambda path: save_features(path, tuples(5, metadata={"encoder.source": "x"})), "different encoders"),
        (lambda path: save_file({"source": torch.zeros(4, 2)}, path), "no tensor named reference"),
        (lambda path: path.unlink(), ""),
    ],
)
def test_what_is_wrong_with_a_shard_is_said_with_its_name(tmp_path: Path, make: object, words: str) -> None:
    save_features(tmp_path / "a.safetensors", tuples(5))
    path = tmp_path / "b.safetensors"
    save_features(path, tuples(5))
    make(path)  # type: ignore[operator]
    if not words:
        assert FeatureStream(tmp_path).rows == 5
        return
    with pytest.raises(UsageError, match=words) as error:
        list(FeatureStream(tmp_path).blocks())
    assert "b.safetensors" in str(error.value)


def test_values_that_are_no_numbers_are_found_in_later_blocks(tmp_path: Path) -> None:
    source = torch.zeros(30, 3)
    path = tmp_path / "f.safetensors"
    save_file({"source": source, "reference.r": torch.zeros(30, 2)}, path)
    data = bytearray(path.read_bytes())
    data[-4:] = np.float32("nan").tobytes()
    path.write_bytes(data)
    with pytest.raises(UsageError, match="rows from 20: tensor 'source' has NaN"):
        list(FeatureFile(path).blocks(10))


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no feature file"):
        FeatureStream(tmp_path)


def test_a_sample_does_not_depend_on_the_blocks() -> None:
    whole = tuples(1000)
    cut = [whole.select(torch.arange(start, min(start + 37, 1000))) for start in range(0, 1000, 37)]
    first, second = sample([whole], 100, seed=3), sample(cut, 100, seed=3)
    assert first is not None
    assert second is not None
    same(first, second)
    assert len(first) == 100
    rows = [int((whole.ids or ()).index(name)) for name in first.ids or ()]
    assert rows == sorted(rows)
    other = sample(cut, 100, seed=4)
    assert other is not None
    assert other.ids != first.ids


def test_a_short_stream_is_kept_as_it_is() -> None:
    whole = tuples(20)
    kept = sample([whole.select(torch.arange(8)), whole.select(torch.arange(8, 20))], 20)
    assert kept is not None
    same(kept, whole)
    assert sample([], 5) is None
    with pytest.raises(UsageError, match="is empty"):
        Reservoir(0)


def test_every_row_is_as_likely_as_any_other() -> None:
    whole = FeatureTuples(torch.arange(50.0)[:, None], {"r": torch.zeros(50, 1)})
    counts = torch.zeros(50)
    for seed in range(2000):
        kept = sample([whole.select(torch.arange(start, start + 10)) for start in range(0, 50, 10)], 10, seed)
        assert kept is not None
        counts[kept.source[:, 0].long()] += 1
    # binomial of 2000 and 1/5: five standard deviations
    assert float((counts - 400).abs().max()) < 5 * (2000 * 0.2 * 0.8) ** 0.5
