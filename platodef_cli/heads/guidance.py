"""Evaluates a denoiser many times for fixed references: only what its source token depends on.

What a plain pass computes besides, and what is left out here: tokens of references after the last block, the
first block's queries, keys and values of references, and all but one of the tokens of references that are
dropped. These are zero, so they are equal and stay equal; one of them that is attended to as often as there
are references gives the same sums. Nothing is approximated.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from platodef_cli.heads.backbone import Backbone, ReferenceMemory, TransformerBlock


class Branch(NamedTuple):
    """Rows of a batch whose references are kept, or all dropped.

    Attributes:
        tokens: Reference tokens ``[B, T, W]``.
        copies: How many references each of them stands for.
        first: Queries, keys and values of them in the first block ``[B, T, 3 W]``.
    """

    tokens: Tensor
    copies: int
    first: Tensor


class Packed(NamedTuple):
    """What a backbone needs to know of the references of all branches, one below the other.

    Attributes:
        branches: Of a transformer whose references attend to the source.
        memory: Of all other backbones, for all rows.
    """

    branches: tuple[Branch, ...]
    memory: ReferenceMemory | None


def pack(backbone: Backbone, tokens: Tensor, kept: Sequence[bool]) -> Packed:
    """Do the part of the work that depends on the references only.

    Args:
        backbone: Mixes the tokens.
        tokens: Tokens of all references ``[B, M, W]``.
        kept: Whether a branch sees the references, for each branch.
    """
    rows, count = tokens.shape[:2]
    if backbone.config.kind != "transformer":
        every = torch.cat([tokens if keeps else torch.zeros_like(tokens) for keeps in kept])
        return Packed((), backbone.remember(every))
    zeros = torch.zeros_like(tokens[:1, :1])
    if backbone.config.isolated:
        seen, blank = backbone.remember(tokens), backbone.remember(zeros)
        blank = ReferenceMemory(
            blank.tokens.expand(rows, count, -1),
            tuple(
                (_all_rows(key, rows, count), _all_rows(value, rows, count)) for key, value in blank.layers
            ),
        )
        return Packed((), _joined([seen if keeps else blank for keeps in kept]))
    block = _block(backbone, 0)
    branches = []
    for keeps in kept:
        part = tokens if keeps else zeros
        first = block.attention.qkv(block.attention_norm(part))
        branches.append(Branch(part.expand(rows, -1, -1), 1 if keeps else count, first.expand(rows, -1, -1)))
    return Packed(tuple(branches), None)


def mixed_source(backbone: Backbone, source: Tensor, packed: Packed) -> Tensor:
    """Return the source tokens ``[B, W]`` after the last block, for source tokens ``[B, W]``."""
    if packed.memory is not None:
        return (
            _isolated(backbone, source, packed.memory)
            if backbone.config.isolated
            else (backbone(source, packed.memory)[:, 0])
        )
    parts, start = [], 0
    for branch in packed.branches:
        own = source[start : start + len(branch.tokens)]
        parts.append(torch.cat([own.unsqueeze(1), branch.tokens], dim=1))
        start += len(own)
    for number in range(len(backbone.blocks)):
        block = _block(backbone, number)
        mix = _last if number == len(backbone.blocks) - 1 else _step
        first = [branch.first for branch in packed.branches] if number == 0 else None
        parts = mix(block, parts, [branch.copies for branch in packed.branches], first)
    return torch.cat([part[:, 0] for part in parts])


def _step(
    block: TransformerBlock, parts: list[Tensor], copies: Sequence[int], first: Sequence[Tensor] | None
) -> list[Tensor]:
    """Mix the tokens ``[B, T, W]`` of every branch; products are of all of them at once."""
    attention = block.attention
    flat = _flat(parts)
    if first is None:
        qkv = _like(attention.qkv(block.attention_norm(flat)), parts)
    else:
        own = attention.qkv(block.attention_norm(torch.cat([part[:, :1] for part in parts])))
        pieces = torch.split(own, [len(part) for part in parts])
        qkv = [torch.cat(pair, dim=1) for pair in zip(pieces, first, strict=True)]
    mixed = []
    for part, times in zip(qkv, copies, strict=True):
        query, key, value = part.chunk(3, dim=-1)
        mixed.append(_attend(block, query, key, value, times))
    flat = flat + attention.out(_flat(mixed))
    return _like(flat + block.mlp(block.norm(flat)), parts)


def _last(
    block: TransformerBlock, parts: list[Tensor], copies: Sequence[int], first: Sequence[Tensor] | None
) -> list[Tensor]:
    """Mix the source tokens only, ``[B, 1, W]`` of every branch."""
    attention = block.attention
    width = parts[0].shape[2]
    normed = block.attention_norm(_flat(parts))
    weight, bias = attention.qkv.weight, attention.qkv.bias
    both = _like(F.linear(normed, weight[width:], bias[width:]), parts)
    sources = [part[:, :1] for part in _like(normed, parts)]
    queries = _like(F.linear(_flat(sources), weight[:width], bias[:width]), sources)
    mixed = []
    for query, part, times in zip(queries, both, copies, strict=True):
        key, value = part.chunk(2, dim=-1)
        mixed.append(_attend(block, query, key, value, times))
    flat = _flat([part[:, :1] for part in parts]) + attention.out(_flat(mixed))
    return _like(flat + block.mlp(block.norm(flat)), sources)


def _attend(block: TransformerBlock, query: Tensor, key: Tensor, value: Tensor, copies: int) -> Tensor:
    """Return what the queries ``[B, Q, W]`` see, where each token after the first counts ``copies`` times."""
    if copies > 1:
        key, value = (
            torch.cat([part[:, :1], part[:, 1:].repeat_interleave(copies, dim=1)], dim=1)
            for part in (key, value)
        )
    split = block.attention.split
    mixed = F.scaled_dot_product_attention(split(query), split(key), split(value))
    return mixed.transpose(1, 2).flatten(2)


def _isolated(backbone: Backbone, source: Tensor, memory: ReferenceMemory) -> Tensor:
    """Return the source tokens of a backbone whose references do not look at them."""
    token = source.unsqueeze(1)
    for number, (key, value) in enumerate(memory.layers):
        token = _block(backbone, number).source_step(token, key, value)
    return token[:, 0]


def _block(backbone: Backbone, number: int) -> TransformerBlock:
    block = backbone.blocks[number]
    assert isinstance(block, TransformerBlock)
    return block


def _all_rows(part: Tensor, rows: int, count: int) -> Tensor:
    """Return keys or values ``[B, heads, M, W / heads]`` of one token ``[1, heads, 1, W / heads]``."""
    return part.expand(rows, -1, count, -1)


def _joined(memories: Sequence[ReferenceMemory]) -> ReferenceMemory:
    layers = zip(*(memory.layers for memory in memories), strict=True)
    return ReferenceMemory(
        torch.cat([memory.tokens for memory in memories]),
        tuple(
            (torch.cat([key for key, _ in layer]), torch.cat([value for _, value in layer]))
            for layer in layers
        ),
    )


def _flat(parts: Sequence[Tensor]) -> Tensor:
    """Return the tokens of all branches as rows ``[R, W]``."""
    return torch.cat([part.flatten(0, 1) for part in parts])


def _like(flat: Tensor, parts: Sequence[Tensor]) -> list[Tensor]:
    """Cut rows ``[R, X]`` into ``[B, T, X]`` as the branches have them."""
    pieces = torch.split(flat, [part.shape[0] * part.shape[1] for part in parts])
    return [piece.view(*part.shape[:2], -1) for piece, part in zip(pieces, parts, strict=True)]
