"""ResNets for small images, which timm does not have: the first layer keeps every pixel (He et al. 2016).

Published encoders of CIFAR-10, GTSRB and the like (SimCLR, BadEncoder, SupContrast, lightly, solo-learn)
have these. Importing this module adds them to timm's table, as ``resnet18_cifar``.
"""

from typing import Any

import timm
from timm.models import register_model
from torch import nn

SMALL = "_cifar"
"""How their names end."""


def _small(name: str, arguments: dict[str, Any]) -> nn.Module:
    arguments.setdefault(
        "pretrained_cfg", {"input_size": (3, 32, 32), "first_conv": "conv1", "classifier": "fc"}
    )
    network: Any = getattr(timm.models.resnet, name)(pretrained=False, **arguments)
    network.conv1 = nn.Conv2d(3, network.conv1.out_channels, 3, 1, 1, bias=False)
    network.maxpool = nn.Identity()
    made: nn.Module = network
    return made


@register_model
def resnet18_cifar(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Return a ResNet-18 whose first layer has 3 x 3 weights and keeps the size."""
    return _small("resnet18", arguments)


@register_model
def resnet34_cifar(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Return a ResNet-34 of this kind."""
    return _small("resnet34", arguments)


@register_model
def resnet50_cifar(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Return a ResNet-50 of this kind."""
    return _small("resnet50", arguments)


@register_model
def resnet101_cifar(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """Return a ResNet-101 of this kind."""
    return _small("resnet101", arguments)
