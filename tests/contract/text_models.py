"""Tiny random image-text models: real classes of transformers with real processors and tokenizers."""

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

WORDS = [
    "a photo of a circle", "a red square on the left", "the star is big",
    "Describe this image in one short sentence.",
]  # fmt: skip
SMALL: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
CHAT = (
    "{% for m in messages %}START{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE{% else %}"
    "{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %} answer:{% endif %}"
)


def chat(image: str, start: str = "<s>") -> str:
    return CHAT.replace("IMAGE", image).replace("START", start)


def byte_tokens(*extra: str, **settings: Any) -> tuple[Any, Tokenizer]:
    """A byte-level tokenizer with <unk>, <s>, </s>, <pad> as 0 to 3, as a fast tokenizer of transformers."""
    special = ["<unk>", "<s>", "</s>", "<pad>", *extra]
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(WORDS * 20, trainer)
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return hf.PreTrainedTokenizerFast(tokenizer_object=inner, **names, **settings), inner


def _save(folder: Path, network: Any, *parts: Any) -> Path:
    network.eval().save_pretrained(folder)
    for part in parts:
        part.save_pretrained(folder)
    return folder


def clip(folder: Path) -> Path:
    tokens, inner = byte_tokens(model_max_length=24)
    text = {**SMALL, **SPECIAL, "vocab_size": inner.get_vocab_size(), "max_position_embeddings": 24}
    config = hf.CLIPConfig(
        text_config=text, vision_config={**SMALL, "image_size": 32, "patch_size": 8}, projection_dim=24
    )
    pictures = hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    return _save(folder, hf.CLIPModel(config), tokens, pictures)


def siglip(folder: Path) -> Path:
    tokens, inner = byte_tokens(model_max_length=64)
    text = {**SMALL, **SPECIAL, "vocab_size": inner.get_vocab_size(), "projection_size": 32}
    config = hf.SiglipConfig(text_config=text, vision_config={**SMALL, "image_size": 32, "patch_size": 8})
    pictures = hf.SiglipImageProcessor(size={"height": 32, "width": 32})
    return _save(folder, hf.SiglipModel(config), tokens, pictures)


