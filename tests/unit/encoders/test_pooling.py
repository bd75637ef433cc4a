"""``--pooling``: which encoders it applies to, what it gives, and that nothing else changes."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from timm.models import save_for_hf
from torch import Tensor

from platodef_cli.audit.config import AuditConfig
from platodef_cli.encoders.load import open_encoder
from platodef_cli.encoders.pooling import poolings_of
from platodef_cli.errors import UnknownNameError, UsageError
from platodef_cli.progress import SilentProgress
from tests.contract import encoder_models as make


class Told(SilentProgress):
    """Keeps warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def _timm(folder: Path, name: str, **arguments: Any) -> Any:
    network = timm.create_model(name, num_classes=0, **arguments).eval()
    make.randomise(network)
    save_for_hf(network, folder, safe_serialization=True)
    return network


def _pixels(encoder: Any) -> tuple[Tensor, Tensor]:
    """Return pixels, and the same normalised."""
    levels = torch.randint(0, 256, (2, 3, *encoder.geometry.size), generator=torch.Generator().manual_seed(1))
    transform = encoder.record.transform
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (transform.mean, transform.std))
    return levels.byte(), (levels / 255 - mean) / std


@pytest.mark.parametrize(("wanted", "name"), [("mean", "mean of patches"), ("class", "class token")])
def test_tokens_of_timm_are_pooled_as_the_user_says(wanted: str, name: str, tmp_path: Path) -> None:
    network = _timm(tmp_path / "m", "test_vit", global_pool="")
    told = Told()
    with open_encoder(str(tmp_path / "m"), pooling=wanted, progress=told) as encoder:
        pixels, inputs = _pixels(encoder)
        with torch.inference_mode():
            tokens = network(inputs)
        expected = tokens[:, 0] if wanted == "class" else tokens[:, network.num_prefix_tokens :].mean(1)
        torch.testing.assert_close(encoder.embed(pixels), expected, rtol=1e-4, atol=1e-5)
        assert encoder.record.pooling == name
    assert not told.warnings


def test_without_a_word_the_choice_is_told(tmp_path: Path) -> None:
    _timm(tmp_path / "m", "test_vit", global_pool="")
    told = Told()
    with open_encoder(str(tmp_path / "m"), progress=told) as encoder:
        assert encoder.record.pooling == "class token"
    (warning,) = told.warnings
    assert "so the class token is taken; --pooling mean or class chooses" in warning


@pytest.mark.parametrize("name", ["test_resnet", "swin_tiny_patch4_window7_224"])
def test_maps_are_averaged_over_their_places_whatever_their_layout(name: str, tmp_path: Path) -> None:
    small = {"depths": (1, 1), "embed_dim": 32, "num_heads": (1, 2)} if name.startswith("swin") else {}
    network = _timm(tmp_path / "m", name, global_pool="", **small)
    with open_encoder(str(tmp_path / "m")) as encoder:
        pixels, inputs = _pixels(encoder)
        with torch.inference_mode():
            output = network(inputs)
        expected = output.mean((1, 2) if small else (2, 3))
        torch.testing.assert_close(encoder.embed(pixels), expected, rtol=1e-3, atol=1e-4)
        assert encoder.record.pooling == "mean of patches"
    with pytest.raises(UsageError, match="this model has no class token"):
        open_encoder(str(tmp_path / "m"), pooling="class")


def _transformers(folder: Path, kind: str) -> Any:
    config = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config |= {"image_size": 32, "patch_size": 8}
    made = {"vit": (transformers.ViTConfig, transformers.ViTModel),
            "beit": (transformers.BeitConfig, transformers.BeitModel),
            "dinov2": (transformers.Dinov2Config, transformers.Dinov2Model)}[kind]  # fmt: skip
    arguments = {} if kind == "dinov2" else {"add_pooling_layer": False}
    network = made[1](made[0](**config), **arguments).eval()
    make.randomise(network)
    network.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return network


@pytest.mark.parametrize("kind", ["vit", "beit"])
@pytest.mark.parametrize("isolate", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_towers_of_transformers_without_a_pooler(kind: str, isolate: bool, tmp_path: Path) -> None:
    network = _transformers(tmp_path / "m", kind)
    found = {}
    for wanted in ("auto", "class", "mean"):
        with open_encoder(str(tmp_path / "m"), pooling=wanted, isolate=isolate) as encoder:
            pixels, inputs = _pixels(encoder)
            found[wanted] = encoder.embed(pixels)
            assert encoder.record.pooling == ("mean of patches" if wanted == "mean" else "class token")
    with torch.inference_mode():
        tokens = network(pixel_values=inputs).last_hidden_state
    torch.testing.assert_close(found["class"], tokens[:, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["mean"], tokens[:, 1:].mean(1), rtol=1e-4, atol=1e-5)
    assert torch.equal(found["auto"], found["class"])


def test_an_encoder_that_pools_itself_is_left_as_it_is(tmp_path: Path) -> None:
    _transformers(tmp_path / "dinov2", "dinov2")
    _timm(tmp_path / "timm", "test_vit", global_pool="avg")
    make.open_clip_model(tmp_path / "clip")
    for folder, pooled in (("dinov2", "pooler_output"), ("timm", "avg"), ("clip", "encode_image")):
        for wanted in ("mean", "class"):
            with pytest.raises(UsageError, match=f"already one vector per image \\({pooled}\\)"):
                open_encoder(str(tmp_path / folder), pooling=wanted)


def test_a_choice_is_for_one_encoder() -> None:
    said = poolings_of(["mean", "a/b=class"], "suspect", ["a/b", "c"])
    assert said == {"suspect": "mean", "a/b": "class", "c": "auto"}
    with pytest.raises(UsageError, match="no encoder of this run is called 'x'"):
        poolings_of(["x=mean"], "suspect", ["a/b"])
    with pytest.raises(UsageError, match="says twice how 'suspect' is pooled"):
        poolings_of(["mean", "suspect=class"], "suspect", ["a/b"])
    with pytest.raises(UnknownNameError, match="'median'"):
        AuditConfig("m", pooling=["median"])


def test_only_a_choice_is_part_of_what_an_audit_was_asked() -> None:
    assert "pooling" not in AuditConfig("m").to_json()
    assert json.loads(json.dumps(AuditConfig("m", pooling="mean").to_json()))["pooling"] == ["mean"]
