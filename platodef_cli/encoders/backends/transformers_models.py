"""The networks of transformers that platodef runs: their class, weights and pooled output."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from platodef_cli.encoders.backends.processors import Preprocessing
from platodef_cli.encoders.backends.qwen2_vl import build_qwen2_vl
from platodef_cli.encoders.checks.weights import Bundle
from platodef_cli.encoders.local import Tower

_TEXT = ("text_model.", "text_projection.", "logit_scale", "logit_bias")
_HEADS = ("classifier.",)


def _pooler(network: nn.Module, pixels: Tensor) -> Tensor:
    pooled: Tensor = network(pixel_values=pixels).pooler_output
    return pooled.flatten(1)


def _class_token(network: nn.Module, pixels: Tensor) -> Tensor:
    tokens: Tensor = network(pixel_values=pixels).last_hidden_state
    return tokens[:, 0]


def _image_embeds(network: nn.Module, pixels: Tensor) -> Tensor:
    embeds: Tensor = network(pixel_values=pixels).image_embeds
    return embeds


def _image_features(network: Any, pixels: Tensor) -> Tensor:
    features: Tensor = network.get_image_features(pixel_values=pixels).pooler_output
    return features


def _head_or_mean(network: Any, pixels: Tensor) -> Tensor:
    """AIMv2 without its attention head has no pooled output; its patch tokens are averaged."""
    output = network(pixel_values=pixels)
    pooled: Tensor = (
        output.last_hidden_state.mean(1) if output.pooler_output is None else output.pooler_output
    )
    return pooled


def _naflex(network: Any, pixels: Tensor) -> Tensor:
    """Cut ``[B, 3, H, W]`` into the patch sequence ``[B, N, 3 patch²]`` that SigLIP 2 NaFlex takes."""
    size = network.config.patch_size
    batch, channels, height, width = pixels.shape
    grid = (height // size, width // size)
    patches = pixels.reshape(batch, channels, grid[0], size, grid[1], size)
    patches = patches.permute(0, 2, 4, 3, 5, 1).reshape(batch, grid[0] * grid[1], -1)
    mask = torch.ones(patches.shape[:2], dtype=torch.int32, device=pixels.device)
    shapes = torch.tensor([grid] * batch, device=pixels.device)
    pooled: Tensor = network(
        pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=shapes
    ).pooler_output
    return pooled


def _vision(config: Any) -> Any:
    return config.vision_config


def _projected_vision(config: Any) -> Any:
    """The width of CLIP's projection stands at the top of a full repository."""
    config.vision_config.projection_dim = config.projection_dim
    return config.vision_config


def _as_vit(config: Any) -> Any:
    """The encoder of a masked autoencoder is a ViT; the autoencoder's own class masks 75 % at random."""
    values = {key: value for key, value in config.to_dict().items() if key != "model_type"}
    return transformers.ViTConfig.from_dict(values)


Build = Callable[[Bundle, Mapping[str, Any], Preprocessing, torch.device, torch.dtype], Tower]


@dataclass(frozen=True)
class ModelFamily:
    """One kind of repository.

    Attributes:
        network: Class name in transformers.
        pooled: Computes features from the network and normalised pixels.
        pooling: Name of that output.
        heads: Prefixes of weights that the repository may hold beyond the network.
        config: Turns the repository's configuration into the network's.
        arguments: Constructor arguments.
        attention: Attention implementation, which a configuration may never choose.
        build: Builds what is more than a network of pixels; None for the others.
    """

    network: str
    pooled: Callable[[Any, Tensor], Tensor] = _pooler
    pooling: str = "pooler_output"
    heads: tuple[str, ...] = ()
    config: Callable[[Any], Any] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    attention: str = "sdpa"
    build: Build | None = None


FAMILIES = {
    "dinov2": ModelFamily("Dinov2Model", heads=_HEADS),
    "dinov2_with_registers": ModelFamily("Dinov2WithRegistersModel", heads=_HEADS),
    "dinov3_vit": ModelFamily("DINOv3ViTModel"),
    "dinov3_convnext": ModelFamily("DINOv3ConvNextModel", attention="eager"),
    "vit": ModelFamily(
        "ViTModel",
        _class_token,
        "class token",
        # A pooler is random in most repositories and never the feature.
        heads=(*_HEADS, "pooler.", "vit.pooler."),
        arguments={"add_pooling_layer": False},
    ),
    "vit_mae": ModelFamily(
        "ViTModel",
        _class_token,
        "class token",
        heads=("decoder.",),
        config=_as_vit,
        arguments={"add_pooling_layer": False},
    ),
    "resnet": ModelFamily("ResNetModel", heads=_HEADS, attention="eager"),
    "convnextv2": ModelFamily("ConvNextV2Model", heads=_HEADS, attention="eager"),
    "clip": ModelFamily(
        "CLIPVisionModelWithProjection", _image_embeds, "image_embeds", heads=_TEXT, config=_projected_vision
    ),
    "clip_vision_model": ModelFamily("CLIPVisionModelWithProjection", _image_embeds, "image_embeds"),
    "siglip": ModelFamily("SiglipVisionModel", heads=_TEXT, config=_vision),
    "siglip_vision_model": ModelFamily("SiglipVisionModel"),
    "siglip2": ModelFamily("Siglip2VisionModel", _naflex, heads=_TEXT, config=_vision),
    "siglip2_vision_model": ModelFamily("Siglip2VisionModel", _naflex),
    "aimv2": ModelFamily("Aimv2Model", _image_features, "image features"),
    "aimv2_vision_model": ModelFamily("Aimv2VisionModel", _head_or_mean, "pooler_output or mean"),
    "qwen2_vl": ModelFamily("Qwen2VLForConditionalGeneration", pooling="last token", build=build_qwen2_vl),
}
"""``model_type`` -> row."""
