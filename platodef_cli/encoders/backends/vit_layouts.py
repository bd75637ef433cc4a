"""Where pre-norm Vision Transformers keep blocks, heads and last norms: timm, transformers, open_clip."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from platodef_cli.errors import NotApplicable


@dataclass(frozen=True)
class Block:
    """One block: ``x + scale * out(heads)``, then ``x + mlp``.

    Attributes:
        module: The block.
        out: Output projection of the attention; its input are the concatenated heads.
        scale: LayerScale of the attention ``[C]``, or None.
        mlp: Module whose output is added to the residual stream.
        attention: A fused attention that hides its heads, or None.
        before: The norm in front of it.
    """

    module: nn.Module
    out: nn.Linear
    scale: Tensor | None
    mlp: nn.Module
    attention: nn.MultiheadAttention | None
    before: nn.Module


@dataclass(frozen=True)
class VitLayout:
    """A pre-norm ViT from its residual stream to its feature.

    Attributes:
        blocks: In order.
        heads: Attention heads per block.
        pooling: Number of tokens -> weight of every token ``[N]``; weights add up to 1.
        norm: The last LayerNorm, or None.
        norm_after_pooling: Whether it comes after the pooling.
        projection: ``[C, D]`` on the pooled feature, or None.
    """

    blocks: tuple[Block, ...]
    heads: int
    pooling: Callable[[int], Tensor]
    norm: nn.LayerNorm | None
    norm_after_pooling: bool
    projection: Tensor | None = None


def layout_of(network: nn.Module) -> VitLayout:
    """Return the layout of a network.

    Raises:
        NotApplicable: It is none of the known Vision Transformers.
    """
    why = "needs a pre-norm Vision Transformer with class-token or mean pooling"
    try:
        for kind, build in _KINDS.items():
            if type(network).__name__ == kind or (kind == "timm" and _is_timm_vit(network)):
                return build(network)
    except (AttributeError, TypeError, IndexError) as error:
        raise NotApplicable(f"{why}; this {type(network).__name__} is laid out differently") from error
    raise NotApplicable(f"{why}, not {type(network).__name__}")


def _is_timm_vit(network: Any) -> bool:
    blocks = getattr(network, "blocks", None)
    return isinstance(blocks, nn.Sequential) and hasattr(network, "patch_embed") and hasattr(network, "pool")


def _linear(module: Any) -> nn.Linear:
    if not isinstance(module, nn.Linear):
        raise TypeError("no linear output projection")
    return module


def _norm(*candidates: tuple[Any, bool]) -> tuple[nn.LayerNorm | None, bool]:
    """Return the only LayerNorm among the candidates ``(module, after pooling)``."""
    found = [(module, after) for module, after in candidates if not isinstance(module, nn.Identity)]
    if len(found) > 1 or not all(isinstance(module, nn.LayerNorm) for module, _ in found):
        raise TypeError("the last norms are no single LayerNorm")
    return found[0] if found else (None, False)


def _pooling(kind: str, first: int) -> Callable[[int], Tensor]:
    if kind not in ("token", "avg"):
        raise TypeError(f"pooling {kind!r}")

    def weights(tokens: int) -> Tensor:
        values = torch.zeros(tokens)
        if kind == "token":
            values[0] = 1.0
        else:
            values[first:] = 1.0 / (tokens - first)
        return values

    return weights


def _timm(network: Any) -> VitLayout:
    if network.attn_pool is not None or not isinstance(network.head, nn.Identity):
        raise TypeError("attention pooling or a classifier")
    blocks = tuple(
        Block(b, _linear(b.attn.proj), getattr(b.ls1, "gamma", None), b.ls2, None, b.norm1)
        for b in network.blocks
    )
    norm, after = _norm((network.norm, False), (network.fc_norm, True))
    first = 0 if network.pool_include_prefix else network.num_prefix_tokens
    pooling = _pooling(network.global_pool, first)
    return VitLayout(blocks, network.blocks[0].attn.num_heads, pooling, norm, after)


def _transformers_vit(network: Any) -> VitLayout:
    blocks = tuple(
        Block(b, _linear(b.attention.o_proj), None, b.mlp, None, b.layernorm_before) for b in network.layers
    )
    norm, after = _norm((network.layernorm, False))
    return VitLayout(blocks, network.config.num_attention_heads, _pooling("token", 0), norm, after)


def _transformers_dinov2(network: Any) -> VitLayout:
    layers = getattr(network, "layers", None) or network.encoder.layer
    blocks = tuple(
        Block(b, _linear(b.attention.o_proj), b.layer_scale1.lambda1, b.layer_scale2, None, b.norm1)
        for b in layers
    )
    norm, after = _norm((network.layernorm, False))
    return VitLayout(blocks, network.config.num_attention_heads, _pooling("token", 0), norm, after)


def _transformers_clip(network: Any) -> VitLayout:
    tower = network.vision_model
    layers = getattr(tower, "layers", None) or tower.encoder.layers
    blocks = tuple(Block(b, _linear(b.self_attn.out_proj), None, b.mlp, None, b.layer_norm1) for b in layers)
    norm, _ = _norm((tower.post_layernorm, True))
    heads = network.config.num_attention_heads
    projection = _linear(network.visual_projection).weight.T
    return VitLayout(blocks, heads, _pooling("token", 0), norm, True, projection)


def _open_clip(network: Any) -> VitLayout:
    if network.attn_pool is not None:
        raise TypeError("attention pooling")
    blocks = tuple(
        Block(b, _linear(b.attn.out_proj), getattr(b.ls_1, "gamma", None), b.ls_2, b.attn, b.ln_1)
        for b in network.transformer.resblocks
    )
    norm, after = _norm((network.ln_post, bool(network.final_ln_after_pool)))
    kind = {"tok": "token", "avg": "avg"}.get(network.pool_type, str(network.pool_type))
    heads = network.transformer.resblocks[0].attn.num_heads
    return VitLayout(blocks, heads, _pooling(kind, 1), norm, after, network.proj)


_KINDS: dict[str, Callable[[Any], VitLayout]] = {
    "timm": _timm,
    "ViTModel": _transformers_vit,
    "Dinov2Model": _transformers_dinov2,
    "Dinov2WithRegistersModel": _transformers_dinov2,
    "CLIPVisionModelWithProjection": _transformers_clip,
    # open_clip's own class; timm's of the same name is taken by the test above
    "VisionTransformer": _open_clip,
}
