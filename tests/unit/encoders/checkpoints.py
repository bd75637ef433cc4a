"""Checkpoints as the code of published methods writes them, around a small ResNet-18 and a small ViT."""

import argparse
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

State = dict[str, Any]


def resnet() -> Any:
    """A ResNet-18 of torchvision with numbers of its own in every layer."""
    torch.manual_seed(3)
    network = torchvision.models.resnet18(num_classes=5).eval()
    for value in network.state_dict().values():
        if value.is_floating_point() and value.ndim == 1:
            value.uniform_(0.5, 1.5)
    return network


class Cifar(nn.Module):
    """A ResNet-18 whose first layer keeps every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.body = resnet()
        self.body.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.body.maxpool = nn.Identity()
        self.body.fc = nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.body(pixels)
        return features


def vit(**arguments: Any) -> Any:
    torch.manual_seed(4)
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0, **arguments).eval()
    for name, value in network.named_parameters():
        if value.ndim == 1:
            value.data.uniform_(0.5, 1.5)
        elif name.endswith(("token", "embed")):
            value.data.normal_(0, 0.5)
    return network


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def backbone(state: State) -> State:
    """Leave the classifier out."""
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def numbered(state: State) -> State:
    """Name layers as ``nn.Sequential(*network.children())`` does."""
    tops = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4", "avgpool", "fc"]
    return {f"{tops.index(key.partition('.')[0])}.{key.partition('.')[2]}": v for key, v in state.items()}


def noise(state: State, seed: int = 9) -> State:
    """Another network of the same names: keys, students, moving averages."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.rand(value.shape, generator=generator) if value.is_floating_point() else value
        for key, value in state.items()
    }


def mlp(prefix: str) -> State:
    return {
        f"{prefix}.0.weight": torch.ones(8, 512),
        f"{prefix}.0.bias": torch.ones(8),
        f"{prefix}.2.weight": torch.ones(4, 8),
    }


def options(module: str, name: str, **values: Any) -> Any:
    """An object of a package that is not installed, as a training framework saves it."""
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        sys.modules.setdefault(".".join(parts[:end]), ModuleType(".".join(parts[:end])))
    kind = type(name, (dict,), {"__module__": module})
    setattr(sys.modules[module], name, kind)
    made = kind(values)
    made.flag = True
    return made


OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}

