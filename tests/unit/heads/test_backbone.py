import pytest
import torch
from torch import Tensor, nn

from platodef_cli.errors import UnknownNameError, UsageError
from platodef_cli.heads.backbone import Affine, Backbone, BackboneConfig, ReferenceTokens, TransformerBlock
from platodef_cli.heads.config import _BACKBONES, preset
from platodef_cli.heads.denoiser import Denoiser
from platodef_cli.heads.energy import EnergyHead
from platodef_cli.heads.presets import PRESETS


def seeded(config: BackboneConfig, references: int = 2) -> Backbone:
    torch.manual_seed(0)
    return Backbone(config, references).eval()


def torch_encoder(backbone: Backbone) -> nn.TransformerEncoder:
    """PyTorch's own encoder with the same weights."""
    config = backbone.config
    layer = nn.TransformerEncoderLayer(
        config.width,
        config.heads,
        config.expansion * config.width,
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        norm_first=True,
    )
    encoder = nn.TransformerEncoder(layer, config.depth, enable_nested_tensor=False).eval()
    for theirs, ours in zip(encoder.layers, backbone.blocks, strict=True):
        assert isinstance(ours, TransformerBlock)
        theirs.self_attn.in_proj_weight.data = ours.attention.qkv.weight.data
        theirs.self_attn.in_proj_bias.data = ours.attention.qkv.bias.data
        theirs.self_attn.out_proj.load_state_dict(ours.attention.out.state_dict())
        theirs.norm1.load_state_dict(ours.attention_norm.state_dict())
        theirs.norm2.load_state_dict(ours.norm.state_dict())
        theirs.linear1.load_state_dict(ours.mlp[0].state_dict())
        theirs.linear2.load_state_dict(ours.mlp[2].state_dict())
    return encoder


def tokens(batch: int = 5, width: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, width, generator=generator), torch.randn(batch, 2, width, generator=generator)


def test_transformer_equals_torchs_encoder() -> None:
    backbone = seeded(BackboneConfig(width=24, depth=2, heads=3))
    source, references = tokens()
    with torch.no_grad():
        found = backbone(source, backbone.remember(references))
        expected = torch_encoder(backbone)(torch.cat([source.unsqueeze(1), references], dim=1))
    assert torch.allclose(found, expected, atol=1e-5)


def test_isolated_references_equal_torchs_encoder_with_a_mask() -> None:
    backbone = seeded(BackboneConfig(width=24, depth=3, heads=3, isolated=True))
    source, references = tokens()
    blocked = torch.zeros(3, 3, dtype=torch.bool)
    blocked[1:, 0] = True  # references may not look at the source
    with torch.no_grad():
        found = backbone(source, backbone.remember(references))
        expected = torch_encoder(backbone)(torch.cat([source.unsqueeze(1), references], dim=1), mask=blocked)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["mixer", "resmlp"])
def test_mlp_backbones_equal_a_loop_over_tokens_and_channels(kind: str) -> None:
    backbone = seeded(BackboneConfig(kind=kind, width=6, depth=1))  # type: ignore[arg-type]
    source, references = tokens(batch=2, width=6)
    block = backbone.blocks[0]
    with torch.no_grad():
        found = backbone(source, backbone.remember(references))
        for row in range(2):
            grid = torch.cat([source[row : row + 1], references[row]])  # [T, W]
            normed = block.token_norm(grid) if kind == "mixer" else block.token_affine(grid)
            columns = [
                (block.token_mlp if kind == "mixer" else block.token_mix)(normed[:, channel])
                for channel in range(6)
            ]
            mixed = torch.stack(columns, dim=1)
            grid = grid + (mixed if kind == "mixer" else block.token_scale(mixed))
            for token in range(3):
                if kind == "mixer":
                    expected = grid[token] + block.mlp(block.norm(grid[token]))
                else:
                    expected = grid[token] + block.scale(block.mlp(block.affine(grid[token])))
                assert torch.allclose(found[row, token], expected, atol=1e-5)


def test_affine_scales_and_shifts() -> None:
    affine = Affine(2, 0.5)
    affine.shift.data = torch.tensor([1.0, 2.0])
    assert torch.equal(affine(torch.ones(1, 2)), torch.tensor([[1.5, 2.5]]))


def test_dropped_references_leave_zero_tokens() -> None:
    torch.manual_seed(0)
    make = ReferenceTokens([3, 4], 8)
    references = [torch.randn(2, 3), torch.randn(2, 4)]
    kept = make(references, torch.tensor([[1, 0], [0, 0]]))
    assert torch.equal(kept[0, 0], make(references, None)[0, 0])
    assert not kept[0, 1].any()
    assert not kept[1].any()


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("name", "width", "depth", "heads", "millions"),
    [
        ("tiny", 128, 3, 4, 1.2),
        ("small", 256, 4, 4, 4.5),
        ("medium", 512, 8, 8, 29.1),
        ("paper", 1536, 12, 12, 363.7),
    ],
)
def test_presets_have_their_stated_size(
    name: str, width: int, depth: int, heads: int, millions: float
) -> None:
    config = preset(name).backbone
    assert (config.width, config.depth, config.heads) == (width, depth, heads)
    with torch.device("meta"):
        denoiser = Denoiser(768, [768, 768], config)
    assert count(denoiser) / 1e6 == pytest.approx(millions, abs=0.5)
    assert config.width // config.heads in (32, 64, 128)


def test_papers_preset_has_364_million_parameters() -> None:
    with torch.device("meta"):
        denoiser = Denoiser(768, [768, 768], preset("paper").backbone)
        energy = EnergyHead(768, [768, 768], preset("paper").backbone, negatives=1)
    width, dim = 1536, 768
    block = 4 * width * width + 4 * width + 8 * width * width + 5 * width + 4 * width
    project = dim * width + 2 * width * width + 3 * width + 4 * width
    shared = 12 * block + 3 * project + 2 * 2 * width + 3 * width
    readout = width * width + width + width * dim + dim
    noise = 128 * width + width * width + 2 * width
    assert count(denoiser) == shared + readout + noise
    assert round(count(denoiser) / 1e6) == 364
    assert count(energy) == shared + 2 * width + 2  # its source token is normalised too, and t and b


def test_wrong_configurations_are_refused() -> None:
    with pytest.raises(UsageError, match="not a multiple of 5 attention heads"):
        BackboneConfig(width=128, heads=5)
    with pytest.raises(UsageError, match="isolated references need the transformer"):
        BackboneConfig(kind="mixer", isolated=True)
    with pytest.raises(UnknownNameError, match="choose one of: mixer, resmlp, transformer"):
        BackboneConfig(kind="rnn")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at least 1"):
        BackboneConfig(depth=0)
    with pytest.raises(UnknownNameError, match="preset"):
        preset("huge")
    assert PRESETS == ("closed", "tiny", "small", "medium", "paper") == tuple(_BACKBONES)
