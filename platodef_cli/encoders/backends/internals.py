"""The inside of a loaded network: its last feature map, and a ViT's features as a sum over attention heads.

Everything is read with hooks during the tower's own forward pass, so what is seen is what makes the feature.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from platodef_cli.encoders.backends.vit_layouts import Block, VitLayout, layout_of
from platodef_cli.encoders.interface import HeadTerms
from platodef_cli.errors import NotApplicable

MAX_MAP = 2**22
"""Most numbers in one image's feature map."""
MAX_TERMS = 2**22
"""Most numbers in one image's terms: the largest open ViTs have 1.3 million."""
SUM_TOLERANCE = 1e-4
"""Largest distance of the summed terms from the feature, as a share of its length."""

Forward = Callable[[Tensor], Tensor]


def feature_map(module: nn.Module, forward: Forward, inputs: Tensor) -> Tensor:
    """Return the last feature map ``[B, C, L]`` float32 on the CPU.

    Args:
        module: The network.
        forward: Its forward pass to features.
        inputs: Normalised pixels ``[B, 3, H, W]``.

    Raises:
        NotApplicable: The network has none, or one too large.
    """
    trunk: Any = getattr(module, "trunk", module)  # open_clip's wrapper of timm
    if callable(getattr(trunk, "forward_features", None)):
        found = trunk.forward_features(inputs)
        width = getattr(trunk, "num_features", None)
    else:
        found, width = _hooked_map(module, forward, inputs), None
    if not isinstance(found, Tensor) or found.ndim not in (3, 4) or len(found) != len(inputs):
        raise NotApplicable("this architecture has no single feature map")
    if found.ndim == 3:
        found = found.transpose(1, 2)  # [B, tokens, C] -> [B, C, tokens]
    elif found.shape[3] == width and found.shape[1] != width:
        found = found.permute(0, 3, 1, 2)  # channels last, as in Swin
    found = found.flatten(2).float()
    if found[0].numel() > MAX_MAP:
        raise NotApplicable(f"its feature map of {found[0].numel()} numbers per image is too large")
    return found.cpu().contiguous()


def _hooked_map(module: nn.Module, forward: Forward, inputs: Tensor) -> Tensor | None:
    """Return what the outermost module gives as ``last_hidden_state``, or the last block's tokens."""
    names = ("", "vision_model", "transformer", "layer4")
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _arguments: Any, output: Any) -> None:
        value = getattr(output, "last_hidden_state", output)
        if isinstance(value, Tensor) and value.ndim in (3, 4):
            kept.append(value)

    children = dict(module.named_modules())
    with ExitStack() as stack:
        for name in names:
            if name in children:
                stack.enter_context(children[name].register_forward_hook(keep))
        forward(inputs)
    return kept[-1] if kept else None


def head_terms(module: nn.Module, forward: Forward, inputs: Tensor) -> HeadTerms:
    """Return the features as a sum of terms (Gandelsman et al. 2024), on the CPU.

    The statistics of the final LayerNorm are frozen at their values for each image, which makes the rest
    linear; biases are split evenly, the attention's among its heads and the LayerNorm's among all terms.

    Args:
        module: The network.
        forward: Its forward pass to features.
        inputs: Normalised pixels ``[B, 3, H, W]``.

    Raises:
        NotApplicable: The network is no pre-norm ViT with a known layout, or its terms do not add up.
    """
    layout = layout_of(module)
    with _recorded(layout) as seen:
        features = forward(inputs).float()
    terms = _terms(layout, seen)  # [B, T, D]
    if terms[0].numel() > MAX_TERMS:
        raise NotApplicable(f"its {terms.shape[1]} terms per image are too large")
    error = (terms.sum(dim=1) - features).norm(dim=1) / features.norm(dim=1).clamp_min(1e-12)
    if terms.shape[2] != features.shape[1] or not bool((error <= SUM_TOLERANCE).all()):
        raise NotApplicable("the terms of its attention heads do not add up to its features")
    return HeadTerms(terms.cpu(), len(layout.blocks), layout.heads)


class _Seen:
    """What the hooks saw: the residual stream's start, heads, MLP outputs, and inputs of the last norms."""

    def __init__(self, blocks: int):
        self.start: Tensor | None = None
        self.heads: list[Tensor | None] = [None] * blocks
        self.mlps: list[Tensor | None] = [None] * blocks
        self.normed: Tensor | None = None


