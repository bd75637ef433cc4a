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


@_register
def resnet18_cifar(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Return a ResNet-18 whose first layer has 3 x 3 weights and keeps the size."""
    return _small("resnet18", arguments)


@_register
def resnet34_cifar(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Return a ResNet-34 of this kind."""
    return _small("resnet34", arguments)


@_register
def resnet50_cifar(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Return a ResNet-50 of this kind."""
    return _small("resnet50", arguments)


@_register
def resnet101_cifar(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Return a ResNet-101 of this kind."""
    return _small("resnet101", arguments)
