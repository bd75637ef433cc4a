"""The networks of transformers that platodef runs: their class, weights and pooled output."""

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_MAPPING_NAMES, MODEL_MAPPING_NAMES

from platodef_cli.encoders.backends.grid_towers import MEAN_OF_TOKENS, build_grid_tower
from platodef_cli.encoders.backends.last_token import build_last_token, build_tower_or_last
from platodef_cli.encoders.backends.processors import Preprocessing
from platodef_cli.encoders.backends.transformers_pooling import (
    Pooled,
    class_token,
    image_embeds,
    image_features,
    mean_of_image_features,
)
from platodef_cli.encoders.checks.weights import Bundle
from platodef_cli.encoders.local import Tower
from platodef_cli.errors import UnsupportedError

_TEXT = ("text_model.", "text_projection.", "logit_scale", "logit_bias")
_HEADS = ("classifier.",)
_PROJECTED = "CLIPVisionModelWithProjection"


def _naflex_output(network: Any, pixels: Tensor) -> Any:
    """Cut ``[B, 3, H, W]`` into the patch sequence ``[B, N, 3 patch²]`` of SigLIP 2 NaFlex, and run it."""
    size = network.config.patch_size
    batch, channels, height, width = pixels.shape
    grid = (height // size, width // size)
    patches = pixels.reshape(batch, channels, grid[0], size, grid[1], size)
    patches = patches.permute(0, 2, 4, 3, 5, 1).reshape(batch, grid[0] * grid[1], -1)
    mask = torch.ones(patches.shape[:2], dtype=torch.int32, device=pixels.device)
    shapes = torch.tensor([grid] * batch, device=pixels.device)
    return network(pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=shapes)


def _naflex(network: Any, pixels: Tensor) -> Tensor:
    pooled: Tensor = _naflex_output(network, pixels).pooler_output
    return pooled


def _naflex_mean(network: Any, pixels: Tensor) -> Tensor:
    tokens: Tensor = _naflex_output(network, pixels).last_hidden_state
    return tokens.mean(1)


def _vision(config: Any) -> Any:
    return config.vision_config


def _projected_vision(config: Any) -> Any:
    """The width of CLIP's projection stands at the top of a full repository."""
    config.vision_config.projection_dim = config.projection_dim
    return config.vision_config


def _without_language(config: Any) -> Any:
    """The language model takes nearly all memory of a whole repository, and no part in image features."""
    text = config.text_config
    text.num_hidden_layers, text.vocab_size, text.pad_token_id = 0, 1, None
    if getattr(text, "layer_types", None):
        text.layer_types = []
    return config


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
        pooled: Computes features from the network and normalised pixels; None where the common rule chooses
            (:func:`platodef_cli.encoders.backends.transformers_pooling.choose_pooling`).
        pooling: Name of that output.
        heads: Prefixes of weights that the repository may hold beyond the network.
        config: Turns the repository's configuration into the network's.
        arguments: Constructor arguments.
        attention: Attention implementation, which a configuration may never choose.
        build: Builds what is more than a network of pixels; None for the others.
        tried: Whether tests run this type; that another one does not run is no fault of its files.
    """

    network: str
    pooled: Pooled | None = None
    pooling: str = ""
    heads: tuple[str, ...] = ()
    config: Callable[[Any], Any] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    attention: str = "sdpa"
    build: Build | None = None
    tried: bool = True


def _grid(network: str, whole: str = "") -> ModelFamily:
    """A vision tower; with ``whole``, the class whose last token is the feature on request."""
    build = partial(build_tower_or_last, network, whole) if whole else partial(build_grid_tower, network)
    return ModelFamily(network, pooling=MEAN_OF_TOKENS, build=build)


def _whole(network: str, attention: str = "sdpa") -> ModelFamily:
    heads = ("language_model.", "model.language_model.", "lm_head.")
    pooled = (mean_of_image_features, MEAN_OF_TOKENS)
    return ModelFamily(network, *pooled, heads=heads, config=_without_language, attention=attention)


FAMILIES = {
    "dinov2": ModelFamily("Dinov2Model", heads=_HEADS),
    "dinov2_with_registers": ModelFamily("Dinov2WithRegistersModel", heads=_HEADS),
    "dinov3_vit": ModelFamily("DINOv3ViTModel"),
    "dinov3_convnext": ModelFamily("DINOv3ConvNextModel", attention="eager"),
    "vit": ModelFamily(
        "ViTModel",
        class_token,
        "class token",
        # A pooler is random in most repositories and never the feature.
        heads=(*_HEADS, "pooler.", "vit.pooler."),
        arguments={"add_pooling_layer": False},
    ),
    "vit_mae": ModelFamily(
        "ViTModel",
        class_token,
        "class token",
        heads=("decoder.",),
        config=_as_vit,
        arguments={"add_pooling_layer": False},
    ),
    "resnet": ModelFamily("ResNetModel", heads=_HEADS, attention="eager"),
    "convnextv2": ModelFamily("ConvNextV2Model", heads=_HEADS, attention="eager"),
    "clip": ModelFamily(_PROJECTED, image_embeds, "image_embeds", heads=_TEXT, config=_projected_vision),
    "clip_vision_model": ModelFamily(_PROJECTED, image_embeds, "image_embeds"),
    "siglip": ModelFamily("SiglipVisionModel", heads=_TEXT, config=_vision),
    "siglip_vision_model": ModelFamily("SiglipVisionModel"),
    "siglip2": ModelFamily("Siglip2VisionModel", _naflex, "pooler_output", heads=_TEXT, config=_vision),
    "siglip2_vision_model": ModelFamily("Siglip2VisionModel", _naflex, "pooler_output"),
    "aimv2": ModelFamily("Aimv2Model", image_features, "image features"),
    "qwen2_vl": ModelFamily(
        "Qwen2VLForConditionalGeneration",
        pooling="last token",
        build=partial(build_last_token, "Qwen2VLForConditionalGeneration"),
    ),
    **dict.fromkeys(
        ("qwen2_5_vl", "qwen2_5_vl_vision"),
        _grid("Qwen2_5_VisionTransformerPretrainedModel", "Qwen2_5_VLForConditionalGeneration"),
    ),
    **dict.fromkeys(
        ("qwen3_vl", "qwen3_vl_vision"), _grid("Qwen3VLVisionModel", "Qwen3VLForConditionalGeneration")
    ),
    **dict.fromkeys(("qwen3_vl_moe", "qwen3_vl_moe_vision"), _grid("Qwen3VLMoeVisionModel")),
    **dict.fromkeys(("qwen3_5", "qwen3_5_vision"), _grid("Qwen3_5VisionModel")),
    **dict.fromkeys(("qwen3_5_moe", "qwen3_5_moe_vision"), _grid("Qwen3_5MoeVisionModel")),
    **dict.fromkeys(("glm4v", "glm46v"), _grid("Glm4vVisionModel")),
    "glm4v_moe": _grid("Glm4vMoeVisionModel"),
    "internvl": _whole("InternVLModel"),
    "llava": _whole("LlavaModel"),
    "vipllava": _whole("VipLlavaModel"),
    "got_ocr2": _whole("GotOcr2Model", "eager"),
    "paligemma": _whole("PaliGemmaModel"),
    "gemma3": _whole("Gemma3Model"),
}
"""``model_type`` -> row, where the common way would not do."""

_GRIDS = ("image_grid_thw", "image_sizes", "spatial_shapes")
"""Arguments without which image features cannot be computed, although some classes call them optional."""
_DETECTION = "it finds objects and gives no feature of the whole image"
_VIDEO = "it takes videos"
_SEGMENTATION = "it cuts out regions and gives no feature of the whole image"
_TEXT_READING = "it reads text in images and gives no feature of the whole image"
_POINTS = "it matches points of two images"
_TILES = "it cuts an image into tiles, and gives no feature of the whole image"
LEFT_OUT = {
    **dict.fromkeys(
        ("conditional_detr", "dab-detr", "deformable_detr", "detr", "table-transformer", "yolos"), _DETECTION
    ),
    **dict.fromkeys(("d_fine", "deimv2", "lw_detr", "rf_detr", "rt_detr", "rt_detr_v2"), _DETECTION),
    **dict.fromkeys(("grounding-dino", "mm-grounding-dino", "omdet-turbo"), _DETECTION),
    **dict.fromkeys(("pp_doclayout_v3", "pp_doclayout_v4"), _DETECTION),
    **dict.fromkeys(("mask2former", "maskformer", "oneformer", "seggpt"), _SEGMENTATION),
    **dict.fromkeys(("edgetam", "edgetam_video", "edgetam_vision_model"), _SEGMENTATION),
    **dict.fromkeys(
        ("sam", "sam_hq", "sam2", "sam2_hiera_det_model", "sam2_video", "sam2_vision_model"), _SEGMENTATION
    ),
    **dict.fromkeys(("sam3", "sam3_lite_text", "sam3_tracker", "sam3_tracker_video"), _SEGMENTATION),
    "sam3_video": _SEGMENTATION,
    **dict.fromkeys(("mgp-str", "uvdoc", "pp_ocrv5_mobile_rec", "pp_ocrv5_server_rec"), _TEXT_READING),
    **dict.fromkeys(("pp_ocrv6_medium_det", "pp_ocrv6_small_det"), _TEXT_READING),
    **dict.fromkeys(("pp_ocrv6_small_rec", "pp_ocrv6_tiny_rec"), _TEXT_READING),
    **dict.fromkeys(("efficientloftr", "lightglue"), _POINTS),
    **dict.fromkeys(("timesformer", "videomae", "videoprism_vision_model", "vivit"), _VIDEO),
    **dict.fromkeys(("llama4", "mllama", "cohere2_vision"), _TILES),
    **dict.fromkeys(("depth_pro", "dpt", "glpn"), "it predicts depth, no feature of the image"),
    **dict.fromkeys(("sam3_lite_text_text_model", "t5gemma2_encoder"), "it encodes texts"),
    "imagegpt": "it reads an image as a sequence of colour clusters",
    "swin2sr": "it enlarges images and gives no feature of the whole image",
    "timm_backbone": "its weights are fetched from elsewhere; give the timm folder itself",
}
"""``model_type`` that transformers gives pixels, but that stays out -> why."""


def family_of(kind: str, names: Collection[str]) -> ModelFamily:
    """Return the row of a repository; one that no row stands for is run the common way.

    The common way: the class of transformers for the ``model_type``, built from the configuration as it is,
    with the pooling that the rule of :mod:`platodef_cli.encoders.backends.transformers_pooling` chooses.

    Args:
        kind: The ``model_type``.
        names: Tensors of the weight files.

    Raises:
        UnsupportedError: This transformers has no such type, or it gives no feature of an image.
    """
    if kind in LEFT_OUT:
        raise UnsupportedError(f"model_type {kind!r} is not supported: {LEFT_OUT[kind]}")
    row = FAMILIES.get(kind)
    if row is not None:
        if row.network == _PROJECTED and "visual_projection.weight" not in names:
            return replace(row, network="CLIPVisionModel", pooled=None, config=row.config and _vision)
        own = [name for name in names if not name.startswith(_TEXT)]
        if row.pooled is _naflex and own and not any(".head." in f".{name}" for name in own):
            return replace(row, pooled=_naflex_mean, pooling="mean of patches")
        return row
    network = MODEL_FOR_IMAGE_MAPPING_NAMES.get(kind) or MODEL_MAPPING_NAMES.get(kind)
    network = network or _tower_of(kind)
    found = getattr(transformers, network, None) if isinstance(network, str) else None
    if found is None or not _sees(found):
        known = sorted({*MODEL_FOR_IMAGE_MAPPING_NAMES, *FAMILIES} - {*LEFT_OUT})
        close = get_close_matches(kind, known, n=1)
        hint = f"; the nearest supported one is {close[0]!r}" if close else ""
        raise UnsupportedError(
            f"model_type {kind!r} is no encoder of images that transformers {transformers.__version__} knows"
            f"{hint}; supported are {', '.join(known)}"
        )
    more = _more_than_pixels(found)
    if more:
        raise UnsupportedError(
            f"model_type {kind!r} is not supported: {found.__name__} takes more than the pixels of an image "
            f"({more})"
        )
    attention = "sdpa" if found._supports_sdpa else "eager"
    return ModelFamily(found.__name__, attention=attention, tried=kind in MODEL_FOR_IMAGE_MAPPING_NAMES)


def _tower_of(kind: str) -> str | None:
    """Return the class of a vision tower that no mapping of transformers has, by its configuration's name."""
    if not kind.endswith("_vision_model") or kind not in transformers.CONFIG_MAPPING:
        return None
    name: str = transformers.CONFIG_MAPPING[kind].__name__
    return f"{name.removesuffix('Config')}Model"


def _more_than_pixels(network: Any) -> str:
    """Return what a class wants beside pixels to give image features, in words; empty where nothing."""
    projects = hasattr(network, "get_image_features")
    method = network.get_image_features if projects else network.forward
    taken = inspect.signature(method).parameters.values()
    wanted = [
        each.name
        for each in taken
        if each.name not in ("self", "pixel_values")
        and each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
        and (each.default is each.empty or (projects and each.name in _GRIDS))
    ]
    return ", ".join(wanted)


def _sees(network: Any) -> bool:
    """Tell whether a class of transformers takes nothing but pixels, or has a method that does."""
    if not issubclass(network, transformers.PreTrainedModel):
        return False
    return hasattr(network, "get_image_features") or network.main_input_name == "pixel_values"
