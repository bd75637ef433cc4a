"""Tiny random encoders, saved by the library they belong to, and that library's own features of images."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Reference = Callable[[list[Image.Image]], Tensor]

_VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
_TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 50,
    "max_position_embeddings": 16,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
_CROPPED = {
    "size": {"shortest_edge": 40},
    "crop_size": {"height": 32, "width": 32},
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.25],
}
_SQUARE = {"size": {"height": 32, "width": 32}}


def photographs(count: int = 3, square: int | None = None) -> list[Image.Image]:
    """Return smooth random pictures of odd sizes (or squares), so that rounding of crops matters."""
    generator = np.random.default_rng(7)
    sizes = [(61, 47), (50, 95), (33, 33)][:count] if square is None else [(square, square)] * count
    small = [generator.integers(0, 256, (9, 9, 3), dtype=np.uint8) for _ in sizes]
    return [
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
        for pixels, size in zip(small, sizes, strict=True)
    ]


def randomise(network: torch.nn.Module) -> None:
    """Give every weight a seeded random value: fresh networks have zeros that would hide mistakes."""
    generator = torch.Generator().manual_seed(11)
    for name, value in network.state_dict().items():
        if not value.is_floating_point():
            continue
        noise = torch.randn(value.shape, generator=generator)
        if value.ndim >= 2:
            value.copy_(noise * 1.2 / value[0].numel() ** 0.5)
        elif name.endswith(("weight", "running_var", "gamma", "lambda1")):
            value.copy_(1 + 0.1 * noise.clamp(-3, 3))
        else:
            value.copy_(0.1 * noise)


def timm_model(
    folder: Path, architecture: str = "vit_tiny_patch16_224", arguments: dict[str, Any] | None = None,
    classes: int = 5, **settings: Any,
) -> Reference:  # fmt: skip
    """Save a timm model with ``save_for_hf`` and return its own pipeline."""
    import timm
    from timm.data import create_transform, resolve_model_data_config
    from timm.models import save_for_hf

    small = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}
    arguments = small if arguments is None else arguments
    network = timm.create_model(architecture, num_classes=classes, **arguments).eval()
    randomise(network)
    network.pretrained_cfg = {**network.pretrained_cfg, "input_size": (3, 32, 32), **settings}
    save_for_hf(network, folder, model_args=arguments, safe_serialization=True)
    network.reset_classifier(0)
    transform = create_transform(**resolve_model_data_config(network), is_training=False)

    @torch.no_grad()
    def features(images: list[Image.Image]) -> Tensor:
        return network(torch.stack([transform(image) for image in images]))

    return features


def open_clip_model(folder: Path, preprocess: dict[str, Any] | None = None, **model: Any) -> Reference:
    """Save an open_clip model and return its own pipeline."""
    import open_clip
    from safetensors.torch import save_file

    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
    model = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text} | model
    values = {key: value for key, value in model.items() if key != "custom_text"}
    kind = open_clip.CLIP
    if model.get("custom_text"):
        kind = open_clip.CoCa if "multimodal_cfg" in model else open_clip.CustomTextCLIP
    network = kind(**values)
    randomise(network)
    folder.mkdir(parents=True)
    save_file(
        {k: v.contiguous().clone() for k, v in network.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    config = {"model_cfg": model, "preprocess_cfg": preprocess or {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    loaded, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}", weights_only=True)
    loaded.eval()

    @torch.no_grad()
    def features(images: list[Image.Image]) -> Tensor:
        return loaded.encode_image(torch.stack([transform(image) for image in images]))

    return features


def _dinov2(kind: str) -> tuple[Any, Any, Any]:
    import transformers as t

    config = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 40,
        "patch_size": 8,
    }
    if kind == "dinov2":
        network = t.Dinov2Model(t.Dinov2Config(**config))
    else:
        network = t.Dinov2WithRegistersModel(t.Dinov2WithRegistersConfig(**config))
    return network, t.BitImageProcessor(**_CROPPED), lambda n, x: n(**x).pooler_output


def _dinov3_vit() -> tuple[Any, Any, Any]:
    import transformers as t

    network = t.DINOv3ViTModel(t.DINOv3ViTConfig(**_VISION, num_register_tokens=2))
    return network, t.DINOv3ViTImageProcessor(**_SQUARE), lambda n, x: n(**x).pooler_output


def _dinov3_convnext() -> tuple[Any, Any, Any]:
    import transformers as t

    network = t.DINOv3ConvNextModel(t.DINOv3ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1]))
    return network, t.DINOv3ViTImageProcessor(**_SQUARE), lambda n, x: n(**x).pooler_output


def _vit() -> tuple[Any, Any, Any]:
    import transformers as t

    network = t.ViTForImageClassification(t.ViTConfig(**_VISION))
    processor = t.ViTImageProcessor(**_SQUARE)
    return network, processor, lambda n, x: n.vit(**x).last_hidden_state[:, 0]


def _vit_mae() -> tuple[Any, Any, Any]:
    import transformers as t

    decoder = {f"decoder_{k}": 32 for k in ("hidden_size", "intermediate_size")}
    config = t.ViTMAEConfig(**_VISION, **decoder, decoder_num_attention_heads=2, decoder_num_hidden_layers=1)
    network = t.ViTMAEForPreTraining(config)

    def features(net: Any, x: Any) -> Tensor:
        # Without masking, and with the shuffle of the patches undone, the autoencoder's encoder is a ViT.
        net.config.mask_ratio = net.vit.config.mask_ratio = net.vit.embeddings.config.mask_ratio = 0.0
        noise = torch.arange(16.0).repeat(len(x["pixel_values"]), 1)
        return net.vit(**x, noise=noise).last_hidden_state[:, 0]

    return network, t.ViTImageProcessor(**_SQUARE), features


def _resnet() -> tuple[Any, Any, Any]:
    import transformers as t

    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    network = t.ResNetForImageClassification(t.ResNetConfig(**sizes, layer_type="basic"))
    processor = t.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875)
    return network, processor, lambda n, x: n.base_model(**x).pooler_output.flatten(1)


def _convnextv2() -> tuple[Any, Any, Any]:
    import transformers as t

    config = t.ConvNextV2Config(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)
    network = t.ConvNextV2ForImageClassification(config)
    processor = t.ConvNextImageProcessor(size={"shortest_edge": 384}, resample=2)
    return network, processor, lambda n, x: n.base_model(**x).pooler_output.flatten(1)


def _clip() -> tuple[Any, Any, Any]:
    import transformers as t

    network = t.CLIPModel(t.CLIPConfig(vision_config=_VISION, text_config=_TEXT, projection_dim=24))
    return network, t.CLIPImageProcessor(**_CROPPED), lambda n, x: n.get_image_features(**x).pooler_output


def _clip_vision() -> tuple[Any, Any, Any]:
    import transformers as t

    network = t.CLIPVisionModelWithProjection(t.CLIPVisionConfig(**_VISION, projection_dim=24))
    return network, t.CLIPImageProcessor(**_CROPPED), lambda n, x: n(**x).image_embeds


def _siglip() -> tuple[Any, Any, Any]:
    import transformers as t

    network = t.SiglipModel(t.SiglipConfig(vision_config=_VISION, text_config=_TEXT))
    processor = t.SiglipImageProcessor(**_SQUARE, rescale_factor=1 / 127.5, image_mean=[1, 1, 1], resample=2)
    return network, processor, lambda n, x: n.get_image_features(**x).pooler_output


def _siglip_vision() -> tuple[Any, Any, Any]:
    import transformers as t

    network = t.SiglipVisionModel(t.SiglipVisionConfig(**_VISION))
    return network, t.SiglipImageProcessor(**_SQUARE), lambda n, x: n(**x).pooler_output


def _naflex_config() -> dict[str, Any]:
    return {key: value for key, value in _VISION.items() if key != "image_size"} | {"num_patches": 25}


def _siglip2() -> tuple[Any, Any, Any]:
    import transformers as t

    network = t.Siglip2Model(t.Siglip2Config(vision_config=_naflex_config(), text_config=_TEXT))
    processor = t.Siglip2ImageProcessor(patch_size=8, max_num_patches=16)
    return network, processor, lambda n, x: n.get_image_features(**x).pooler_output


def _siglip2_vision() -> tuple[Any, Any, Any]:
    import transformers as t

    network = t.Siglip2VisionModel(t.Siglip2VisionConfig(**_naflex_config()))
    processor = t.Siglip2ImageProcessor(patch_size=8, max_num_patches=18)
    return network, processor, lambda n, x: n(**x).pooler_output


def _aimv2() -> tuple[Any, Any, Any]:
    import transformers as t

    text = {k: v for k, v in _TEXT.items() if k not in ("pad_token_id", "bos_token_id")}
    network = t.Aimv2Model(t.Aimv2Config(vision_config=_VISION, text_config=text, projection_dim=24))
    return network, t.CLIPImageProcessor(**_CROPPED), lambda n, x: n.get_image_features(**x).pooler_output


def _aimv2_vision() -> tuple[Any, Any, Any]:
    import transformers as t

    network = t.Aimv2VisionModel(t.Aimv2VisionConfig(**_VISION))
    return network, t.CLIPImageProcessor(**_CROPPED), lambda n, x: n(**x).pooler_output


MAKERS: dict[str, Callable[[], tuple[Any, Any, Any]]] = {
    "dinov2": lambda: _dinov2("dinov2"),
    "dinov2_with_registers": lambda: _dinov2("dinov2_with_registers"),
    "dinov3_vit": _dinov3_vit,
    "dinov3_convnext": _dinov3_convnext,
    "vit": _vit,
    "vit_mae": _vit_mae,
    "resnet": _resnet,
    "convnextv2": _convnextv2,
    "clip": _clip,
    "clip_vision_model": _clip_vision,
    "siglip": _siglip,
    "siglip_vision_model": _siglip_vision,
    "siglip2": _siglip2,
    "siglip2_vision_model": _siglip2_vision,
    "aimv2": _aimv2,
    "aimv2_vision_model": _aimv2_vision,
}
SQUARES = {"siglip2": 32, "siglip2_vision_model": 32, "qwen2_vl": 56}
"""Networks of any input size run on a fixed square; the library agrees on pictures of that very size."""


def transformers_model(folder: Path, kind: str) -> Reference:
    """Save a model and its processor with ``save_pretrained`` and return the library's own pipeline."""
    if kind == "qwen2_vl":
        return _qwen2_vl(folder)
    return saved(folder, *MAKERS[kind]())


