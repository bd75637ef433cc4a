"""Every model type of transformers that gives an image a feature: loaded, and equal to the library's own."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_MAPPING_NAMES, MODEL_MAPPING_NAMES

from platodef_cli.encoders.backends.transformers_models import LEFT_OUT, family_of
from platodef_cli.encoders.interface import to_pixels
from platodef_cli.encoders.load import open_encoder
from platodef_cli.errors import RefusedError, UnsupportedError
from tests.contract import encoder_models as make

SIDE = 64
SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "embed_dim", "d_model"), 32),
    **dict.fromkeys(("num_hidden_layers", "encoder_layers", "num_attention_heads"), 2),
    "intermediate_size": 48,
    "image_size": SIDE,
}
STAGES = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4, "patch_size": 4}
OWN: dict[str, dict[str, Any]] = {
    "aimv2_vision_model": {**SMALL, "patch_size": 16},
    "bit": {**STAGES, "embedding_size": 8, "num_groups": 4},
    "convnext": STAGES,
    "convnextv2": STAGES,
    "dinov3_convnext": STAGES,
    "efficientnet": {"width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 128,
                     "image_size": SIDE},
    "focalnet": {"embed_dim": 8, "depths": [1, 1], "focal_levels": [1, 1], "focal_windows": [3, 3],
                 "hidden_sizes": [8, 16], "image_size": SIDE},
    "hiera": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "num_query_pool": 1,
              "image_size": [SIDE, SIDE]},
    "levit": {"hidden_sizes": [16, 32, 48], "num_attention_heads": [1, 2, 3], "depths": [1, 1, 1],
              "key_dim": [8, 8, 8], "image_size": SIDE},
    "mobilenet_v1": {"depth_multiplier": 0.25},
    "mobilenet_v2": {"depth_multiplier": 0.25},
    "mobilevit": {"hidden_sizes": [16, 16, 16], "neck_hidden_sizes": [8, 8, 8, 8, 8, 8, 16],
                  "image_size": SIDE},
    "mobilevitv2": {"width_multiplier": 0.25, "image_size": SIDE},
    "poolformer": STAGES,
    "pvt": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2],
            "patch_sizes": [4, 2], "strides": [4, 2], "sequence_reduction_ratios": [2, 1],
            "num_encoder_blocks": 2, "image_size": SIDE},
    "regnet": {**STAGES, "embedding_size": 8, "groups_width": 4},
    "resnet": {**STAGES, "embedding_size": 8},
    "segformer": {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1],
                  "num_attention_heads": [1, 1, 2, 2]},
    "swiftformer": {"embed_dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
    "swin": {**SWIN, "image_size": SIDE},
    "swinv2": {**SWIN, "image_size": SIDE},
}  # fmt: skip
ELSEWHERE = {"timm_wrapper": "a row of the timm backend", "dinat": "needs natten, which has no wheels"}
KINDS = sorted(MODEL_FOR_IMAGE_MAPPING_NAMES.keys() - LEFT_OUT.keys() - ELSEWHERE.keys())


def tiny(kind: str) -> Any:
    """Return a configuration of a type with few and narrow layers."""
    made = transformers.CONFIG_MAPPING[kind]
    known = made().to_dict()
    return made(**OWN.get(kind, {key: value for key, value in SMALL.items() if key in known}))


def processor_of(kind: str) -> Any:
    """Return the library's processor of a type, for inputs of ``SIDE``."""
    known: Any = IMAGE_PROCESSOR_MAPPING_NAMES.get(kind) or {"torchvision": "ViTImageProcessor"}
    made = getattr(transformers, known.get("torchvision") or known["pil"])
    settings: dict[str, Any] = {"size": {"height": SIDE, "width": SIDE}}
    plain = made(**settings)
    if getattr(plain, "do_center_crop", False):
        settings = {"size": {"shortest_edge": SIDE + 8}, "crop_size": {"height": SIDE, "width": SIDE}}
    elif "shortest_edge" in dict(made().size):
        settings = {"size": {"shortest_edge": SIDE}}
    return made(**settings)


def features_of(network: Any, pixels: Tensor) -> Tensor:
    """Return the feature that the documented rule chooses, from the library's own outputs."""
    with torch.inference_mode():
        output = network.eval()(pixel_values=pixels)
    if getattr(output, "pooler_output", None) is not None:
        return output.pooler_output.flatten(1)
    last = output.last_hidden_state
    if last.ndim == 4:
        return last.flatten(2).mean(2)
    token = any(name.endswith("cls_token") for name, _ in network.named_parameters())
    return last[:, 0] if token else last.mean(1)