Maker = Callable[[State], Any]
RESNETS: dict[str, tuple[Maker, str]] = {
    "torchvision": (lambda s: OrderedDict(s), ""),
    "BadEncoder's evaluation": (
        lambda s: {"epoch": 200, "state_dict": under("visual.", backbone(s))},
        "state_dict.visual.",
    ),
    "SSL-Backdoor, MoCo v2": (
        lambda s: {
            "epoch": 200,
            "arch": "resnet18",
            "optimizer": OPTIMIZER,
            "state_dict": {
                **under("module.encoder_q.", {**backbone(s), **mlp("fc")}),
                **under("module.encoder_k.", {**backbone(noise(s)), **mlp("fc")}),
                "module.queue": torch.ones(4, 8),
                "module.queue_ptr": torch.zeros(1).long(),
            },
        },
        "state_dict.module.encoder_q.",
    ),
    "MoCo v1": (
        lambda s: {"state_dict": {**under("module.encoder_k.", noise(s)), **under("module.encoder_q.", s)}},
        "state_dict.module.encoder_q.",
    ),
    "MoCo v3": (
        lambda s: {
            "state_dict": {
                **under("module.momentum_encoder.", backbone(noise(s))),
                **under("module.base_encoder.", backbone(s)),
                **mlp("module.predictor"),
            }
        },
        "state_dict.module.base_encoder.",
    ),
    "SimSiam": (
        lambda s: {"state_dict": {**under("module.encoder.", backbone(s)), **mlp("module.predictor")}},
        "state_dict.module.encoder.",
    ),
    "SimCLR of sthalles": (
        lambda s: {
            "epoch": 200,
            "arch": "resnet18",
            "optimizer": OPTIMIZER,
            "state_dict": under("backbone.", {**backbone(s), **mlp("fc")}),
        },
        "state_dict.backbone.",
    ),
    "SimCLR of Spijkervet": (lambda s: {**under("encoder.", backbone(s)), **mlp("projector")}, "encoder."),
    "BYOL of sthalles": (
        lambda s: {
            "online_network_state_dict": {**under("encoder.", numbered(backbone(s))), **mlp("projetion.net")},
            "target_network_state_dict": under("encoder.", numbered(backbone(noise(s)))),
            "optimizer_state_dict": OPTIMIZER,
        },
        "online_network_state_dict.encoder.",
    ),
    "BYOL of lucidrains": (
        lambda s: {
            **under("net.", s),
            **under("online_encoder.net.", s),
            **under("target_encoder.net.", noise(s)),
        },
        "net.",
    ),
    "SwAV": (
        lambda s: {
            **under("module.", backbone(s)),
            **mlp("module.projection_head"),
            "module.prototypes.weight": torch.ones(30, 4),
        },
        "module.",
    ),
    "Barlow Twins": (
        lambda s: {
            "epoch": 9,
            "optimizer": OPTIMIZER,
            "model": {**under("module.backbone.", backbone(s)), **mlp("module.projector")},
        },
        "model.module.backbone.",
    ),
    "VICReg": (
        lambda s: {"model": {**under("module.backbone.", backbone(s)), **mlp("module.projector")}},
        "model.module.backbone.",
    ),
    "PixPro": (
        lambda s: {
            "opt": argparse.Namespace(lr=1),
            "model": {
                **under("module.encoder.", backbone(s)),
                **under("module.encoder_k.", backbone(noise(s))),
            },
        },
        "model.module.encoder.",
    ),
    "DINO": (
        lambda s: {
            "student": {**under("module.backbone.", noise(s)), **mlp("module.head.mlp")},
            "teacher": {**under("backbone.", s), **mlp("head.mlp")},
            "optimizer": OPTIMIZER,
            "epoch": 100,
            "args": argparse.Namespace(arch="resnet18", out=Path("x")),
            "dino_loss": {"center": torch.zeros(1, 4)},
        },
        "teacher.backbone.",
    ),
    "vissl": (
        lambda s: {
            "phase_idx": 3,
            "classy_state_dict": {
                "base_model": {
                    "model": {"trunk": under("_feature_blocks.", backbone(s)), "heads": mlp("0.clf")},
                    "meters": {},
                }
            },
            "loss": {"x": 1},
            "type": "x",
        },
        "classy_state_dict.base_model.model.trunk._feature_blocks.",
    ),
    "mmpretrain": (
        lambda s: {
            "meta": {"cfg": "a = 1", "dataset_meta": {"classes": ["a"]}},
            "message_hub": {
                "log_scalars": {"loss": options("mmengine.logging.history_buffer", "HistoryBuffer", a=1)}
            },
            "state_dict": {**under("backbone.", backbone(s)), **mlp("head.layers")},
        },
        "state_dict.backbone.",
    ),
    "Lightning": (
        lambda s: {
            "epoch": 3,
            "global_step": 5,
            "pytorch-lightning_version": "2.4.0",
            "loops": {},
            "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_k_models": {}}},
            "optimizer_states": [OPTIMIZER],
            "lr_schedulers": [],
            "hparams_name": "cfg",
            "hyper_parameters": options(
                "lightning_fabric.utilities.data",
                "AttributeDict",
                lr=0.1,
                of=options("omegaconf.dictconfig", "DictConfig"),
            ),
            "state_dict": {**under("model.backbone.", backbone(s)), **mlp("model.head")},
        },
        "state_dict.model.backbone.",
    ),
    "solo-learn": (
        lambda s: {
            "hyper_parameters": options("omegaconf.dictconfig", "DictConfig", x=defaultdict(int, a=1)),
            "state_dict": {
                **under("momentum_backbone.", backbone(noise(s))),
                **under("backbone.", backbone(s)),
                **mlp("projector"),
                **mlp("classifier"),
            },
        },
        "state_dict.backbone.",
    ),
    "lightly": (
        lambda s: {"state_dict": {**under("backbone.", numbered(backbone(s))), **mlp("projection_head")}},
        "state_dict.backbone.",
    ),
    "timm's train.py with an average": (
        lambda s: {
            "epoch": 3,
            "arch": "resnet18",
            "state_dict": noise(s),
            "optimizer": OPTIMIZER,
            "version": 2,
            "args": argparse.Namespace(model="resnet18"),
            "amp_scaler": {"scale": 1.0},
            "metric": 0.5,
            "state_dict_ema": s,
        },
        "state_dict_ema.",
    ),
    "ConvNeXt's average": (
        lambda s: {"model": noise(s), "model_ema": s, "args": argparse.Namespace()},
        "model_ema.",
    ),
    "DataParallel": (lambda s: {"net": under("module.", s), "acc": 93.1, "epoch": 5}, "net.module."),
    "torch.compile": (lambda s: under("_orig_mod.", s), "_orig_mod."),
    "compiled and parallel": (lambda s: {"model": under("module._orig_mod.", s)}, "model.module._orig_mod."),
    "compiled in parts": (
        lambda s: {f"{k.partition('.')[0]}._orig_mod.{k.partition('.')[2]}": v for k, v in s.items()},
        "",
    ),
    "FSDP": (
        lambda s: {
            "state_dict": {
                "_fsdp_wrapped_module." + k.replace(".conv", "._fsdp_wrapped_module.conv"): v
                for k, v in s.items()
            }
        },
        "state_dict.",
    ),
    "DeepSpeed": (
        lambda s: {
            "module": under("encoder.", s),
            "dp_world_size": 1,
            "ds_version": "0.14",
            "dtype": torch.float32,
            "param_shapes": [OrderedDict(a=torch.Size([1]))],
        },
        "module.encoder.",
    ),
    "a list of networks": (lambda s: {"models": [s]}, "models.0."),
    "arrays of numpy": (lambda s: {"model": {k: v.numpy() for k, v in s.items()}}, "model."),
    "parameters": (lambda s: {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()}, ""),
    "float16": (lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()}, ""),
    "bfloat16": (lambda s: {k: v.bfloat16() if v.is_floating_point() else v for k, v in s.items()}, ""),
    "float64": (lambda s: {k: v.double() if v.is_floating_point() else v for k, v in s.items()}, ""),
    "odd numbers beside": (
        lambda s: {
            **s,
            "rope": torch.ones(3, dtype=torch.complex64),
            "q": torch.quantize_per_tensor(torch.ones(3), 1.0, 0, torch.quint8),
        },
        "",
    ),
}
"""Method -> what it saves of a state dict of torchvision, and the prefix that is to be found."""


