"""Gradients with respect to images only: a normalisation with frozen statistics needs no memory for them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class FrozenNorms(TorchFunctionMode):
    """Inside this context a batch normalisation in evaluation mode keeps a factor per channel, not its input.

    The input is needed for the gradients of weights, which frozen encoders do not have. It is a third or more
    of what a ConvNet keeps. The values are those of the library, bit for bit.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run ``func``, or what replaces it."""
        if func is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    learnt = any(value is not None and value.requires_grad for value in (weight, bias))
    if training or learnt or running_mean is None or running_var is None or not input.requires_grad:
        with torch._C.DisableTorchFunction():
            return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    factor = (running_var + eps).rsqrt()
    if weight is not None:
        factor = factor * weight
    result: Tensor = _FrozenNorm.apply(input, running_mean, running_var, weight, bias, eps, factor)
    return result


class _FrozenNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        mean: Tensor,
        variance: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        factor: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(factor.to(input.dtype).view(-1, *[1] * (input.ndim - 2)))
        return F.batch_norm(input, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (factor,) = ctx.saved_tensors
        return gradient * factor, None, None, None, None, None, None
