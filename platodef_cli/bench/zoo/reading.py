"""The zoo's language model that reads images: a Qwen2-VL of a few layers, whose last token is the feature.

As in VLM2Vec (Jiang et al. 2024) the feature of an image is what the network holds at the last token of an
instruction behind it (:mod:`platodef_cli.encoders.backends.last_token`, which loads the saved folder). It is
trained to go on with a caption of the class, as such models are before anybody makes embeddings of them.
"""

import json
import string
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from torch import Tensor, nn

from platodef_cli.disk import save_tensors
from platodef_cli.encoders.backends.last_token import PROMPT, LastTokenReader

_SPECIAL = {
    "bos_token_id": "<s>",
    "eos_token_id": "</s>",
    "pad_token_id": "<pad>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
}
_UNKNOWN = "<unk>"
_WORDS = ("represent", "given", "image", "photo", "picture", "small", "scene")  # of the prompt and captions
_LETTERS = string.ascii_lowercase + string.digits + ".,-'&/()"
SETTINGS = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
"""Of the image processor: 16 tokens for an image of 32 pixels."""


@lru_cache(maxsize=1)
def tokenizer() -> Tokenizer:
    """Return the tokenizer: a token per letter, and per word that every sentence has."""
    known = (_UNKNOWN, *_SPECIAL.values(), *_WORDS, *_LETTERS)
    made = Tokenizer(WordLevel({token: number for number, token in enumerate(known)}, unk_token=_UNKNOWN))
    made.normalizer = normalizers.Lowercase()
    pieces = pre_tokenizers.Split(Regex("|".join((*_WORDS, "."))), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pieces])
    made.add_special_tokens([_UNKNOWN, *_SPECIAL.values()])
    return made


def _number(token: str) -> int:
    return int(tokenizer().encode(token, add_special_tokens=False).ids[0])


def build(width: int, layers: int, heads: int, vision_width: int, vision_layers: int) -> nn.Module:
    """Return a fresh network from torch's random numbers.

    Args:
        width: Of the language model, and of the feature.
        layers: Of the language model.
        heads: Of the language model; each has ``width / heads`` numbers, a multiple of 8.
        vision_width: Of the vision tower.
        vision_layers: Of the vision tower.
    """
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    ids = {name: _number(token) for name, token in _SPECIAL.items()}
    third = width // heads // 8
    text = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "vocab_size": tokenizer().get_vocab_size(),
        "max_position_embeddings": 128,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [2 * third, third, third],
        },
        **{name: ids[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
    }
    vision = {
        "depth": vision_layers,
        "embed_dim": vision_width,
        "hidden_size": width,
        "num_heads": 4,
        "mlp_ratio": 2,
        "patch_size": SETTINGS["patch_size"],
        "spatial_merge_size": SETTINGS["merge_size"],
        "temporal_patch_size": SETTINGS["temporal_patch_size"],
    }
    config = Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **ids)
    made: nn.Module = Qwen2VLForConditionalGeneration(config)
    return made


def _reader(module: nn.Module, side: int) -> LastTokenReader:
    body: Any = module
    return LastTokenReader(body.model, prompt(), SETTINGS, (side, side))


def prompt() -> list[int]:
    """Return the tokens of the instruction, with one for the image."""
    found: list[int] = tokenizer().encode(PROMPT, add_special_tokens=False).ids
    return found


def read(module: nn.Module, inputs: Tensor) -> Tensor:
    """Return features ``[B, D]`` of normalised ``[B, 3, H, H]``, with gradients."""
    return _reader(module, inputs.shape[-1])(inputs)


def caption_error(module: nn.Module, inputs: Tensor, captions: list[str]) -> Tensor:
    """Return the mean cross-entropy of the tokens of captions that follow the image and the instruction.

    Args:
        module: The network.
        inputs: Normalised images ``[B, 3, H, H]``.
        captions: One for each.
    """
    head: Any = module
    end, pad = (_number(_SPECIAL[name]) for name in ("eos_token_id", "pad_token_id"))
    told = [[*ids.ids, end] for ids in tokenizer().encode_batch(captions, add_special_tokens=False)]
    longest = max(map(len, told))
    rows = [[*ids, *[pad] * (longest - len(ids))] for ids in told]
    answers = torch.tensor(rows, device=inputs.device)
    hidden = _reader(module, inputs.shape[-1]).hidden(inputs, answers)
    # what stands at a token tells the next one; the last token of the instruction tells the first
    logits = head.lm_head(hidden[:, -longest - 1 : -1])
    return nn.functional.cross_entropy(logits.flatten(0, 1), answers.flatten(), ignore_index=pad)


def save(module: nn.Module, folder: Path, side: int) -> None:
    """Write the folder that transformers reads: configurations, tokenizer, safetensors."""
    own: Any = module
    config = {**own.config.to_diff_dict(), "architectures": ["Qwen2VLForConditionalGeneration"]}
    config.pop("transformers_version", None)
    pictures = {
        "image_processor_type": "Qwen2VLImageProcessor",
        **SETTINGS,
        "size": {"shortest_edge": side**2, "longest_edge": side**2},
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 3,
        "rescale_factor": 1 / 255,
    }
    for name, values in {"config.json": config, "preprocessor_config.json": pictures}.items():
        (folder / name).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / "tokenizer.json").write_text(tokenizer().to_str(pretty=True) + "\n", encoding="utf-8")
    state = {key: value.detach().cpu().contiguous().clone() for key, value in own.state_dict().items()}
    save_tensors(state, folder / "model.safetensors", {"format": "pt"})