def shortcuts(state: State) -> State:
    return {key.replace(".downsample.", ".shortcut."): value for key, value in state.items()}


SMALL: dict[str, tuple[Maker, str]] = {
    "BadEncoder": (
        lambda s: {
            "epoch": 1000,
            "optimizer": OPTIMIZER,
            "state_dict": {**under("f.f.", numbered(s)), **mlp("g")},
        },
        "state_dict.f.f.",
    ),
    "DECREE": (
        lambda s: {
            "state_dict": under(
                "f.f.",
                {f"{int(key[0]) - (int(key[0]) > 3)}{key[1:]}": value for key, value in numbered(s).items()},
            )
        },
        "state_dict.f.f.",
    ),
    "SupContrast": (
        lambda s: {
            "opt": argparse.Namespace(lr=1),
            "epoch": 3,
            "optimizer": OPTIMIZER,
            "model": {**under("encoder.module.", shortcuts(s)), **mlp("head")},
        },
        "model.encoder.module.",
    ),
    "kuangliu": (
        lambda s: {
            "net": under("module.", {**shortcuts(s), "linear.weight": torch.ones(10, 512)}),
            "acc": 95.0,
            "epoch": 1,
        },
        "net.module.",
    ),
}
"""The same of a ResNet for images of 32 pixels."""