def saved(folder: Path, network: Any, processor: Any, pooled: Any) -> Reference:
    """Give a network random weights, save it and its processor, and return the library's own pipeline."""
    network.eval()
    randomise(network)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)

    @torch.no_grad()
    def features(images: list[Image.Image]) -> Tensor:
        return pooled(network, processor(images=images, return_tensors="pt"))

    return features


def _qwen2_vl(folder: Path) -> Reference:
    """A Qwen2-VL with a word-level tokenizer; the pipeline pads on the left, as VLM2Vec's does."""
    import transformers as t
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    words = ["[UNK]", "[PAD]", "Represent", "the", "given", "image", "."]
    special = ["<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(word, normalized=False) for word in special])
    start, image, end, video = (tokenizer.token_to_id(word) for word in special)
    text = {**_TEXT, "num_key_value_heads": 1, "max_position_embeddings": 128}
    text["rope_parameters"] = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    vision = {
        "depth": 2,
        "embed_dim": 32,
        "hidden_size": 32,
        "num_heads": 2,
        "mlp_ratio": 2,
        "patch_size": 14,
    }
    config = t.Qwen2VLConfig(
        text_config=text, vision_config=vision, image_token_id=image, video_token_id=video,
        vision_start_token_id=start, vision_end_token_id=end,
    )  # fmt: skip
    network = t.Qwen2VLForConditionalGeneration(config).eval()
    randomise(network)
    network.save_pretrained(folder)
    processor = t.Qwen2VLImageProcessor(size={"shortest_edge": 28 * 28, "longest_edge": 56 * 56})
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": processor.to_dict()}))
    tokenizer.save(str(folder / "tokenizer.json"))

    @torch.no_grad()
    def features(images: list[Image.Image]) -> Tensor:
        inputs = processor(images=images, return_tensors="pt")
        prompt = tokenizer.encode(
            "<|vision_start|><|image_pad|><|vision_end|> Represent the given image."
        ).ids
        count = int(inputs["image_grid_thw"][0].prod()) // 4
        at = prompt.index(image)
        tokens = torch.tensor([[1, 1, *prompt[:at], *[image] * count, *prompt[at + 1 :]]] * len(images))
        mask = torch.ones_like(tokens)
        mask[:, :2] = 0
        output = network.model(
            input_ids=tokens, attention_mask=mask, mm_token_type_ids=(tokens == image).int(), **inputs
        )
        return output.last_hidden_state[:, -1]

    return features
