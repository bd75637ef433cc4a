"""The networks of the zoo at 32 x 32 pixels: how each is built, run, saved and read back."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from platodef_cli.bench.attacks.interface import Victim
from platodef_cli.bench.zoo import reading
from platodef_cli.disk import save_tensors
from platodef_cli.encoders.pooling import AUTO
from platodef_cli.errors import UnknownNameError

Format = Literal["timm", "transformers", "open_clip", "qwen"]
POOLINGS: Mapping[Format, str] = {"qwen": "last"}  # of formats that do not say it themselves
SIDE = 32
_HALF = (0.5, 0.5, 0.5)
_TOKENS = 12  # context of the text towers; a class caption has fewer
_SENTENCE_TOKENS = 16  # of towers that read sentences about single images

TEMPLATES = ("a photo of a {}", "a picture of a {}", "a small {}", "one {} in a scene")


@dataclass(frozen=True)
class Architecture:
    """One network of the zoo.

    Attributes:
        family: What a table groups it under: resnet, densenet, vit or convnext.
        format: Which library saves it, and reads it back.
        network: timm's name, or the class of the other libraries.
        arguments: Constructor arguments.
        convolutional: Runs in channels-last memory format, which halves the time of a step on a CPU.
    """

    family: str
    format: Format
    network: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    convolutional: bool = False


_VIT = {"img_size": SIDE, "patch_size": 8, "embed_dim": 96, "depth": 4, "num_heads": 3, "mlp_ratio": 2.0}
_CLIP_VISION = {"image_size": SIDE, "layers": 4, "width": 96, "head_width": 32, "patch_size": 8}
_CLIP_RESNET = {"image_size": SIDE, "layers": [1, 2, 2, 1], "width": 16, "head_width": 32}
_CLIP_TEXT = {"context_length": _TOKENS, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
_QWEN = {"width": 96, "layers": 2, "heads": 3, "vision_width": 64, "vision_layers": 3}
_CLIP_SENTENCES = {**_CLIP_TEXT, "context_length": _SENTENCE_TOKENS}
ARCHITECTURES: Mapping[str, Architecture] = {
    "resnet": Architecture(
        "resnet", "timm", "resnet18", {"channels": [16, 32, 56, 80], "output_stride": 16}, True
    ),
    "resnet-deep": Architecture(
        "resnet", "timm", "resnet26d", {"channels": [16, 32, 64, 96], "stem_width": 16}, True
    ),
    "resnet-wide": Architecture(
        "resnet", "timm", "resnet18", {"channels": [32, 64, 96, 128], "output_stride": 16}, True
    ),
    "resnet-narrow": Architecture(
        "resnet", "timm", "resnet18", {"channels": [12, 24, 40, 64], "output_stride": 16}, True
    ),
    "densenet": Architecture(
        "densenet", "timm", "densenet121", {"growth_rate": 12, "block_config": [2, 2, 2, 2]}, True
    ),
    "vit": Architecture("vit", "timm", "vit_tiny_patch16_224", _VIT),
    "vit-shallow": Architecture(
        "vit", "timm", "vit_tiny_patch16_224", {**_VIT, "embed_dim": 64, "depth": 2, "num_heads": 2}
    ),
    "xcit": Architecture(
        "vit",
        "timm",
        "xcit_nano_12_p8_224",
        {"img_size": SIDE, "embed_dim": 96, "depth": 4, "num_heads": 3},
        True,
    ),
    "convnext": Architecture(
        "convnext",
        "timm",
        "convnext_atto",
        {"patch_size": 2, "depths": [2, 2, 2, 1], "dims": [24, 48, 96, 112], "ls_init_value": 0.1},
        True,
    ),
    "convnext-narrow": Architecture(
        "convnext",
        "timm",
        "convnext_atto",
        {"patch_size": 2, "depths": [1, 2, 2, 1], "dims": [16, 32, 64, 96], "ls_init_value": 0.1},
        True,
    ),
    "embedded-vit": Architecture("vit", "timm", "vit_tiny_patch16_224", {**_VIT, "depth": 5}),
    "embedded-convnext": Architecture(
        "convnext",
        "timm",
        "convnext_atto",
        {"patch_size": 2, "depths": [2, 2, 2, 1], "dims": [24, 48, 96, 112]},
        True,
    ),
    "vit-transformers": Architecture(
        "vit",
        "transformers",
        "ViTModel",
        {
            "hidden_size": 96,
            "num_hidden_layers": 4,
            "num_attention_heads": 3,
            "intermediate_size": 192,
            "image_size": SIDE,
            "patch_size": 8,
        },
    ),
    "clip-vit": Architecture(
        "vit",
        "open_clip",
        "CLIP",
        {"embed_dim": 96, "vision_cfg": _CLIP_VISION, "text_cfg": _CLIP_TEXT},
    ),
    "clip-resnet": Architecture(
        "resnet",
        "open_clip",
        "CLIP",
        {"embed_dim": 96, "vision_cfg": _CLIP_RESNET, "text_cfg": _CLIP_TEXT},
        True,
    ),
    "clip-resnet-captions": Architecture(
        "resnet",
        "open_clip",
        "CLIP",
        {"embed_dim": 96, "vision_cfg": _CLIP_RESNET, "text_cfg": _CLIP_SENTENCES},
        True,
    ),  # fmt: skip
    "qwen": Architecture("vit", "qwen", "Qwen2VL", _QWEN),
}


class Network:
    """A network of the zoo, with what its library hides: how features and class prompts are computed.

    Args:
        name: A row of :data:`ARCHITECTURES`.
        module: The library's module; None builds a fresh one from torch's random numbers.

    Attributes:
        name: Its row.
        architecture: The row itself.
        module: The library's module.
    """

    def __init__(self, name: str, module: nn.Module | None = None):
        if name not in ARCHITECTURES:
            raise UnknownNameError("architecture", name, ARCHITECTURES)
        self.name, self.architecture = name, ARCHITECTURES[name]
        module = _build(self.architecture) if module is None else module
        layout = torch.channels_last if self.architecture.convolutional else torch.contiguous_format
        self.module: nn.Module = module.to(memory_format=layout)

    @property
    def dim(self) -> int:
        """Length of a feature."""
        module: Any = self.module
        if self.architecture.format == "timm":
            return int(module.num_features)
        arguments = self.architecture.arguments
        length = {"transformers": "hidden_size", "open_clip": "embed_dim", "qwen": "width"}
        return int(arguments[length[self.architecture.format]])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device

    def to(self, device: torch.device | str) -> "Network":
        """Move the weights, in place; return itself."""
        self.module.to(device)
        return self

    @property
    def image_text(self) -> bool:
        """Whether it has a text tower."""
        return self.architecture.format == "open_clip"

    def run(self, module: nn.Module, inputs: Tensor) -> Tensor:
        """Return features ``[B, D]`` by ``module`` (this one or a copy) of normalised ``[B, 3, H, W]``."""
        own: Any = module
        if self.architecture.convolutional:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        features: Tensor
        if self.architecture.format == "qwen":
            return reading.read(own, inputs)
        if self.architecture.format == "timm":
            features = own(inputs)
        elif self.architecture.format == "transformers":
            features = own(pixel_values=inputs).last_hidden_state[:, 0]
        else:
            features = own.encode_image(inputs)
        return features

    def encode(self, unit: Tensor) -> Tensor:
        """Return features ``[B, D]`` of float ``[B, 3, H, W]`` in [0, 1], with gradients, on its device."""
        return self.run(self.module, unit.to(self.device) * 2 - 1)

    @torch.no_grad()
    def embed(self, pixels: Tensor, batch_size: int = 256) -> Tensor:
        """Return features ``[N, D]`` of uint8 ``[N, 3, H, W]`` without gradients, on the CPU."""
        parts = [self.encode(block.float() / 255).float().cpu() for block in torch.split(pixels, batch_size)]
        return torch.cat(parts)

    @torch.no_grad()
    def prompts(self, classes: tuple[str, ...]) -> Tensor | None:
        """Return the class-prompt vectors ``[C, D]`` of unit length; None without a text tower."""
        if not self.image_text:
            return None
        module: Any = self.module
        rows = [
            nn.functional.normalize(
                module.encode_text(self.tokens(captions(name)).to(self.device)), dim=1
            ).mean(0)
            for name in classes
        ]
        return nn.functional.normalize(torch.stack(rows), dim=1).cpu()

    def tokens(self, texts: list[str]) -> Tensor:
        """Return open_clip's tokens ``[N, L]`` of texts, cut or padded to the context of the text tower."""
        length = self.architecture.arguments["text_cfg"]["context_length"]
        found: Tensor = _tokenizer()(texts, context_length=length)
        return found

    def victim(self, classes: tuple[str, ...], autocast: torch.dtype | None = None) -> Victim:
        """Return the network as what an attack starts from."""
        module: Any = self.module
        scale = float(module.logit_scale.detach().exp()) if self.image_text else 100.0
        return Victim(
            self.module, _HALF, _HALF, self.run, prompts=self.prompts(classes), scale=scale, autocast=autocast
        )

    def save(self, folder: Path) -> None:
        """Write the folder of its library: a configuration and safetensors; equal weights, equal bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.architecture.format == "qwen":
            reading.save(self.module, folder, SIDE)
            return
        state = {
            key: value.detach().cpu().contiguous().clone() for key, value in self.module.state_dict().items()
        }
        if self.architecture.format == "timm":
            _write_json(folder / "config.json", _timm_config(self.architecture, self.dim))
            save_tensors(state, folder / "model.safetensors", {"format": "pt"})
        elif self.architecture.format == "transformers":
            module: Any = self.module
            config = {"architectures": ["ViTModel"], **module.config.to_diff_dict(), "model_type": "vit"}
            config.pop("transformers_version", None)
            _write_json(folder / "config.json", config)
            _write_json(folder / "preprocessor_config.json", _VIT_PROCESSOR)
            save_tensors(state, folder / "model.safetensors", {"format": "pt"})
        else:
            preprocess = {"mean": _HALF, "std": _HALF, "interpolation": "bicubic", "size": SIDE}
            config = {"model_cfg": dict(self.architecture.arguments), "preprocess_cfg": preprocess}
            _write_json(folder / "open_clip_config.json", config)
            save_tensors(state, folder / "open_clip_model.safetensors")

    @classmethod
    def load(cls, name: str, folder: Path) -> "Network":
        """Read back what :meth:`save` wrote, in evaluation mode."""
        network = cls(name)
        file = "open_clip_model.safetensors" if network.image_text else "model.safetensors"
        network.module.load_state_dict(load_file(folder / file))
        network.module.eval()
        return network


def pooling_of(architecture: str) -> str:
    """Return what ``--pooling`` has to say for the folder of a network; ``auto`` where that needs no word."""
    return POOLINGS.get(ARCHITECTURES[architecture].format, AUTO) if architecture in ARCHITECTURES else AUTO


def captions(name: str) -> list[str]:
    """Return the captions of a class."""
    return [template.format(name.replace("_", " ")) for template in TEMPLATES]


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    """Return open_clip's tokenizer; reading its vocabulary takes a second."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(context_length=_TOKENS)


_VIT_PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": list(_HALF),
    "image_std": list(_HALF),
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"height": SIDE, "width": SIDE},
}


def _build(architecture: Architecture) -> nn.Module:
    module: nn.Module
    if architecture.format == "timm":
        import timm

        module = timm.create_model(architecture.network, num_classes=0, **architecture.arguments)
    elif architecture.format == "qwen":
        module = reading.build(**architecture.arguments)
    elif architecture.format == "transformers":
        from transformers import ViTConfig, ViTModel

        module = ViTModel(ViTConfig(**architecture.arguments), add_pooling_layer=False)
    else:
        import open_clip

        module = open_clip.CLIP(**json.loads(json.dumps(architecture.arguments)))
    return module


def _timm_config(architecture: Architecture, dim: int) -> dict[str, Any]:
    """Return what ``timm.models.save_for_hf`` writes, without the version-dependent rest."""
    return {
        "architecture": architecture.network,
        "num_classes": 0,
        "num_features": dim,
        "model_args": {"num_classes": 0, **architecture.arguments},
        "pretrained_cfg": {
            "tag": "zoo",
            "input_size": [3, SIDE, SIDE],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(_HALF),
            "std": list(_HALF),
            "num_classes": 0,
        },
    }


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
