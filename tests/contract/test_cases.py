"""Every row of shared/cases: small inputs in the shapes that real repositories and image sets have.

What the library itself makes of a folder is the measure; what cannot be loaded ends with the right code.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from platodef_cli.encoders.checks.preflight import preflight
from platodef_cli.encoders.interface import to_pixels
from platodef_cli.encoders.load import open_encoder
from platodef_cli.errors import IncompleteError, PlatodefError, RefusedError, UnsupportedError, UsageError
from platodef_cli.images.open import open_source
from tests.contract import encoder_models as make

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="shared/cases is not beside this checkout")

_PROJECTED = "image features"
POOLINGS = {
    "tf/beit_cls": "pooler_output", "tf/blip": _PROJECTED, "tf/chinese_clip": _PROJECTED,
    "tf/clip_cls": "pooler_output", "tf/clip_vision": "pooler_output", "tf/convnext": "pooler_output",
    "tf/convnext_cls": "pooler_output", "tf/deit_cls": "class token", "tf/dinov3_convnext": "pooler_output",
    "tf/dinov3_vit": "pooler_output", "tf/siglip_cls": "pooler_output", "tf/swin": "pooler_output",
    "tf/swinv2_cls": "pooler_output", "tf/vit_cls": "class token", "tf/vit_mim": "class token",
    "tf/vit_nopool": "class token", "var/both_processor_files": "class token",
    "var/cfg_auto_map": "class token", "var/dinov2_no_mask": "pooler_output",
    "var/pp_notype_crop_int": "class token", "var/pp_notype_sizeint": "class token",
    "var/pp_resample_str": "class token", "var/siglip_nohead": "mean of patches",
}  # fmt: skip
"""Folders that load -> the feature."""
REFUSED: dict[str, tuple[type[PlatodefError], str]] = {
    "var/adapter_attack": (RefusedError, "holds an adapter .*applies to the weights unasked"),
    "var/fp16_variant_only": (UsageError, "copy the folder with that file as model.safetensors"),
    "var/lfs_pointer": (IncompleteError, "is a Git LFS pointer, not the file itself; run `git lfs pull`"),
    "var/lora_only": (UnsupportedError, "is an adapter .LoRA. without the model that it belongs to"),
}
TIMM: dict[str, dict[str, Any]] = {
    "timm_configs/timm_wrapper": {"num_classes": 7},
    "timm_configs/uni_like": {"num_classes": 0, "img_size": 224, "init_values": 1.0},
    "timm_configs/var_gp_empty": {"num_classes": 0, "img_size": 224},
}
"""Configurations without weights -> what timm builds for them."""
OPEN_CLIP = "oc/hf_text_biomedclip"
IMAGES: dict[str, tuple[int, int | None, str]] = {
    "cifar100.parquet": (30, 3, ""),
    "floatlab.parquet": (30, 3, ""),
    "multilabel.parquet": (30, None, "its labels are lists, not one class per image"),
    "somenull.parquet": (30, None, "6 of its 30 labels are missing"),
    "wds-000000.tar": (10, 3, ""),
    "wds_cols.parquet": (30, 3, ""),
}
"""Image sets -> number of images, of classes (None where labels are not used), and the warning."""
INPUTS: dict[str, tuple[str, type[PlatodefError] | None, str]] = {
    "cf_hugeint.config.json": ("config.json", RefusedError, "hidden_size .* out of any sensible range"),
    "cf_numlabels2e9.config.json": ("config.json", RefusedError, "num_labels = 2000000000 is more than"),
    "pp_size0.preprocessor_config.json": ("preprocessor_config.json", RefusedError, "must lie in .1, 4096"),
    "qwen2vl.processor_config.json": ("processor_config.json", None, ""),
    "st_dtunhash.head20k.bin": ("model.safetensors", RefusedError, "unknown element type"),
    "dupcol.parquet": ("", UsageError, "has 2 columns called 'image'"),
    "hfbad.parquet": ("", None, ""),
}
"""Single files -> the name under which they lie in a folder (empty: images), and the error."""


def test_every_row_is_here() -> None:
    folders = {path.relative_to(CASES / "folders").as_posix() for path in CASES.glob("folders/*/*")}
    assert folders == {*POOLINGS, *REFUSED, *TIMM, OPEN_CLIP}
    assert {path.name for path in CASES.glob("images/*")} == {*IMAGES}
    assert {path.name for path in CASES.glob("inputs/*")} == {*INPUTS}


def mine(folder: Path, pooling: str | None = None) -> tuple[Tensor, Tensor]:
    """Return this project's features of a few pictures, and the pixels that the network was given."""
    with open_encoder(str(folder)) as encoder:
        assert pooling is None or encoder.record.pooling == pooling
        pixels = torch.stack([to_pixels(image, encoder.geometry) for image in make.photographs()])
        transform = encoder.record.transform
        mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (transform.mean, transform.std))
        units = pixels / 255 if pixels.dtype == torch.uint8 else pixels
        return encoder.embed(pixels), (units - mean) / std