def to_openai(state: State) -> State:
    """Name the weights of a timm ViT as OpenAI's CLIP does."""
    swaps = [
        ("patch_embed.proj", "conv1"),
        ("pos_embed", "positional_embedding"),
        ("blocks.", "transformer.resblocks."),
        ("norm_pre", "ln_pre"),
        ("norm1", "ln_1"),
        ("norm2", "ln_2"),
        ("qkv.", "in_proj_"),
        ("attn.proj", "attn.out_proj"),
        ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"),
        ("norm.", "ln_post."),
        ("cls_token", "class_embedding"),
    ]
    named = {}
    for key, value in state.items():
        for own, theirs in swaps:
            key = key.replace(own, theirs)
        squeezed = value[0] if key == "positional_embedding" else value
        named[key] = squeezed[0, 0] if key == "class_embedding" else squeezed
    return named


def to_torchvision(state: State) -> State:
    swaps = [
        ("patch_embed.proj.", "conv_proj."),
        ("pos_embed", "encoder.pos_embedding"),
        ("cls_token", "class_token"),
        (".norm1.", ".ln_1."),
        (".norm2.", ".ln_2."),
        ("blocks.", "encoder.layers.encoder_layer_"),
        (".attn.qkv.", ".self_attention.in_proj_"),
        (".attn.proj.", ".self_attention.out_proj."),
        (".mlp.fc1.", ".mlp.0."),
        (".mlp.fc2.", ".mlp.3."),
        ("norm.", "encoder.ln."),
    ]
    return {swapped(key, swaps): value for key, value in state.items()}


def to_openmmlab(state: State) -> State:
    swaps = [
        ("patch_embed.proj.", "patch_embed.projection."),
        ("blocks.", "layers."),
        (".norm1.", ".ln1."),
        (".norm2.", ".ln2."),
        (".mlp.fc1.", ".ffn.layers.0.0."),
        (".mlp.fc2.", ".ffn.layers.1."),
        ("norm.", "ln1."),
    ]
    return {swapped(key, swaps): value for key, value in state.items()}


def swapped(key: str, swaps: list[tuple[str, str]]) -> str:
    for own, theirs in swaps:
        key = key.replace(own, theirs)
    return key


VITS: dict[str, tuple[Maker, str]] = {
    "DINO": (
        lambda s: {
            "student": {**under("module.backbone.", noise(s)), **mlp("module.head.mlp")},
            "teacher": {**under("backbone.", s), **mlp("head.mlp")},
        },
        "teacher.backbone.",
    ),
    "iBOT": (
        lambda s: {"state_dict": {**s, "masked_embed": torch.ones(1, 192), **mlp("head.mlp")}},
        "state_dict.",
    ),
    "MAE": (
        lambda s: {
            "model": {
                **s,
                "mask_token": torch.ones(1, 1, 8),
                "decoder_pos_embed": torch.ones(1, 5, 8),
                **under("decoder_blocks.0.", {"norm1.weight": torch.ones(8)}),
                "decoder_pred.weight": torch.ones(3, 8),
            },
            "scaler": {},
        },
        "model.",
    ),
    "MoCo v3": (
        lambda s: {
            "state_dict": {
                **under("module.base_encoder.", s),
                **mlp("module.base_encoder.head"),
                **under("module.momentum_encoder.", noise(s)),
            }
        },
        "state_dict.module.base_encoder.",
    ),
    "I-JEPA": (
        lambda s: {
            "encoder": under("module.", noise(s)),
            "predictor": {},
            "opt": OPTIMIZER,
            "target_encoder": under("module.", s),
        },
        "encoder.module.",
    ),
    "torchvision": (to_torchvision, ""),
    "mmpretrain": (lambda s: {"state_dict": under("backbone.", to_openmmlab(s))}, "state_dict.backbone."),
    "chunked": (
        lambda s: {
            "teacher": under(
                "backbone.",
                {
                    k.replace("blocks.", f"blocks.{int(k.split('.')[1]) // 3}.")
                    if k.startswith("blocks.")
                    else k: v
                    for k, v in s.items()
                },
            )
        },
        "teacher.backbone.",
    ),
}