def siglip2(folder: Path) -> Path:
    first = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *string.ascii_letters, *".,!"]
    vocabulary = {token: number for number, token in enumerate(first)}
    merges = [("t", "h"), ("th", "e"), ("▁", "a"), ("s", "t"), ("r", "e")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    tokens = hf.Siglip2Tokenizer(
        vocab=vocabulary, merges=merges, padding_side="right", add_bos_token=False, add_eos_token=True
    )
    text = {**SMALL, "vocab_size": len(vocabulary) + 3, "projection_size": 32, "pad_token_id": 0}
    config = hf.Siglip2Config(text_config=text, vision_config={**SMALL, "num_patches": 16, "patch_size": 8})
    pictures = hf.SiglipImageProcessor(size={"height": 32, "width": 32})
    return _save(folder, hf.Siglip2Model(config), tokens, pictures)


TOWERS: dict[str, Callable[[Path], Path]] = {"clip": clip, "siglip": siglip, "siglip2": siglip2}


def _qwen(folder: Path, newer: bool) -> Path:
    names = {
        "image_token": "<|image_pad|>", "video_token": "<|video_pad|>",
        "vision_start_token": "<|vision_start|>", "vision_end_token": "<|vision_end|>",
    }  # fmt: skip
    tokens, inner = byte_tokens(*names.values())
    for name, value in names.items():
        setattr(tokens, name, value)
    ids = {f"{name}_id": inner.token_to_id(value) for name, value in names.items()}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2]}
    text = {**SMALL, **SPECIAL, "num_key_value_heads": 2, "vocab_size": inner.get_vocab_size()}
    vision = {
        "depth": 2, "hidden_size": 32, "num_heads": 4, "intermediate_size": 48, "out_hidden_size": 32,
        "patch_size": 4,
    }  # fmt: skip
    area = {"shortest_edge": 64, "longest_edge": 1024}
    pictures = hf.Qwen2VLImageProcessor(patch_size=4, merge_size=2, size=area)
    template = chat("<|vision_start|><|image_pad|><|vision_end|>", "")
    if newer:
        text |= {"head_dim": 8, "rope_parameters": {**rope, "mrope_interleaved": True}}
        vision |= {"num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
        config = hf.Qwen3VLConfig(text_config=text, vision_config=vision, **ids)
        network = hf.Qwen3VLForConditionalGeneration(config)
        video = hf.Qwen3VLVideoProcessor(patch_size=4, merge_size=2)
        processor = hf.Qwen3VLProcessor(pictures, tokens, video, chat_template=template)
    else:
        text |= {"rope_parameters": rope}
        vision |= {"window_size": 16, "fullatt_block_indexes": [1]}
        config = hf.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
        network = hf.Qwen2_5_VLForConditionalGeneration(config)
        video = hf.Qwen2VLVideoProcessor(patch_size=4, merge_size=2)
        processor = hf.Qwen2_5_VLProcessor(pictures, tokens, video, chat_template=template)
    return _save(folder, network, processor)


def qwen2_5_vl(folder: Path) -> Path:
    return _qwen(folder, newer=False)


def qwen3_vl(folder: Path) -> Path:
    return _qwen(folder, newer=True)


def gemma3(folder: Path) -> Path:
    names = {
        "image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>",
    }  # fmt: skip
    tokens, inner = byte_tokens(*names.values(), extra_special_tokens=names)
    config = hf.Gemma3Config(
        text_config={
            **SMALL, **SPECIAL, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 64,
            "vocab_size": inner.get_vocab_size(),
        },
        vision_config={**SMALL, "image_size": 32, "patch_size": 8},
        mm_tokens_per_image=4,
        boi_token_index=inner.token_to_id("<start_of_image>"),
        eoi_token_index=inner.token_to_id("<end_of_image>"),
        image_token_index=inner.token_to_id("<image_soft_token>"),
    )  # fmt: skip
    pictures = hf.Gemma3ImageProcessor(size={"height": 32, "width": 32})
    processor = hf.Gemma3Processor(
        pictures, tokens, image_seq_length=4, chat_template=chat("<start_of_image>")
    )
    return _save(folder, hf.Gemma3ForConditionalGeneration(config), processor)


def internvl(folder: Path) -> Path:
    names = {
        "context_image_token": "<IMG_CONTEXT>", "start_image_token": "<img>", "end_image_token": "</img>",
        "video_token": "<video>",
    }  # fmt: skip
    tokens, inner = byte_tokens(*names.values(), extra_special_tokens=names)
    text = {**SMALL, **SPECIAL, "num_key_value_heads": 2, "vocab_size": inner.get_vocab_size()}
    config = hf.InternVLConfig(
        text_config=hf.Qwen2Config(**text),
        vision_config={**SMALL, "image_size": [32, 32], "patch_size": [8, 8]},
        image_token_id=inner.token_to_id("<IMG_CONTEXT>"),
    )
    side = {"height": 32, "width": 32}
    processor = hf.InternVLProcessor(
        hf.GotOcr2ImageProcessor(size=side, crop_to_patches=False),
        tokens,
        hf.InternVLVideoProcessor(size=side),
        image_seq_length=4,
        chat_template=chat("<IMG_CONTEXT>\n", ""),
    )
    return _save(folder, hf.InternVLForConditionalGeneration(config), processor)


def mllama(folder: Path) -> Path:
    tokens, inner = byte_tokens("<|image|>", extra_special_tokens={"image_token": "<|image|>"})
    config = hf.MllamaConfig(
        text_config={
            **SMALL, **SPECIAL, "num_key_value_heads": 2, "vocab_size": inner.get_vocab_size(),
            "cross_attention_layers": [1],
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        vision_config={
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_global_layers": 1,
            "attention_heads": 4, "image_size": 32, "patch_size": 8, "vision_output_dim": 64,
            "max_num_tiles": 1, "supported_aspect_ratios": [[1, 1]], "intermediate_layers_indices": [1],
        },
        image_token_index=inner.token_to_id("<|image|>"),
    )  # fmt: skip
    pictures = hf.MllamaImageProcessor(size={"height": 32, "width": 32}, max_image_tiles=1)
    processor = hf.MllamaProcessor(pictures, tokens, chat_template=chat("<|image|>"))
    return _save(folder, hf.MllamaForConditionalGeneration(config), processor)


def blip(folder: Path) -> Path:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "circle", *"bcdefghijklmno"]
    tokens = hf.BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    text = {
        **SMALL, "vocab_size": len(words), "encoder_hidden_size": 32, "max_position_embeddings": 64,
        "bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0,
    }  # fmt: skip
    config = hf.BlipConfig(text_config=text, vision_config={**SMALL, "image_size": 32, "patch_size": 8})
    processor = hf.BlipProcessor(hf.BlipImageProcessor(size={"height": 32, "width": 32}), tokens)
    return _save(folder, hf.BlipForConditionalGeneration(config), processor)


CAPTIONERS: dict[str, Callable[[Path], Path]] = {
    "qwen3_vl": qwen3_vl, "gemma3": gemma3, "internvl": internvl, "mllama": mllama,
    "qwen2_5_vl": qwen2_5_vl, "blip": blip,
}  # fmt: skip


def made(make: Callable[[Path], Path], folder: Path) -> Path:
    """Save a model with weights that do not depend on the order of tests."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(folder)