@contextmanager
def _recorded(layout: VitLayout) -> Iterator[_Seen]:
    """Record one forward pass."""
    seen = _Seen(len(layout.blocks))

    def start(_module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.start = arguments[0] if arguments else named.get("hidden_states")

    def normed(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
        seen.normed = arguments[0]

    def heads(number: int) -> Callable[..., None]:
        def keep(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
            seen.heads[number] = arguments[0]

        return keep

    def attended(number: int, attention: nn.MultiheadAttention) -> Callable[..., None]:
        def keep(_module: nn.Module, _arguments: Any, output: Tensor) -> None:
            seen.heads[number] = _attend(attention, output)

        return keep

    def mlp(number: int) -> Callable[..., None]:
        def keep(_module: nn.Module, _arguments: Any, output: Tensor) -> None:
            seen.mlps[number] = output

        return keep

    with ExitStack() as stack:
        enter = stack.enter_context
        enter(layout.blocks[0].module.register_forward_pre_hook(start, with_kwargs=True))
        if layout.norm is not None:
            enter(layout.norm.register_forward_pre_hook(normed))
        for number, block in enumerate(layout.blocks):
            enter(block.mlp.register_forward_hook(mlp(number)))
            if block.attention is None:
                enter(block.out.register_forward_pre_hook(heads(number)))
            else:
                enter(block.before.register_forward_hook(attended(number, block.attention)))
        yield seen


def _attend(attention: nn.MultiheadAttention, tokens: Tensor) -> Tensor:
    """Return the concatenated heads ``[B, N, C]`` of a fused attention module, which shows no inside."""
    batch, count, width = tokens.shape
    joined = F.linear(tokens, attention.in_proj_weight, attention.in_proj_bias)
    parts = joined.reshape(batch, count, 3, attention.num_heads, width // attention.num_heads)
    query, key, value = parts.permute(2, 0, 3, 1, 4)  # [B, heads, N, C / heads] each
    mixed = F.scaled_dot_product_attention(query, key, value)
    return mixed.transpose(1, 2).flatten(2)


def _terms(layout: VitLayout, seen: _Seen) -> Tensor:
    """Carry every addition to the residual stream through pooling, last norm and projection."""
    start, lists = seen.start, (*seen.heads, *seen.mlps)
    if start is None or any(value is None for value in lists) or (layout.norm and seen.normed is None):
        raise NotApplicable("its blocks do not run as its layout says")
    start = start.float()
    weights = layout.pooling(start.shape[1]).to(start.device)  # [N]
    share = weights.expand(len(start), -1)  # [B, N]
    deviation = None
    if layout.norm is not None:
        assert seen.normed is not None
        variance = seen.normed.float().var(dim=-1, correction=0)
        deviation = (variance + layout.norm.eps).sqrt()  # [B, N] before pooling, [B] after
        if not layout.norm_after_pooling:
            share, deviation = share / deviation, None
    parts = [torch.einsum("bn,bnc->bc", share, start)[:, None]]
    for block, mixed, mlp in zip(layout.blocks, seen.heads, seen.mlps, strict=True):
        assert mixed is not None
        assert mlp is not None
        parts.append(_heads_of(block, mixed.float(), share, layout.heads))
        parts.append(torch.einsum("bn,bnc->bc", share, mlp.float())[:, None])
    terms = torch.cat(parts, dim=1)  # [B, T, C]
    if layout.norm is not None:
        terms = terms - terms.mean(dim=2, keepdim=True)
        if deviation is not None:
            terms = terms / deviation.reshape(-1, 1, 1)
        if layout.norm.weight is not None:
            terms = terms * layout.norm.weight.float()
        if layout.norm.bias is not None:
            # the weights of the pooling add up to 1
            terms = terms + layout.norm.bias.float() / terms.shape[1]
    return terms if layout.projection is None else terms @ layout.projection.float()


def _heads_of(block: Block, mixed: Tensor, share: Tensor, heads: int) -> Tensor:
    """Return each head's pooled addition ``[B, heads, C]`` to the residual stream."""
    weight = block.out.weight.float()
    weight = weight.reshape(len(weight), heads, -1)  # [C, heads, C / heads]
    pooled = torch.einsum("bn,bnc->bc", share, mixed).reshape(len(mixed), heads, -1)
    added: Tensor = torch.einsum("bhd,chd->bhc", pooled, weight)
    if block.out.bias is not None:
        added = added + share.sum(dim=1)[:, None, None] * block.out.bias.float() / heads
    return added if block.scale is None else added * block.scale.float()