def save(kind: str, folder: Path) -> Any:
    """Save a tiny random model with its processor as the library does, and return the network."""
    torch.manual_seed(7)
    network = getattr(transformers, MODEL_FOR_IMAGE_MAPPING_NAMES[kind])(tiny(kind))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    network.save_pretrained(folder)
    processor_of(kind).save_pretrained(folder)
    return network


def test_every_type_is_supported_or_left_out_with_a_reason() -> None:
    assert len(KINDS) >= 36
    for kind in MODEL_FOR_IMAGE_MAPPING_NAMES.keys() & LEFT_OUT.keys():
        with pytest.raises(UnsupportedError, match=LEFT_OUT[kind]):
            family_of(kind, ())
    assert LEFT_OUT.keys() <= {*MODEL_FOR_IMAGE_MAPPING_NAMES, *MODEL_MAPPING_NAMES}


def test_types_whose_images_need_more_than_pixels_say_so() -> None:
    for kind, wanted in (
        ("ernie4_5_vl_moe", "image_grid_thw"),
        ("llava_next", "image_sizes"),
        ("instructblip", "qformer"),
    ):
        with pytest.raises(UnsupportedError, match=f"{kind}.* takes more than the pixels .*{wanted}"):
            family_of(kind, ())


def test_a_type_that_nobody_tried_and_that_does_not_run_is_unsupported(tmp_path: Path) -> None:
    torch.manual_seed(5)
    tower = {**vision("siglip"), "patch_size": 16}
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"vocab_size": 60, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "model_type": "llama"}
    config = transformers.Idefics3Config(vision_config=tower, text_config=text, image_token_id=7)
    transformers.Idefics3Model(config).save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(tmp_path)
    for isolate in (False, True):
        with pytest.raises(UnsupportedError, match="Idefics3Model cannot be run on the pixels"):
            open_encoder(str(tmp_path), isolate=isolate)


def test_a_network_without_one_feature_per_image_is_unsupported(tmp_path: Path) -> None:
    config = transformers.HGNetV2Config()
    transformers.HGNetV2Backbone(config).save_pretrained(tmp_path)
    transformers.ConvNextImageProcessor(size={"shortest_edge": SIDE}).save_pretrained(tmp_path)
    with pytest.raises(
        UnsupportedError, match="HGNetV2Backbone has no output that is one feature of an image"
    ):
        open_encoder(str(tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_features_equal_the_librarys_own(kind: str, tmp_path: Path) -> None:
    network, processor = save(kind, tmp_path), processor_of(kind)
    images = make.photographs()
    with open_encoder(str(tmp_path)) as encoder:
        pixels = torch.stack([to_pixels(image, encoder.geometry) for image in images])
        features = encoder.embed(pixels)
        transform = encoder.record.transform
        pooling = encoder.record.pooling
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (transform.mean, transform.std))
    units = pixels / 255 if pixels.dtype == torch.uint8 else pixels
    equal = (units - mean) / std
    if getattr(processor, "do_flip_channel_order", False):
        equal = equal.flip(1)
    if kind in ("vit", "vit_mae"):  # rows of their own: the pooler of a ViT is random in most repositories
        network = transformers.ViTModel.from_pretrained(tmp_path, add_pooling_layer=False)
        with torch.inference_mode():
            expected = network.eval()(pixel_values=equal).last_hidden_state[:, 0]
    else:
        expected = features_of(network, equal)
    assert pooling
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)
    theirs = torch.cat([processor(images=image, return_tensors="pt")["pixel_values"] for image in images])
    torch.testing.assert_close(equal, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("task", "kind", "dropped"),
    [
        ("ViTForMaskedImageModeling", "vit", "decoder"),
        ("BeitForImageClassification", "beit", "classifier"),
        ("ConvNextForImageClassification", "convnext", "classifier"),
        ("Swinv2ForImageClassification", "swinv2", "classifier"),
        ("Dinov2ForImageClassification", "dinov2", "classifier"),
        ("SegformerForImageClassification", "segformer", "classifier"),
        ("SiglipForImageClassification", "siglip", "classifier"),
        ("Siglip2ForImageClassification", "siglip2", "classifier"),
        ("CLIPForImageClassification", "clip", "classifier"),
    ],
)
def test_heads_of_tasks_are_dropped_and_named(task: str, kind: str, dropped: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    if kind in ("siglip", "siglip2", "clip"):
        config = transformers.CONFIG_MAPPING[kind](
            vision_config=vision(kind), text_config={"hidden_size": 32}
        )
    else:
        config = tiny(kind)
    getattr(transformers, task)(config).save_pretrained(tmp_path)
    if kind == "siglip2":
        transformers.Siglip2ImageProcessor(patch_size=16, max_num_patches=16).save_pretrained(tmp_path)
    else:
        transformers.ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(tmp_path)
    # notes come from one place; that they come through the pipe too is shown by one of them
    with open_encoder(str(tmp_path), isolate=kind == "vit") as encoder:
        assert torch.isfinite(encoder.embed(torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8))).all()
        notes = encoder.notes  # type: ignore[attr-defined]
    assert any(f"not part of the encoder: {dropped}" in note for note in notes)


