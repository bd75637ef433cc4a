"""ResNets for small images, which timm does not have: the first layer keeps every pixel (He et al. 2016).

Published encoders of CIFAR-10, GTSRB and the like (SimCLR, BadEncoder, SupContrast, lightly, solo-learn)
have these. Importing this module adds them to timm's table, as ``resnet18_cifar``.
"""

from collections.abc import Callable
from typing import Any

import timm
from timm.models import register_model
from torch import nn

SMALL = "_cifar"
"""How their names end."""
_register: Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]] = register_model


def _small(name: str, arguments: dict[str, Any]) -> nn.Module:
    if arguments.get("pretrained_cfg") is None:
        arguments["pretrained_cfg"] = {"input_size": (3, 32, 32), "first_conv": "conv1", "classifier": "fc"}
    network: Any = getattr(timm.models.resnet, name)(pretrained=False, **arguments)
    network.conv1 = nn.Conv2d(3, network.conv1.out_channels, 3, 1, 1, bias=False)
    network.maxpool = nn.Identity()
    made: nn.Module = network
    return made


def _maker(name: str) -> Callable[..., nn.Module]:
    """Return the function that timm's table holds for the small form of one of its ResNets."""

    def make(pretrained: bool = False, **arguments: Any) -> nn.Module:
        return _small(name, arguments)

    make.__name__ = make.__qualname__ = name + SMALL
    make.__module__ = timm.models.resnet.__name__  # where timm lists it, with its other ResNets
    return make


for _name in ("resnet18", "resnet34", "resnet50", "resnet101"):
    setattr(timm.models.resnet, _name + SMALL, _register(_maker(_name)))