def pooled(network: Any, pixels: Tensor, pooling: str) -> Tensor:
    """Return the feature of a name from the library's own outputs."""
    tower = network.vision_model if hasattr(network, "get_image_features") else network
    if pooling == _PROJECTED:
        found = network.get_image_features(pixel_values=pixels)
        return found if isinstance(found, Tensor) else found.pooler_output
    output = tower(pixel_values=pixels)
    tokens = output.last_hidden_state
    known = {
        "class token": lambda: tokens[:, 0],
        "mean of patches": lambda: tokens.mean(1),
        "pooler_output": lambda: output.pooler_output.flatten(1),
    }
    return known[pooling]()


@pytest.mark.parametrize("name", sorted(POOLINGS))
def test_folders_of_transformers_equal_the_library(name: str) -> None:
    folder, pooling = CASES / "folders" / name, POOLINGS[name]
    features, pixels = mine(folder, pooling)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    theirs = [processor(images=image, return_tensors="pt")["pixel_values"] for image in make.photographs()]
    torch.testing.assert_close(pixels, torch.cat(theirs), rtol=0, atol=1e-4)
    network = transformers.AutoModel.from_pretrained(folder).float().eval()
    with torch.inference_mode():
        expected = pooled(network, pixels, pooling)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_folders_that_are_not_loaded(name: str) -> None:
    error, message = REFUSED[name]
    with pytest.raises(error, match=message) as caught:
        preflight(CASES / "folders" / name)
    assert type(caught.value) is error


def test_code_of_the_repository_is_a_finding() -> None:
    findings = preflight(CASES / "folders" / "var/cfg_auto_map").findings
    assert [finding.id for finding in findings] == ["repository-code"]


@pytest.mark.parametrize("name", sorted(TIMM))
def test_configurations_of_timm_equal_the_library(name: str, tmp_path: Path) -> None:
    import timm

    shutil.copy(CASES / "folders" / name / "config.json", tmp_path / "config.json")
    config = json.loads((tmp_path / "config.json").read_text())
    torch.manual_seed(5)
    network = timm.create_model(config["architecture"], **TIMM[name]).eval()
    prefix = "timm_model." if "wrapper" in name else ""
    save_file(
        {prefix + key: value.clone() for key, value in network.state_dict().items()},
        tmp_path / "model.safetensors",
    )
    features, pixels = mine(tmp_path)
    network.reset_classifier(0)
    with torch.inference_mode():
        torch.testing.assert_close(features, network(pixels), rtol=1e-4, atol=1e-4)


def test_an_open_clip_model_with_a_text_tower_of_its_own() -> None:
    from open_clip.model import _build_vision_tower

    folder = CASES / "folders" / OPEN_CLIP
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    tower = _build_vision_tower(config["embed_dim"], config["vision_cfg"] | {"timm_model_pretrained": False})
    state = load_file(folder / "open_clip_model.safetensors")
    own = {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}
    tower.load_state_dict(own, strict=True)
    features, pixels = mine(folder)
    with torch.inference_mode():
        torch.testing.assert_close(features, tower.eval()(pixels), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(IMAGES))
def test_image_sets(name: str) -> None:
    count, classes, warning = IMAGES[name]
    said: list[str] = []
    source = open_source(str(CASES / "images" / name), warn=said.append)
    assert len(source.refs) == count
    assert len({ref.id for ref in source.refs}) == count
    assert all(source.open(index).mode == "RGB" for index in range(count))
    assert bool(said) == bool(warning)
    assert warning in " ".join(said)
    assert (None if source.classes is None else len(source.classes)) == classes
    assert {ref.label for ref in source.refs} == ({None} if classes is None else {*range(classes)})


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_single_files(name: str, tmp_path: Path) -> None:
    place, error, message = INPUTS[name]

    def use() -> None:
        if not place:
            source = open_source(str(CASES / "inputs" / name))
            assert [source.open(index).mode for index in range(len(source.refs))]
            return
        folder = tmp_path / "model"
        shutil.copytree(CASES / "folders/var/dinov2_no_mask", folder)
        shutil.copy(CASES / "inputs" / name, folder / place)
        preflight(folder)

    check(use, error, message)


def check(use: Callable[[], None], error: type[PlatodefError] | None, message: str) -> None:
    """Run ``use``, which raises ``error`` with ``message``, or nothing."""
    if error is None:
        use()
        return
    with pytest.raises(error, match=message) as caught:
        use()
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
