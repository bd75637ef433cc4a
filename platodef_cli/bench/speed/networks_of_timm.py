"""Networks of timm with random weights, and the encoders that they are to platodef."""

from functools import partial

import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn

from platodef_cli.encoders.geometry import Geometry
from platodef_cli.encoders.local import LocalEncoder, Tower
from platodef_cli.records import EncoderRecord, TransformRecord

NETWORK = "vit_small_patch16_224"


def random_network(name: str, seed: int, depth: int) -> nn.Module:
    """Return a vision transformer of timm with ``depth`` layers, random weights and no classifier."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: nn.Module = timm.create_model(name, num_classes=0, depth=depth)
    return made.eval().requires_grad_(False)


def as_encoder(network: nn.Module, name: str, architecture: str = NETWORK) -> LocalEncoder:
    """Return a network as an encoder, with the preprocessing that timm names for it."""
    config = resolve_model_data_config(network)
    side = config["input_size"][-1]
    resize = int(side / config["crop_pct"])
    mean, std = tuple(config["mean"]), tuple(config["std"])
    geometry = Geometry((side, side), resize, config["interpolation"])
    weights = sum(parameter.numel() for parameter in network.parameters())
    dim = int(network.num_features)  # type: ignore[arg-type]
    transform = TransformRecord(
        size=(side, side), resize=resize, interpolation=config["interpolation"], mean=mean, std=std
    )
    record = EncoderRecord(
        name=name, uri=name, backend="timm", architecture=architecture, commit=None, dim=dim,
        parameters=weights, pooling="token", dtype="float32", transform=transform, files=(), digest=name,
        isolated=False,
    )  # fmt: skip
    tower = Tower(network, partial(_call, network), geometry, mean, std, architecture, "token")
    return LocalEncoder(tower, record, torch.device("cpu"), torch.float32)


def _call(network: nn.Module, pixels: Tensor) -> Tensor:
    features: Tensor = network(pixels)
    return features
