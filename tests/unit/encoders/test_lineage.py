"""Sketches of weights: what they say of the model that another one was made from."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from platodef_cli.encoders.checks.preflight import preflight
from platodef_cli.encoders.lineage.compare import compare, nearest
from platodef_cli.encoders.lineage.index import Known, add, entries, known_of, read_known, remove, text_of
from platodef_cli.encoders.lineage.sketch import count_sketch, largest_singular
from platodef_cli.errors import EXIT_PASS, EXIT_USAGE, RefusedError, UnknownNameError, UsageError
from platodef_cli.resources import data_dir, shipped_lineage
from tests.unit.cli.calls import command
from tests.unit.encoders.folders import TIMM

Weights = dict[str, torch.Tensor]


def weights(seed: int, layers: int = 12) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    made = {f"blocks.{i}.weight": torch.randn(48, 96, generator=generator) for i in range(layers)}
    return made | {"blocks.0.bias": torch.randn(48, generator=generator)}


def folder(place: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps(TIMM))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, place / "model.safetensors")
    return place


@pytest.fixture
def known(tmp_path: Path) -> Callable[..., Known]:
    def make(name: str, tensors: Mapping[str, torch.Tensor]) -> Known:
        return known_of(preflight(folder(tmp_path / name, tensors)), name=name, uri=name, commit=None)

    return make


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLATODEF_LINEAGE_DIR", str(tmp_path / "index"))
    return tmp_path / "index"


def test_count_sketches_estimate_inner_products() -> None:
    generator = np.random.default_rng(3)
    products, truths = [], []
    for _ in range(200):
        one, two = generator.standard_normal((2, 3000)).astype(np.float32)
        two = (0.6 * one + 0.8 * two).astype(np.float32)
        products.append(count_sketch(one) @ count_sketch(two) / (np.linalg.norm(one) * np.linalg.norm(two)))
        truths.append(one @ two / (np.linalg.norm(one) * np.linalg.norm(two)))
    errors = np.array(products) - np.array(truths)
    assert abs(errors.mean()) < 0.04
    assert 0.1 < errors.std() < 0.3  # about 1 / sqrt(32), more where the vectors are parallel


def test_sketches_are_the_same_on_every_machine() -> None:
    sketch = count_sketch(np.arange(1, 9, dtype=np.float32))
    # 3 and -1 share bucket 20
    filled = {1: 7, 10: 6, 12: -4, 15: 2, 20: 2, 27: 5, 28: -8}
    assert {place: value for place, value in enumerate(sketch.tolist()) if value} == filled
    # a long vector is added up in parts, which must not show
    long = np.ones(2**20 + 5, dtype=np.float32)
    first, rest = long.copy(), long.copy()
    first[2**20 :], rest[: 2**20] = 0, 0
    assert np.allclose(count_sketch(first) + count_sketch(rest), count_sketch(long))


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (3, 5), (1, 70)])
def test_singular_values_are_those_of_numpy(shape: tuple[int, int]) -> None:
    # as weights have them: some directions stand out
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    matrix[0] *= 6
    exact = np.linalg.svd(matrix.numpy(), compute_uv=False)[:4]
    found = largest_singular(matrix)
    assert len(found) == 4
    assert np.allclose(found[: len(exact)], exact, rtol=0.02)


def test_a_changed_layer_is_found_and_the_others_are_the_same(known: Callable[..., Known]) -> None:
    base = weights(0)
    changed = {**base, "blocks.3.weight": base["blocks.3.weight"] + 0.5 * weights(9)["blocks.3.weight"]}
    found = compare(known("child", changed).layers, known("base", base))
    assert found is not None
    assert [layer.name for layer in found.layers if not layer.same] == ["blocks.3.weight"]
    assert found.layers[0].cosine == pytest.approx(0.894, abs=0.1)
    assert found.layers[0].length == pytest.approx(1.118, abs=0.03)
    assert found.coverage == 1
    assert found.related


def test_small_changes_are_measured_closely(known: Callable[..., Known]) -> None:
    base = weights(0)
    noise = {name: tensor + 0.1 * weights(9)[name] for name, tensor in base.items()}
    found = compare(known("child", noise).layers, known("base", base))
    assert found is not None
    assert found.cosine == pytest.approx(1 / 1.01**0.5, abs=0.002)


def test_models_that_have_nothing_in_common_are_not_related(known: Callable[..., Known]) -> None:
    own = known("own", weights(0)).layers
    for seed in range(1, 9):
        found = compare(own, known(f"other-{seed}", weights(seed)))
        assert found is not None
        assert not found.related, found.cosine
        assert abs(found.cosine) < 5 * found.deviation


def test_the_base_is_the_nearest_and_never_the_model_itself(known: Callable[..., Known]) -> None:
    base = weights(0)
    child = known("child", {name: tensor + 0.3 for name, tensor in base.items()})
    index = [known("base", base), known("other", weights(1)), child, known("small", weights(2, layers=3))]
    found = nearest(child.layers, index, child.digest)
    assert found is not None
    assert found.known.name == "base"


def test_layers_of_other_shapes_are_not_compared(known: Callable[..., Known]) -> None:
    other = {name: tensor[:, :40] for name, tensor in weights(0).items() if tensor.ndim > 1}
    assert compare(known("child", other).layers, known("base", weights(0))) is None


def test_prefixes_of_libraries_do_not_matter_nor_does_half_precision(known: Callable[..., Known]) -> None:
    base = weights(0)
    stored = {f"vision_model.{name}": tensor.to(torch.bfloat16) for name, tensor in base.items()}
    found = compare(known("child", stored).layers, known("base", base))
    assert found is not None
    assert found.coverage == 1
    assert found.cosine > 0.999


def test_permuted_neurons_keep_the_spectrum(known: Callable[..., Known]) -> None:
    base = weights(0)
    order = torch.randperm(48, generator=torch.Generator().manual_seed(1))
    permuted = {name: tensor[order] for name, tensor in base.items()}
    found = compare(known("child", permuted).layers, known("base", base))
    assert found is not None
    assert not found.related
    assert max(layer.spectrum for layer in found.layers) < 5e-3


def test_an_entry_comes_back_and_is_small(known: Callable[..., Known], tmp_path: Path) -> None:
    entry = known("model", weights(0))
    path = add(entry, tmp_path / "index")
    assert path.stat().st_size < 250 * len(entry.layers) + 400
    back = read_known(path)
    assert text_of(back) == path.read_text() == text_of(entry)
    found = compare(entry.layers, back)
    assert found is not None
    assert all(layer.same for layer in found.layers)


def test_files_that_changed_are_refused(tmp_path: Path) -> None:
    checked = preflight(folder(tmp_path / "model", weights(0)))
    (tmp_path / "model" / "model.safetensors").write_bytes(b"x" * checked.files[1].bytes)
    with pytest.raises(RefusedError):
        known_of(checked, name="model", uri="model", commit=None)


def test_one_name_is_one_model(known: Callable[..., Known], index: Path) -> None:
    add(known("model", weights(0)))
    add(known("again", weights(0)))
    add(read_known(index / "model.json"))
    other = Known(**{**vars(known("third", weights(3))), "name": "model"})
    with pytest.raises(UsageError, match="another model named 'model'"):
        add(other)
    shipped = Known(**{**vars(other), "name": "clean"})
    with pytest.raises(UsageError, match="another model named 'clean'"):
        add(shipped)
    with pytest.raises(UsageError, match="part of the package"):
        remove("clean")
    with pytest.raises(UnknownNameError):
        remove("../model")
    remove("model")
    assert sorted(os.listdir(index)) == ["again.json"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[" * 100_000,
        lambda text: text.replace('"layers":[[', '"layers":[[["x"],'),
        lambda text: text.replace("[48,96]", "[0,96]"),
        lambda text: text.replace("[48,96]", "[-48,96]"),
        lambda text: text.replace('"name":"model"', '"name":"../model"'),
        lambda text: text.replace('"format":"platodef-lineage/1"', '"format":"platodef-lineage/2"'),
        lambda text: text.replace("A", "!", 1),
        lambda text: "",
        lambda text: "\x00\xff",
    ],
)
def test_damaged_entries_are_told_and_leave_the_rest(
    damage: Callable[[str], str], known: Callable[..., Known], index: Path
) -> None:
    path = add(known("model", weights(0)))
    good = len(entries()[0])
    changed = damage(path.read_text())
    if changed == path.read_text():
        pytest.skip("this entry has nothing to damage in this way")
    path.write_text(changed)
    found, problems = entries()
    assert len(found) == good - 1
    assert len(problems) == 1
    assert "platodef lineage remove model" in problems[0]


def test_shipped_sketches_are_those_of_the_embedded_encoders() -> None:
    place = shipped_lineage()
    assert place is not None
    names = sorted(path.stem for path in place.glob("*.json"))
    assert names == ["clean", "reference-cnx", "reference-vit"]
    for name in names:
        entry = read_known(place / f"{name}.json", shipped=True)
        made = known_of(preflight(data_dir("encoders") / name), name=name, uri=entry.uri, commit=None)
        assert entry.digest == made.digest
        found = compare(made.layers, entry)
        assert found is not None
        assert all(layer.same and layer.spectrum < 1e-3 for layer in found.layers)
        assert all(
            np.allclose(a.buckets, b.buckets, atol=2e-3)
            for a, b in zip(made.layers, entry.layers, strict=True)
        )


def test_the_embedded_backdoored_encoder_was_made_from_the_clean_one() -> None:
    checked = preflight(data_dir("encoders") / "backdoored")
    own = known_of(checked, name="x", uri="x", commit=None)
    found = nearest(own.layers, entries()[0], own.digest)
    assert found is not None
    assert found.known.name == "clean"
    assert found.related


def test_the_commands(index: Path, tmp_path: Path) -> None:
    model = tmp_path / "my model"
    folder(model, load_file(data_dir("encoders") / "clean" / "model.safetensors"))
    (model / "config.json").write_bytes((data_dir("encoders") / "clean" / "config.json").read_bytes())
    done = command("lineage", "add", str(model))
    assert done.code == EXIT_PASS, done.err
    assert "my-model is in the index" in done.last
    rows = json.loads(command("lineage", "list", "--json").out)
    assert [row["name"] for row in rows] == ["clean", "reference-cnx", "reference-vit", "my-model"]
    assert command("lineage", "remove", "my-model").code == EXIT_PASS
    assert command("lineage", "remove", "my-model").code == EXIT_USAGE
    assert command("lineage", "add", str(tmp_path / "nothing")).code == EXIT_USAGE
