"""Which output of a network of transformers is the feature of an image.

One rule for every architecture: the projected image embedding where there is one, or the mean where there is
one for every patch; else the pooled output, if its weights are in the file; else the class token; else the
mean of the patches.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from platodef_cli.encoders.pooling import CLASS_TOKEN, MEAN, POOLINGS


class NoFeature(Exception):
    """A network has no output that could be the feature of an image."""


Pooled = Callable[[Any, Tensor], Tensor]
TOWER_POOLED = "pooler_output of the vision tower"
_CLASS_TOKENS = ("cls_token", "class_embedding", "class_token")
_OTHER_TOKENS = ("distillation_token", "register_tokens")


def image_features(network: Any, pixels: Tensor) -> Tensor:
    """Return what an image–text network projects an image to, ``[B, D]``."""
    output = network.get_image_features(pixel_values=pixels)
    features: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return features


def mean_of_image_features(network: Any, pixels: Tensor) -> Tensor:
    """Return the mean of the tokens ``[N, D]`` that a language model is given of each image, ``[B, D]``."""
    tokens: Any = image_features(network, pixels)
    return torch.stack([each.reshape(-1, each.shape[-1]).mean(0) for each in tokens])


def image_embeds(network: Any, pixels: Tensor) -> Tensor:
    """Return the projected embedding of a vision tower, ``[B, D]``."""
    embeds: Tensor = network(pixel_values=pixels).image_embeds
    return embeds


def pooler_output(network: Any, pixels: Tensor) -> Tensor:
    """Return the pooled output, ``[B, D]``; networks of convolutions leave two sides of length 1."""
    pooled: Tensor = network(pixel_values=pixels).pooler_output
    return pooled.flatten(1)


def class_token(network: Any, pixels: Tensor) -> Tensor:
    """Return the first token of the last layer, ``[B, D]``."""
    tokens: Tensor = network(pixel_values=pixels).last_hidden_state
    return tokens[:, 0]


def mean_of_patches(network: Any, pixels: Tensor) -> Tensor:
    """Return the mean of the last layer's tokens ``[B, N, D]`` or map ``[B, C, H, W]``, ``[B, D]``."""
    tokens: Tensor = network(pixel_values=pixels).last_hidden_state
    return tokens.mean(1) if tokens.ndim == 3 else tokens.flatten(2).mean(2)


def _mean_past(prefix: int, network: Any, pixels: Tensor) -> Tensor:
    """Return the mean of the tokens behind the first ones, ``[B, D]``."""
    tokens: Tensor = network(pixel_values=pixels).last_hidden_state
    return tokens[:, prefix:].mean(1)


def tower_pooled(network: Any, pixels: Tensor) -> Tensor:
    """Return the pooled output ``[B, D]`` of the vision tower inside an image-text network."""
    return pooler_output(network.vision_model, pixels)


_NAMES: dict[str, Pooled] = {
    TOWER_POOLED: tower_pooled,
    "image features": image_features,
    "mean of image features": mean_of_image_features,
    "image_embeds": image_embeds,
    "pooler_output": pooler_output,
    CLASS_TOKEN: class_token,
    MEAN: mean_of_patches,
}


def possible_poolings(network: nn.Module, pixels: Tensor) -> list[str]:
    """Return the names of the outputs that are one vector per image, in the order of the rule.

    Args:
        network: In evaluation mode.
        pixels: One normalised image ``[1, 3, H, W]``, on the device of the network; that may be ``meta``.
    """
    with torch.inference_mode():
        if hasattr(network, "get_image_features"):
            names = ["image features", "mean of image features"]
            # a captioner (BLIP) has no projection of its own
            names += [TOWER_POOLED] if isinstance(getattr(network, "vision_model", None), nn.Module) else []
        else:
            output = network(pixel_values=pixels)
            token = any(name.endswith(_CLASS_TOKENS) for name, _ in network.named_parameters())
            names = [
                name for name in ("image_embeds", "pooler_output") if getattr(output, name, None) is not None
            ]
            if getattr(output, "last_hidden_state", None) is not None:
                names += [CLASS_TOKEN] if token else []
                names += [MEAN]
        found = []
        for name in names:
            features = _NAMES[name](network, pixels)
            if isinstance(features, Tensor) and features.ndim == 2 and len(features) == 1:
                found.append(name)
    return found


def choose_pooling(network: nn.Module, size: tuple[int, int]) -> tuple[str, Pooled]:
    """Return the pooling that the rule gives for a network, and its name.

    Weights that the file lacks are NaN in it, so an output that depends on one is not finite and is passed
    over.

    Args:
        network: In evaluation mode.
        size: Height and width of its input, pixels.

    Raises:
        NoFeature: No output is one vector per image and depends only on weights that the file has.
    """
    pixels = torch.zeros(1, 3, *size)
    for name in possible_poolings(network, pixels):
        with torch.inference_mode():
            features = _NAMES[name](network, pixels)
        if bool(torch.isfinite(features).all()):
            return name, _NAMES[name]
    raise NoFeature("every output that could be a feature depends on weights that the file lacks")


def as_wanted(network: nn.Module, chosen: tuple[str, Pooled], wanted: str) -> tuple[str, Pooled]:
    """Return the pooling that the user asks for, where a network gives tokens that are pooled by a rule.

    Args:
        network: The network.
        chosen: Name and function of the pooling that the rule chooses.
        wanted: A key of :data:`platodef_cli.encoders.pooling.POOLINGS`.

    Returns:
        ``chosen`` where nothing is asked for, or the network cannot give it.
    """
    if POOLINGS[wanted] != MEAN or chosen[0] != CLASS_TOKEN:
        return chosen
    first = (
        parameter.shape[-2] if parameter.ndim > 1 else 1
        for name, parameter in network.named_parameters()
        if name.endswith((*_CLASS_TOKENS, *_OTHER_TOKENS))
    )
    return MEAN, partial(_mean_past, sum(first))
