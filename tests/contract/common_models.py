"""Tiny configurations of types that no row stands for: the usual ones of the library, made small."""

from typing import Any

import transformers
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

SIDE = 64
SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "embed_dim", "d_model", "out_hidden_size", "projector_hidden_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "encoder_layers", "layers", "depth"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "encoder_attention_heads", "attention_heads"), 2),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "mlp_dim"), 48),
    **dict.fromkeys(("decoder_attention_heads", "num_key_value_heads"), 2),
    **{"decoder_layers": 1, "head_dim": 16, "image_size": SIDE, "patch_size": 16, "projection_dim": 24},
    **{"vocab_size": 300, "max_position_embeddings": 64, "output_channels": 16},
}
_VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": SIDE,
    "patch_size": 16,
}
_TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 100,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
_FOUR = {"depths": [1] * 4, "num_heads": [1, 1, 2, 2], "num_groups": [1, 1, 2, 2]}
_DECODER = {
    **{"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32},
    **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "vocab_size": 100, "model_type": "bart"},
}
OWN: dict[str, dict[str, Any]] = {
    "align": {
        "vision_config": {"width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 64},
        "text_config": _TEXT,
        "projection_dim": 24,
    },
    "cvt": {"embed_dim": [16, 16, 32], "num_heads": [1, 1, 2], "depth": [1, 2, 3]},
    "florence2": {
        "vision_config": {**_FOUR, "embed_dim": [8, 8, 16, 16], "projection_dim": 32},
        "text_config": _DECODER,
    },
    "gemma3": {
        "vision_config": _VISION,
        "text_config": {**_TEXT, "num_key_value_heads": 1, "head_dim": 16, "layer_types": ["full_attention"]},
        "mm_tokens_per_image": 4,
    },
    "maskformer-swin": {**_SWIN, "image_size": SIDE},
    "pvt_v2": {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "num_attention_heads": [1, 1, 2, 2]},
    "sapiens2": {**_VISION, "image_size": [SIDE, SIDE]},
    "tipsv2": {"vision_config": _VISION, "text_config": _TEXT},
    "vision-text-dual-encoder": {
        "vision_config": {**_VISION, "model_type": "vit"},
        "text_config": {**_TEXT, "model_type": "bert"},
        "projection_dim": 24,
    },
}  # fmt: skip
KINDS = (
    "align", "aya_vision", "blip-2", "clipseg", "cvt", "flava", "florence2", "gemma3", "groupvit", "kosmos-2",
    "maskformer-swin", "ovis2", "owlvit", "pvt_v2", "qianfan_ocr", "qianfan_ocr_vision", "radio",
    "sam3_vision_model", "sam3_vit_model", "sam_hq_vision_model", "sam_vision_model", "sapiens2", "tipsv2",
    "vision-text-dual-encoder",
)  # fmt: skip


def shrunk(value: Any, key: str = "") -> Any:
    """Return a configuration, or a part of one, with few and narrow layers."""
    if isinstance(value, dict):
        return {
            name: shrunk(item, name) for name, item in value.items() if name not in ("id2label", "label2id")
        }
    if key in SMALL and isinstance(value, int) and not isinstance(value, bool):
        return SMALL[key]
    if key in ("image_size", "patch_size") and isinstance(value, list | tuple):
        return [SMALL[key]] * len(value)
    return value[:2] if key == "layer_types" and isinstance(value, list) else value


def tiny(kind: str) -> Any:
    """Return a small configuration of a type."""
    made = transformers.CONFIG_MAPPING[kind]
    if kind in OWN:
        return made(**OWN[kind])
    values = shrunk(made().to_dict())
    config = made.from_dict({key: value for key, value in values.items() if key != "transformers_version"})
    text = getattr(config, "text_config", None)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if isinstance(getattr(text, name, None), int) and getattr(text, name) >= SMALL["vocab_size"]:
            setattr(text, name, 0)
    return config


def processor(kind: str) -> Any:
    """Return the library's processor of a type, for inputs of ``SIDE``."""
    known: Any = IMAGE_PROCESSOR_MAPPING_NAMES.get(kind) or {"torchvision": "CLIPImageProcessor"}
    made = getattr(transformers, known.get("torchvision") or known["pil"])
    square = {"height": SIDE, "width": SIDE}
    plain = made()
    if getattr(plain, "do_center_crop", False):
        return made(size={"shortest_edge": SIDE}, crop_size=square)
    return made(size=square if "height" in dict(plain.size) else {"shortest_edge": SIDE})
