"""Every configuration that open_clip ships: its vision tower is built and equal to the library's own."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file

from platodef_cli.encoders.load import open_encoder
from tests.contract import encoder_models as make

NAMES = open_clip.list_models()
QUICK = {
    *("RN50", "ViT-B-32-quickgelu", "ViT-S-16", "ViT-H-14-CLIPA", "coca_ViT-B-32", "coca_roberta-ViT-B-32"),
    *("roberta-ViT-B-32", "nllb-clip-base-siglip", "ViT-B-32-SigLIP2-256", "convnext_tiny", "EVA02-B-16"),
    *("MobileCLIP-S1", "ViTamin-S", "PE-Core-T-16-384", "swin_base_patch4_window7_224"),
}
"""One configuration per kind of tower and of text; the others are slow in sum, not one by one."""
WIDTH = 64
TEXT = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
TRANSFORMER = {"depth": 1, "embed_dim": WIDTH, "num_heads": 2}
TRUNKS: dict[str, dict[str, Any]] = {
    "convnext": {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, WIDTH]},
    "eva": TRANSFORMER,
    "fastvit_mci3": {"layers": (1, 1, 1, 1, 1)},
    "fastvit_mci4": {"layers": (1, 1, 1, 1, 1)},
    "fastvit": {"layers": (1, 1, 1, 1)},
    "swin": {"depths": [1, 1], "embed_dim": 32, "num_heads": [1, 2]},
    "vit_base_mci": {"depth": 1},
    "vit_": TRANSFORMER,
    "vitamin": {"depth": 1},
}
"""Beginning of a name of timm -> arguments that make the network narrow and shallow."""
CREATE = timm.create_model


def _narrow(name: str, **arguments: Any) -> Any:
    small = next(value for start, value in TRUNKS.items() if name.startswith(start))
    return CREATE(name, **{**arguments, **small})


def _shrunk(name: str) -> dict[str, Any]:
    """Return the configuration with fewer and narrower layers; patches and the size of the input stay."""
    model: dict[str, Any] = deepcopy(open_clip.get_model_config(name))
    vision = model["vision_cfg"]
    model["embed_dim"] = WIDTH
    if "timm_model_name" not in vision:
        convolutional = isinstance(vision["layers"], list)
        vision |= {"layers": [1, 1, 1, 1], "width": 8} if convolutional else {"layers": 1, "width": WIDTH}
        vision["head_width"] = 32
    for part in ("text_cfg", "multimodal_cfg"):
        if part in model and "hf_model_name" not in model[part]:
            model[part] |= {key: value for key, value in TEXT.items() if key in model[part]}
    return model


def _library(model: dict[str, Any]) -> Any:
    """Return open_clip's own network; a text tower of another repository gives way to a small one."""
    values = deepcopy(model)
    custom = values.pop("custom_text", False)
    if "hf_model_name" in values["text_cfg"]:
        custom, values["text_cfg"] = True, dict(TEXT)
        if "multimodal_cfg" in values:
            values["text_cfg"] |= {"embed_cls": True, "output_tokens": True}
    kind = open_clip.CLIP
    if custom:
        kind = open_clip.CoCa if "multimodal_cfg" in values else open_clip.CustomTextCLIP
    network = kind(**values).eval()
    make.randomise(network)
    return network


def _save(folder: Path, model: dict[str, Any], network: Any) -> None:
    folder.mkdir()
    state = {key: value.contiguous().clone() for key, value in network.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model}))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NAMES]
)
def test_a_vision_tower_equals_the_librarys_own(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timm, "create_model", _narrow)
    model = _shrunk(name)
    network = _library(model)
    _save(tmp_path / "model", model, network)
    size = model["vision_cfg"]["image_size"]
    pixels = torch.randint(0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(1)).byte()
    with open_encoder(str(tmp_path / "model")) as encoder:
        assert encoder.geometry.size == (size, size)
        mean, std = (
            torch.tensor(value).view(1, 3, 1, 1)
            for value in (encoder.record.transform.mean, encoder.record.transform.std)
        )
        with torch.no_grad():
            expected = network.encode_image((pixels / 255 - mean) / std)
        features = encoder.embed(pixels)
    assert features.shape == expected.shape
    assert (expected[0] - expected[1]).norm() > 1e-3 * expected.norm()
    assert (features - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_the_quick_ones_exist() -> None:
    assert QUICK <= {*NAMES}
    assert len(NAMES) >= 144
