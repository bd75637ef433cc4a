"""Gradients of many images in bounded memory: what one image keeps decides how many go at once."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from platodef_cli.encoders.interface import Encoder
from platodef_cli.errors import IncompleteError

_SHARE = 0.3
"""Of the memory limit that one search may take: two run at once, beside the weights and the images."""
_PEAK = 1.1
"""Most memory of a backward pass, as a multiple of what the forward pass keeps, which it frees on its way."""


def images_at_once(encoder: Encoder, limit_gb: float) -> int:
    """Return how many images may go through an encoder with gradients at once.

    It follows from the encoder, its input size and the limit alone, so that equal audits compute alike.

    Args:
        encoder: It is run on one grey image.
        limit_gb: Memory limit of the audit, GB.

    Raises:
        IncompleteError: Not even one image fits.
    """
    each = _PEAK * encoder.gradient_bytes()
    most = int(_SHARE * limit_gb * 2**30 / max(each, 1.0))
    if most < 1:
        needed = each / _SHARE / 2**30
        height, width = encoder.geometry.size
        raise IncompleteError(
            f"encoder {encoder.record.name!r}: the gradient of one image of {height}x{width} pixels needs "
            f"{each / 2**30:.1f} GB, and a search may take {_SHARE:.0%} of the limit of {limit_gb:g} GB; "
            f"give --memory-limit {math.ceil(needed)} or more, or --dtype bfloat16"
        )
    return most


def features_with_gradients(encoder: Encoder, pixels: Tensor, most: int) -> Tensor:
    """Return features ``[B, D]`` of float32 ``pixels`` ``[B, 3, H, W]``, with gradients, in bounded memory.

    More than ``most`` images are run in parts without gradients, and each part once more when its gradient
    is asked for.
    """
    if len(pixels) <= most:
        return encoder.differentiable(pixels)
    features: Tensor = _InParts.apply(pixels, encoder, most)
    return features


class _InParts(torch.autograd.Function):
    """Forward and backward of an encoder, a part of the batch at a time."""

    @staticmethod
    def forward(ctx: Any, pixels: Tensor, encoder: Encoder, most: int) -> Tensor:
        ctx.save_for_backward(pixels)
        ctx.encoder, ctx.most = encoder, most
        return torch.cat([encoder.differentiable(part) for part in torch.split(pixels.detach(), most)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (pixels,) = ctx.saved_tensors
        gradients = []
        parts = torch.split(pixels.detach(), ctx.most)
        for part, wanted in zip(parts, torch.split(gradient, ctx.most), strict=True):
            with torch.enable_grad():
                inputs = part.clone().requires_grad_(True)
                features = ctx.encoder.differentiable(inputs)
            gradients.append(torch.autograd.grad(features, inputs, wanted)[0])
        return torch.cat(gradients), None, None
