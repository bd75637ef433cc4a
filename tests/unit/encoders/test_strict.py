"""Weights under the names that training gave them: wrapped, shared, or more than a configuration says."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from platodef_cli.encoders.load import open_encoder
from platodef_cli.encoders.strict import load_strictly, unwrapped
from platodef_cli.errors import RefusedError, UnsupportedError, UsageError

SMALL: dict[str, Any] = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}
OPTIONS = {"input_size": [3, 32, 32], "fixed_input_size": True, "mean": [0.5] * 3, "std": [0.5] * 3,
           "interpolation": "bicubic", "crop_pct": 1.0, "num_classes": 0}  # fmt: skip


class Shared(nn.Module):
    """A network that uses one layer in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = self.first


def write(folder: Path, state: dict[str, torch.Tensor], stated: dict[str, Any], **options: Any) -> Path:
    """Write a folder of timm with the weights ``state``."""
    folder.mkdir()
    save_file({key: value.contiguous().clone() for key, value in state.items()}, folder / "model.safetensors")
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 0, "model_args": stated}
    (folder / "config.json").write_text(json.dumps({**config, "pretrained_cfg": {**OPTIONS, **options}}))
    return folder


def network(**arguments: Any) -> Any:
    """Return a small random ViT without zeros that could hide a mistake."""
    torch.manual_seed(2)
    made = timm.create_model("vit_tiny_patch16_224", num_classes=0, **SMALL, **arguments).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def features(folder: Path) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Return the features of one grey image, and the notes."""
    with open_encoder(str(folder)) as encoder:
        return encoder.embed(torch.full((1, 3, 32, 32), 200, dtype=torch.uint8)), encoder.notes  # type: ignore[attr-defined]


def expected(made: Any) -> torch.Tensor:
    """Return the library's features of the same image."""
    with torch.inference_mode():
        return made(torch.full((1, 3, 32, 32), (200 / 255 - 0.5) / 0.5))


@pytest.mark.parametrize("left", ["first", "second"])
def test_one_name_of_a_shared_weight_is_enough(left: str) -> None:
    weights = {f"{left}.weight": torch.ones(3, 3), f"{left}.bias": torch.zeros(3)}
    shared = Shared()
    load_strictly(shared, weights, "here")
    assert torch.equal(shared.second.weight, torch.ones(3, 3))
    with pytest.raises(RefusedError, match="lacks the weight"):
        load_strictly(Shared(), {f"{left}.weight": torch.ones(3, 3)}, "here")


def test_a_network_of_shared_weights_without_their_copies(tmp_path: Path) -> None:
    made = timm.create_model("coat_tiny", num_classes=0)
    kept = {id(value): (name, value) for name, value in made.named_parameters(remove_duplicate=False)}
    state = {**dict(kept.values()), **dict(made.named_buffers())}
    assert len(state) < len(made.state_dict())
    folder = write(tmp_path / "model", state, {})
    config = json.loads((folder / "config.json").read_text())
    config |= {"architecture": "coat_tiny", "pretrained_cfg": {**OPTIONS, "input_size": [3, 224, 224]}}
    (folder / "config.json").write_text(json.dumps(config))
    with open_encoder(str(folder)) as encoder:
        pixels = torch.full((1, 3, 224, 224), 200, dtype=torch.uint8)
        with torch.inference_mode():
            theirs = made.eval()((pixels / 255 - 0.5) / 0.5)
        torch.testing.assert_close(encoder.embed(pixels), theirs, rtol=1e-4, atol=1e-4)


def test_wrappers_of_training_are_taken_off_where_all_names_have_them(tmp_path: Path) -> None:
    assert [*unwrapped({"module._orig_mod.a": torch.zeros(1)})] == ["a"]
    assert [*unwrapped({"_orig_mod.module.a": torch.zeros(1)})] == ["a"]
    assert [*unwrapped({"module.a": torch.zeros(1), "b": torch.zeros(1)})] == ["module.a", "b"]
    made = network()
    state = {f"module.{key}": value for key, value in made.state_dict().items()}
    torch.testing.assert_close(features(write(tmp_path / "model", state, SMALL))[0], expected(made))


@pytest.mark.parametrize("arguments", [{"init_values": 1e-5}, {"reg_tokens": 4}])
def test_what_the_weights_show_need_not_be_stated(arguments: dict[str, Any], tmp_path: Path) -> None:
    made = network(**arguments)
    found, notes = features(write(tmp_path / "model", made.state_dict(), SMALL))
    torch.testing.assert_close(found, expected(made))
    assert f"{next(iter(arguments))}: not stated in config.json, taken from the weights" in notes


def test_gated_layers_that_nothing_states_are_unsupported(tmp_path: Path) -> None:
    made = network(mlp_layer=timm.layers.SwiGLUPacked)
    with pytest.raises(UnsupportedError, match="gated layers .SwiGLU"):
        features(write(tmp_path / "model", made.state_dict(), SMALL))


@pytest.mark.parametrize("value", [0.5, [0.5], [0.5] * 3])
def test_one_number_stands_for_all_channels(value: Any, tmp_path: Path) -> None:
    made = network()
    folder = write(tmp_path / "model", made.state_dict(), SMALL, mean=value, std=value)
    torch.testing.assert_close(features(folder)[0], expected(made))


def test_images_of_another_size_than_the_network_takes(tmp_path: Path) -> None:
    options = {"input_size": [3, 64, 64], "fixed_input_size": False}
    folder = write(tmp_path / "model", network().state_dict(), SMALL, **options)
    with pytest.raises(UsageError, match="makes images of another size than its network takes"):
        features(folder)