def vision(kind: str) -> dict[str, Any]:
    """Return the settings of a small tower of an image-text model."""
    known = SMALL if kind != "siglip2" else {**SMALL, "num_patches": 16, "patch_size": 16}
    return {key: value for key, value in known.items() if key not in ("embed_dim", "d_model")}


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    ("kind", "changes", "pooling"),
    [
        ("siglip", {"vision_use_head": False}, "mean of patches"),
        ("siglip2", {"vision_use_head": False}, "mean of patches"),
        ("clip", {}, "pooler_output"),
    ],
)
def test_towers_without_a_projection_or_a_head(
    kind: str, changes: dict[str, Any], pooling: str, whole: bool, tmp_path: Path
) -> None:
    torch.manual_seed(8)
    small = {**vision(kind), **changes}
    name = {"siglip": "Siglip", "siglip2": "Siglip2", "clip": "CLIP"}[kind]
    if whole:
        text = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48, "num_hidden_layers": 1}
        config = transformers.CONFIG_MAPPING[kind](vision_config=small, text_config=text)
        network = getattr(transformers, f"{name}Model")(config)
        state = {key: value for key, value in network.state_dict().items() if "projection" not in key}
        network.save_pretrained(tmp_path, state_dict=state)
        tower = network.vision_model
    else:
        config = transformers.CONFIG_MAPPING[f"{kind}_vision_model"](**small)
        tower = getattr(transformers, f"{name}VisionModel")(config)
        tower.save_pretrained(tmp_path)
    size = {"height": SIDE, "width": SIDE}
    processor = (
        transformers.Siglip2ImageProcessor(patch_size=16, max_num_patches=16)
        if kind == "siglip2"
        else transformers.ViTImageProcessor(size=size)
    )
    processor.save_pretrained(tmp_path)
    images = make.photographs(square=SIDE)
    with torch.inference_mode(), open_encoder(str(tmp_path)) as encoder:
        output = tower.eval()(**processor(images=images, return_tensors="pt"))
        theirs = output.pooler_output if pooling == "pooler_output" else output.last_hidden_state.mean(1)
        assert encoder.record.pooling == pooling
        assert encoder.geometry.size == (SIDE, SIDE)
        pixels = torch.stack([to_pixels(image, encoder.geometry) for image in images])
        torch.testing.assert_close(encoder.embed(pixels), theirs, rtol=1e-4, atol=1e-4)


def test_weights_of_nothing_known_are_refused(tmp_path: Path) -> None:
    save("beit", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({**weights, "adapter.lora_A": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(RefusedError, match=r"holds the unexpected weight 'adapter\.lora_A'"):
        open_encoder(str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "lost", "pooling"),
    [
        ("deit", "pooler.dense", "class token"),
        ("dinov2", "embeddings.mask_token", "pooler_output"),
        ("dinov2_with_registers", "embeddings.mask_token", "pooler_output"),
        ("dinov3_vit", "embeddings.mask_token", "pooler_output"),
    ],
)
def test_weights_that_inference_does_not_use_may_be_absent(
    kind: str, lost: str, pooling: str, tmp_path: Path
) -> None:
    save(kind, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert any(key.startswith(lost) for key in weights)
    kept = {key: value for key, value in weights.items() if not key.startswith(lost)}
    save_file(kept, tmp_path / "model.safetensors")
    with open_encoder(str(tmp_path)) as encoder:
        assert encoder.record.pooling == pooling


def test_a_weight_that_the_feature_needs_may_not_be_absent(tmp_path: Path) -> None:
    save("deit", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights[next(key for key in weights if key.endswith("layernorm_after.weight"))]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(RefusedError, match=r"lacks the weight '.*layers?\.0\.layernorm_after\.weight'"):
        open_encoder(str(tmp_path))


def test_an_unknown_type_names_the_nearest(tmp_path: Path) -> None:
    save("beit", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "beitt"}))
    for isolate in (False, True):
        with pytest.raises(UnsupportedError, match=r"'beitt' .*the nearest supported one is 'beit'"):
            open_encoder(str(tmp_path), isolate=isolate)
