"""The network that both heads share: one token per space, mixed by a Transformer, Mixer or ResMLP."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from platodef_cli.errors import UnknownNameError, UsageError

Kind = Literal["transformer", "mixer", "resmlp"]
SPACE_STD = 0.02  # standard deviation of a fresh space embedding


@dataclass(frozen=True)
class BackboneConfig:
    """Size and kind of the backbone.

    Attributes:
        kind: Token mixer: ``transformer``, ``mixer`` or ``resmlp``.
        width: Token dimension W.
        depth: Number of blocks.
        heads: Attention heads; ``width / heads`` must be a whole number (only the Transformer has them).
        expansion: Hidden width of the feed-forward blocks, in units of W.
        isolated: Reference tokens do not attend to the source, so that their keys and values are
            computed once per image instead of once per evaluation (only the Transformer can).
    """

    kind: Kind = "transformer"
    width: int = 128
    depth: int = 3
    heads: int = 4
    expansion: int = 4
    isolated: bool = False

    def __post_init__(self) -> None:
        """Refuse combinations that cannot be built."""
        if self.kind not in BLOCKS:
            raise UnknownNameError("backbone", self.kind, BLOCKS)
        if min(self.width, self.depth, self.heads, self.expansion) < 1:
            raise UsageError("width, depth, heads and expansion of a backbone must be at least 1")
        if self.kind == "transformer" and self.width % self.heads:
            raise UsageError(f"width {self.width} is not a multiple of {self.heads} attention heads")
        if self.isolated and self.kind != "transformer":
            raise UsageError(f"isolated references need the transformer backbone, not {self.kind}")


class Attention(nn.Module):
    """Multi-head self-attention over the tokens of one tuple."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def split(self, rows: Tensor) -> Tensor:
        """Return ``[B, heads, T, W / heads]`` of ``[B, T, W]``."""
        return rows.reshape(*rows.shape[:2], self.heads, -1).transpose(1, 2)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return the mixed tokens ``[B, T, W]`` for split queries, keys and values."""
        mixed = F.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return projected

    def forward(self, tokens: Tensor) -> Tensor:
        """Let every token attend to every token of ``[B, T, W]``."""
        query, key, value = (self.split(part) for part in self.qkv(tokens).chunk(3, dim=-1))
        return self.attend(query, key, value)


def feed_forward(width: int, expansion: int) -> nn.Sequential:
    """Return Linear-GELU-Linear with hidden width ``expansion * width``."""
    return nn.Sequential(nn.Linear(width, expansion * width), nn.GELU(), nn.Linear(expansion * width, width))


class TransformerBlock(nn.Module):
    """Pre-norm block, equal to ``nn.TransformerEncoderLayer(norm_first=True, activation="gelu")``."""

    def __init__(self, config: BackboneConfig, tokens: int):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = Attention(config.width, config.heads)
        self.norm = nn.LayerNorm(config.width)
        self.mlp = feed_forward(config.width, config.expansion)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix ``[B, T, W]``."""
        tokens = tokens + self.attention(self.attention_norm(tokens))
        mixed: Tensor = tokens + self.mlp(self.norm(tokens))
        return mixed

    def remember(self, references: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return next reference tokens, keys and values when references attend to references only."""
        normed = self.attention_norm(references)
        query, key, value = (self.attention.split(p) for p in self.attention.qkv(normed).chunk(3, dim=-1))
        references = references + self.attention.attend(query, key, value)
        return references + self.mlp(self.norm(references)), key, value

    def source_step(self, source: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return the next source token ``[B, 1, W]``, which attends to itself and remembered references."""
        own = self.attention.qkv(self.attention_norm(source)).chunk(3, dim=-1)
        query, own_key, own_value = (self.attention.split(part) for part in own)
        keys, values = torch.cat([own_key, key], dim=2), torch.cat([own_value, value], dim=2)
        source = source + self.attention.attend(query, keys, values)
        mixed: Tensor = source + self.mlp(self.norm(source))
        return mixed


class MixerBlock(nn.Module):
    """MLP-Mixer block (Tolstikhin et al. 2021): an MLP over the tokens, then one over the channels."""

    def __init__(self, config: BackboneConfig, tokens: int):
        super().__init__()
        self.token_norm = nn.LayerNorm(config.width)
        self.token_mlp = feed_forward(tokens, config.expansion)
        self.norm = nn.LayerNorm(config.width)
        self.mlp = feed_forward(config.width, config.expansion)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix ``[B, T, W]``."""
        # [B, T, W] -> [B, W, T] so that the Linear layers run over the tokens, and back
        tokens = tokens + self.token_mlp(self.token_norm(tokens).transpose(1, 2)).transpose(1, 2)
        mixed: Tensor = tokens + self.mlp(self.norm(tokens))
        return mixed


class Affine(nn.Module):
    """Per-channel scale and shift, ResMLP's replacement of LayerNorm."""

    def __init__(self, width: int, scale: float = 1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.full((width,), scale))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Scale and shift the last dimension."""
        return tokens * self.scale + self.shift


class ResMLPBlock(nn.Module):
    """ResMLP block (Touvron et al. 2021): one Linear over the tokens, then an MLP over the channels."""

    def __init__(self, config: BackboneConfig, tokens: int):
        super().__init__()
        self.token_affine, self.affine = Affine(config.width), Affine(config.width)
        self.token_mix = nn.Linear(tokens, tokens)
        self.mlp = feed_forward(config.width, config.expansion)
        # LayerScale: small residual branches at the start replace normalisation
        self.token_scale, self.scale = Affine(config.width, 0.1), Affine(config.width, 0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix ``[B, T, W]``."""
        mixed = self.token_mix(self.token_affine(tokens).transpose(1, 2)).transpose(1, 2)
        tokens = tokens + self.token_scale(mixed)
        result: Tensor = tokens + self.scale(self.mlp(self.affine(tokens)))
        return result


BLOCKS: dict[str, type[nn.Module]] = {
    "transformer": TransformerBlock,
    "mixer": MixerBlock,
    "resmlp": ResMLPBlock,
}


class ReferenceMemory(NamedTuple):
    """What a backbone needs to know of the references, computed once per image.

    Attributes:
        tokens: Reference tokens ``[B, M, W]``: the input tokens, or the output tokens if isolated.
        layers: Keys and values of every block if isolated, else empty.
    """

    tokens: Tensor
    layers: tuple[tuple[Tensor, Tensor], ...]


class Backbone(nn.Module):
    """Mixes one source token and M reference tokens.

    Args:
        config: Size and kind.
        references: Number of references M.
    """

    def __init__(self, config: BackboneConfig, references: int):
        super().__init__()
        self.config = config
        block = BLOCKS[config.kind]
        self.blocks = nn.ModuleList(block(config, references + 1) for _ in range(config.depth))

    def remember(self, references: Tensor) -> ReferenceMemory:
        """Do the part of the work that depends on the reference tokens ``[B, M, W]`` only."""
        if not self.config.isolated:
            return ReferenceMemory(references, ())
        layers = []
        for block in self.blocks:
            assert isinstance(block, TransformerBlock)
            references, key, value = block.remember(references)
            layers.append((key, value))
        return ReferenceMemory(references, tuple(layers))

    def forward(self, source: Tensor, memory: ReferenceMemory) -> Tensor:
        """Return the mixed tokens ``[B, M + 1, W]``, the source first, for source tokens ``[B, W]``."""
        if not self.config.isolated:
            tokens = torch.cat([source.unsqueeze(1), memory.tokens], dim=1)
            for block in self.blocks:
                tokens = block(tokens)
            return tokens
        token = source.unsqueeze(1)
        for block, (key, value) in zip(self.blocks, memory.layers, strict=True):
            assert isinstance(block, TransformerBlock)
            token = block.source_step(token, key, value)
        return torch.cat([token, memory.tokens], dim=1)


def projection(dim: int, width: int, *, normalise: bool) -> nn.Sequential:
    """Return Linear-LayerNorm-GELU-Linear-LayerNorm-GELU-Linear, and a last LayerNorm if ``normalise``."""
    layers: list[nn.Module] = []
    for size in (dim, width):
        layers += [nn.Linear(size, width), nn.LayerNorm(width), nn.GELU()]
    layers.append(nn.Linear(width, width))
    if normalise:
        layers.append(nn.LayerNorm(width))
    return nn.Sequential(*layers)


class ReferenceTokens(nn.Module):
    """Turns the references into tokens: projection, LayerNorm, space embedding.

    Args:
        dims: Lengths ``D_m`` of the references.
        width: Token dimension W.
    """

    def __init__(self, dims: Sequence[int], width: int):
        super().__init__()
        self.projections = nn.ModuleList(projection(dim, width, normalise=True) for dim in dims)
        self.spaces = nn.Parameter(torch.randn(len(dims), width) * SPACE_STD)

    def forward(self, references: Sequence[Tensor], keep: Tensor | None) -> Tensor:
        """Return tokens ``[B, M, W]``.

        Args:
            references: Standardised references ``[B, D_m]``.
            keep: ``[B, M]`` of 0 and 1; the tokens of dropped references are zeroed. None keeps all.
        """
        rows = [project(values) for project, values in zip(self.projections, references, strict=True)]
        tokens = torch.stack(rows, dim=1) + self.spaces
        return tokens if keep is None else tokens * keep.unsqueeze(-1).to(tokens.dtype)
