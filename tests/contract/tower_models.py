"""Tiny random vision towers and image-text models saved by transformers, and its own features of images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.contract.encoder_models import Reference, saved

SIDE = 64
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": SIDE,
    "patch_size": 16,
}
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 60,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
DECODER = {**TEXT, "num_key_value_heads": 1}
SQUARE = {"height": SIDE, "width": SIDE}
GRID = {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "out_hidden_size": 24}
Made = tuple[Any, Any, Callable[[Any, Any], Tensor]]


def _means(output: Any) -> Tensor:
    """Return the mean of the image features ``[N, D]`` of every image, ``[B, D]``."""
    return torch.stack([tokens.reshape(-1, tokens.shape[-1]).mean(0) for tokens in output.pooler_output])


def _clip_processor() -> Any:
    import transformers as t

    return t.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE)


def _qwen(kind: str) -> Made:
    """A tower of the Qwen family, whole or alone; patches of two sizes and shapes of positions."""
    import transformers as t

    whole = kind.removesuffix("_vision")
    side = 14 if whole == "qwen2_5_vl" else 16
    own = {"window_size": 2 * side * 2, "fullatt_block_indexes": [1]} if side == 14 else {}
    deep = {"deepstack_visual_indexes": [0]} if whole.startswith("qwen3_vl") else {}
    places = {} if side == 14 else {"num_position_embeddings": 16}
    vision = {**GRID, "patch_size": side, **own, **deep, **places}
    edges = {"shortest_edge": (2 * side) ** 2, "longest_edge": (4 * side) ** 2}
    processor = t.Qwen2VLImageProcessor(size=edges, patch_size=side)
    if kind.endswith("_vision"):
        config = t.CONFIG_MAPPING[kind](**vision)
        network = t.AutoModel.from_config(config)
        return network, processor, lambda n, x: _per_image(n, x)
    text = {**DECODER, "hidden_size": 24, "head_dim": 8}
    text["rope_parameters"] = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    if "moe" in whole:
        text |= {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
    if "qwen3_5" in whole:
        text |= {"layer_types": ["full_attention"] * 2}
    tokens = {
        "image_token_id": 50,
        "video_token_id": 51,
        "vision_start_token_id": 52,
        "vision_end_token_id": 53,
    }
    config = t.CONFIG_MAPPING[whole](vision_config=vision, text_config=text, **tokens)
    network = t.AutoModelForImageTextToText.from_config(config)
    return network, processor, lambda n, x: _means(n.model.get_image_features(**x))


def _per_image(tower: Any, inputs: Any) -> Tensor:
    tokens = tower(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]).pooler_output
    counts = (inputs["image_grid_thw"].prod(-1) // 4).tolist()
    return torch.stack([part.mean(0) for part in tokens.split(counts)])


def _whole(kind: str) -> Made:
    """An image-text model whose language model is given one token per patch."""
    import transformers as t

    wide = {"image_size": [SIDE, SIDE], "patch_size": [16, 16]}
    sam = {
        **{key: value for key, value in VISION.items() if key != "intermediate_size"},
        **{"mlp_dim": 48, "output_channels": 16, "window_size": 2, "global_attn_indexes": [1]},
    }
    clip, siglip = ({**VISION, "model_type": f"{name}_vision_model"} for name in ("clip", "siglip"))
    vision, text, processor, more = {
        "internvl": (
            {**VISION, **wide},
            "qwen2",
            t.GotOcr2ImageProcessor(size=SQUARE),
            {"image_token_id": 7},
        ),
        "llava": (clip, "llama", _clip_processor(), {"image_token_index": 7}),
        "vipllava": (
            clip,
            "llama",
            _clip_processor(),
            {"image_token_index": 7, "vision_feature_layers": [-2, -1]},
        ),
        "got_ocr2": (sam, "qwen2", t.GotOcr2ImageProcessor(size=SQUARE), {"image_token_index": 7}),
        "paligemma": (siglip, "gemma", t.SiglipImageProcessor(size=SQUARE), {"image_token_index": 7}),
        "gemma3": (
            siglip,
            "gemma3_text",
            t.Gemma3ImageProcessor(size=SQUARE),
            {"image_token_index": 7, "mm_tokens_per_image": 4},
        ),
    }[kind]
    if kind == "paligemma":
        more |= {"projection_dim": 32}
    decoder = {**DECODER, "model_type": text, **({"head_dim": 16} if "gemma" in text else {})}
    config = t.CONFIG_MAPPING[kind](vision_config=vision, text_config=decoder, **more)
    network = t.AutoModelForImageTextToText.from_config(config)
    return network, processor, lambda n, x: _means(n.model.get_image_features(pixel_values=x["pixel_values"]))


def _pair(kind: str) -> Made:
    """A model that projects an image and a text into one space."""
    import transformers as t

    vision, text, more, processor = VISION, TEXT, {"projection_dim": 24}, _clip_processor()
    if kind == "altclip":
        text = {**TEXT, "project_dim": 24}
    elif kind == "blip":
        vision = {**VISION, "projection_dim": 24}
        more |= {"image_text_hidden_size": 24}
        processor = t.BlipImageProcessor(size=SQUARE)
    elif kind == "chinese_clip":
        processor = t.ChineseCLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE)
    config = t.CONFIG_MAPPING[kind](vision_config=vision, text_config=text, **more)
    network = t.AutoModel.from_config(config)
    return network, processor, lambda n, x: n.get_image_features(**x).pooler_output


def _alone(kind: str) -> Made:
    """A vision tower that takes pixels; its feature is the pooled output, else the class token."""
    import transformers as t

    wide = {"image_size": [SIDE, SIDE], "patch_size": [16, 16]} if kind == "internvl_vision" else {}
    network = t.AutoModel.from_config(t.CONFIG_MAPPING[kind](**{**VISION, **wide}))

    def pooled(net: Any, inputs: Any) -> Tensor:
        output = net(**inputs)
        found = getattr(output, "pooler_output", None)
        return output.last_hidden_state[:, 0] if found is None else found

    return network, _clip_processor(), pooled


def _glm(kind: str) -> Made:
    """A model of the GLM-V family, whose tower takes a sequence of patches too."""
    import transformers as t

    vision = {**GRID, "patch_size": 16, "image_size": SIDE, "model_type": "glm4v_vision"}
    if kind == "glm4v_moe":
        vision["model_type"] = "glm4v_moe_vision"
    edges = {"shortest_edge": 2 * 32**2, "longest_edge": 2 * SIDE**2}
    process = t.Glm46VImageProcessor if kind == "glm46v" else t.Glm4vImageProcessor
    text = {**DECODER, "hidden_size": 24, "head_dim": 8, "model_type": f"{kind}_text".replace("46", "4")}
    text["rope_parameters"] = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    if kind == "glm4v_moe":
        text |= {"n_routed_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
    tokens = {
        **{"image_token_id": 50, "video_token_id": 51, "image_start_token_id": 52, "image_end_token_id": 53},
        **{"video_start_token_id": 54, "video_end_token_id": 55},
    }
    config = t.CONFIG_MAPPING[kind](vision_config=vision, text_config=text, **tokens)
    network = t.AutoModelForImageTextToText.from_config(config)
    processor = process(size=edges, patch_size=16)
    return network, processor, lambda n, x: _means(n.model.get_image_features(**x))


GLM = ("glm4v", "glm46v", "glm4v_moe")
QWEN = [f"{name}{end}" for name in ("qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")
        for end in ("", "_vision")]  # fmt: skip
MAKERS: dict[str, Callable[[str], Made]] = {
    **dict.fromkeys(QWEN, _qwen),
    **dict.fromkeys(GLM, _glm),
    **dict.fromkeys(("internvl", "llava", "vipllava", "got_ocr2", "paligemma", "gemma3"), _whole),
    **dict.fromkeys(("metaclip_2", "altclip", "chinese_clip", "blip"), _pair),
    **dict.fromkeys(("internvl_vision", "chinese_clip_vision_model"), _alone),
}
SQUARES = {kind: 56 if kind.startswith("qwen2_5") else SIDE for kind in (*QWEN, *GLM)}
"""Networks of any input size run on a fixed square; the library agrees on pictures of that very size."""


def tower_model(folder: Path, kind: str) -> Reference:
    """Save a model and its processor with ``save_pretrained`` and return the library's own pipeline."""
    torch.manual_seed(4)
    return saved(folder, *MAKERS[kind](kind))
