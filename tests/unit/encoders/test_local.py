"""Loading and running in this process: limits, bytes that change, features that are not finite."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from platodef_cli.encoders.checks.limits import Limits
from platodef_cli.encoders.checks.preflight import preflight
from platodef_cli.encoders.checks.weights import Bundle, tensors_of
from platodef_cli.encoders.guards import memory_guard
from platodef_cli.encoders.load import load_tower, open_encoder
from platodef_cli.encoders.local import check_depth
from platodef_cli.errors import IncompleteError, RefusedError, UnsupportedError, UsageError
from tests.contract import encoder_models as make
from tests.unit.encoders.folders import header, safetensors


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny timm ViT."""
    folder = tmp_path_factory.mktemp("timm") / "model"
    make.timm_model(folder)
    return folder


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    """A copy that the test may damage."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((saved / name).read_bytes())
    return folder


def edit(folder: Path, **changes: Any) -> None:
    """Merge changes into config.json, one level deep."""
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        config[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value
    (folder / "config.json").write_text(json.dumps(config))


def test_the_record_says_what_was_loaded(saved: Path) -> None:
    with open_encoder(str(saved), name="tiny") as encoder:
        record = encoder.record
        assert (record.name, record.backend, record.architecture) == ("tiny", "timm", "vit_tiny_patch16_224")
        assert (record.commit, record.isolated, record.dtype) == (None, False, "float32")
        assert record.dim == encoder.dim == 32
        assert record.files == preflight(saved).files
        assert record.digest == preflight(saved).digest
        assert record.transform.size == encoder.geometry.size == (32, 32)
        own = load_file(saved / "model.safetensors")
        assert record.parameters == sum(v.numel() for k, v in own.items() if not k.startswith("head."))


def test_features_are_the_same_every_time_and_independent_of_global_state(saved: Path) -> None:
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    with open_encoder(str(saved)) as first:
        features = first.embed(pixels)
        assert not features.requires_grad
        assert not features.is_inference()
        torch.manual_seed(99)
        with torch.enable_grad():
            assert torch.equal(first.embed(pixels), features)
    with open_encoder(str(saved)) as second:
        assert torch.equal(second.embed(pixels), features)


def test_weights_never_receive_gradients(saved: Path) -> None:
    with open_encoder(str(saved)) as encoder:
        pixels = torch.rand(2, 3, 32, 32, requires_grad=True)
        encoder.differentiable(pixels).sum().backward()
        assert pixels.grad is not None
        assert pixels.grad.abs().sum() > 0
        assert all(p.grad is None for p in encoder._tower.module.parameters())


@pytest.mark.parametrize(
    "pixels",
    [
        torch.zeros(2, 3, 16, 16, dtype=torch.uint8),
        torch.zeros(3, 32, 32, dtype=torch.uint8),
        torch.zeros(2, 3, 32, 32),
        torch.zeros(2, 1, 32, 32, dtype=torch.uint8),
    ],
)
def test_pixels_that_do_not_fit(pixels: torch.Tensor, saved: Path) -> None:
    with open_encoder(str(saved)) as encoder, pytest.raises(UsageError, match="do not fit the encoder"):
        encoder.embed(pixels)


def test_a_closed_encoder_says_so(saved: Path) -> None:
    encoder = open_encoder(str(saved), name="tiny")
    encoder.close()
    with pytest.raises(IncompleteError, match="'tiny' is closed"):
        encoder.embed(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


def test_features_that_are_not_finite_are_refused(model: Path) -> None:
    state = load_file(model / "model.safetensors")
    state["norm.weight"] = torch.full_like(state["norm.weight"], 3e38)
    state["norm.bias"] = torch.full_like(state["norm.bias"], 3e38)
    save_file(state, model / "model.safetensors")
    with open_encoder(str(model), name="loud") as encoder:
        pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
        with pytest.raises(RefusedError, match="'loud' returned features that are not finite"):
            encoder.embed(pixels)
        with pytest.raises(RefusedError, match="'loud' returned features that are not finite"):
            encoder.differentiable(pixels.float() / 255)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_changes_after_the_check_is_refused(name: str, model: Path) -> None:
    checked = preflight(model)
    data = bytearray((model / name).read_bytes())
    data[-2] ^= 1
    (model / name).write_bytes(data)
    with pytest.raises(RefusedError, match="changed between check and load"):
        load_tower(checked, torch.device("cpu"), torch.float32)


def test_a_file_that_is_swapped_for_a_link_is_refused(model: Path, tmp_path: Path) -> None:
    checked = preflight(model)
    (model / "model.safetensors").rename(tmp_path / "elsewhere")
    (model / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RefusedError, match="a link out of the model folder"):
        load_tower(checked, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "no_such_network"}, "is not one of this timm"),
        ({"architecture": "resnet18"}, "cannot be built|weight"),
        ({"model_args": {"depth": 3}}, "lacks the weight"),
        ({"model_args": {"depth": 1}}, "unexpected weight"),
        ({"model_args": {"no_such_argument": 3}}, "cannot be built from its configuration"),
        ({"model_args": {"scriptable": True}}, "not an argument that a model folder may set"),
        ({"model_args": {"in_chans": 1}}, "only RGB|channels"),
        ({"model_args": {"embed_dim": 48}}, "shape|cannot be built"),
        ({"model_args": {"depth": "two"}}, "cannot be built from its configuration"),
        ({"pretrained_cfg": {"crop_pct": 1e-9}}, "out of range"),
        ({"pretrained_cfg": {"interpolation": "hamming"}}, "interpolation 'hamming'"),
        ({"pretrained_cfg": {"mean": "grey"}}, "cannot run it"),
        (
            {"pretrained_cfg": {"input_size": [3, 64, 64], "fixed_input_size": False}},
            "images of another size",
        ),
        ({"pretrained_cfg": 3}, "must be objects|cannot run it"),
    ],
)
def test_configurations_that_do_not_fit(changes: dict[str, Any], message: str, model: Path) -> None:
    edit(model, **changes)
    with pytest.raises((RefusedError, UsageError), match=message) as caught:
        open_encoder(str(model))
    assert "\n" not in str(caught.value)


def test_the_number_of_classes_does_not_loosen_the_load(model: Path) -> None:
    edit(model, num_classes=3)
    open_encoder(str(model)).close()
    state = load_file(model / "model.safetensors")
    del state["norm.weight"]
    save_file(state, model / "model.safetensors")
    with pytest.raises(RefusedError, match=r"lacks the weight 'norm\.weight'"):
        open_encoder(str(model))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"dtype": "float16"}, "choose float32 or bfloat16"), ({"device": "nonsense"}, "cannot be used here")],
)
def test_wrong_options(options: dict[str, str], message: str, saved: Path) -> None:
    with pytest.raises(UsageError, match=message):
        open_encoder(str(saved), **options)


def test_a_stack_that_is_too_long_is_refused() -> None:
    check_depth(nn.Sequential(*[nn.Identity()] * 200), Limits(), "model")
    with pytest.raises(RefusedError, match="stack of 201 layers"):
        check_depth(nn.ModuleList([nn.Identity() for _ in range(201)]), Limits(), "model")


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("x"), RuntimeError("not enough memory: can't allocate memory")],
)
def test_exhausted_memory_is_incomplete(error: Exception) -> None:
    with pytest.raises(IncompleteError, match="'tiny' ran out of memory"), memory_guard("tiny"):
        raise error


def test_other_errors_pass_the_memory_guard() -> None:
    with pytest.raises(RuntimeError, match="something else"), memory_guard("tiny"):
        raise RuntimeError("something else")


@pytest.mark.parametrize("padding", [0, 1, 3])
def test_tensors_equal_those_of_safetensors(padding: int, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    kinds = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
    expected = {f"t{i}": torch.randn(3, 2, generator=generator).to(kind) for i, kind in enumerate(kinds)}
    expected |= {"empty": torch.zeros(0, 4), "scalar": torch.tensor(3), "flags": torch.tensor([True, False])}
    save_file(expected, tmp_path / "x.safetensors")
    data = (tmp_path / "x.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    # A header may have any length, so the tensors need not be aligned.
    data = (
        (length + padding).to_bytes(8, "little") + data[8 : 8 + length] + b" " * padding + data[8 + length :]
    )
    read = tensors_of(bytearray(data), "x.safetensors", Limits())
    assert read.keys() == expected.keys()
    for name, value in expected.items():
        assert read[name].dtype == value.dtype
        assert torch.equal(read[name], value)


def test_a_bundle_reads_only_what_was_examined(saved: Path) -> None:
    checked = preflight(saved)
    bundle = Bundle(saved, checked.files[:1], 0)
    assert bundle.has("config.json")
    assert not bundle.has("model.safetensors")
    assert bundle.state_dict() == {}
    data = bytearray(safetensors(header({"x": ("F8_E4M3", [2])})))
    with pytest.raises(UnsupportedError, match="not supported"):
        tensors_of(data, "x.safetensors", Limits())
