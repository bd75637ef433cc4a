"""Architectures of timm of every family: loaded from what ``save_for_hf`` writes, and equal to timm's own."""

import ast
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import Tensor, nn

from platodef_cli.encoders.backends.timm_tower import AS_PRETRAINED
from platodef_cli.encoders.load import open_encoder
from tests.contract import encoder_models as make

OF_ANY_SIZE = """
test_convnext test_efficientnet test_nfnet test_mambaout test_byobnet test_resnet starnet_s050
dla46x_c mobilevit_xxs edgenext_xx_small mobilenetv3_small_050 ese_vovnet19b_slim_dw repghostnet_050
ghostnet_050 regnetx_002 cspnext_tiny iformer_t cs3darknet_focus_s efficientvit_b0 pvt_v2_b0
fasternet_t0 fastvit_t8 lcnetv2_small inception_next_atto rexnet_100 hardcorenas_b repvit_m1
hgnetv2_b0 shvit_s1 cpubone_nano efficientvim_m1 densenet121 dpn48b resnest14d csatv2 resnetv2_18
legacy_seresnet18 poolformerv2_s12 skresnet18 tiny_vit_5m_224 hrnet_w18_small lowformer_b0
convmixer_768_32 legacy_xception inception_v3 rdnet_tiny res2next50 sam2_hiera_tiny xception41p
davit_tiny focalnet_tiny_srf selecsls42 tresnet_m nextvit_small inception_v4 inception_resnet_v2
fbnetc_100 tf_efficientnet_lite0 mobilenetv4_conv_small_050 tf_mobilenetv3_small_minimal_100
mobilevitv2_050 convnextv2_atto
""".split()
"""The smallest architecture of each module of timm, and some of more kinds; run on 96 pixels."""
OF_ONE_SIZE = """
test_vit test_coatnet test_vit_relpos efficientvit_m0 xcit_nano_12_p8_224 swiftformer_xs
efficientformerv2_s0 pit_ti_224 coat_tiny convit_tiny deit_tiny_patch16_224 gmlp_ti16_224
vit_tiny_r_s16_p8_224 crossvit_tiny_240 levit_128s visformer_tiny cait_xxs24_224 gcvit_xxtiny
efficientformer_l1 nest_tiny vitamin_small_224 tnt_s_legacy_patch16_224 twins_svt_small mvitv2_tiny
volo_d1_224 sequencer2d_s hiera_tiny_224 swin_tiny_patch4_window7_224 swinv2_cr_tiny_224
swinv2_tiny_window8_256 deit_tiny_distilled_patch16_224 deit3_small_patch16_224 mixer_s32_224
resmlp_12_224 flexivit_small maxvit_rmlp_pico_rw_256 botnet26t_256
""".split()
"""As above; run on the size they are made for."""
NARROW = {"depth": 1, "embed_dim": 64, "num_heads": 2}
CASES: dict[str, tuple[int | None, dict[str, Any]]] = {
    **dict.fromkeys(OF_ANY_SIZE, (96, {})),
    **dict.fromkeys(OF_ONE_SIZE, (None, {})),
    "beit_base_patch16_224": (None, NARROW),
    "deepseek_vit_412m": (140, {"depth": 1}),
    "eva02_tiny_patch14_224": (None, {"depth": 1}),
    "gemma4_vit_167m": (96, {"depth": 1}),
    "halonet_h1": (256, {}),
    "mobilenetv5_base": (64, {}),
    "naflexvit_base_patch16_gap": (64, NARROW),
    "nasnetalarge": (96, {}),
    "pnasnet5large": (96, {}),
    "qwen3_vit_88m": (64, {"depth": 1}),
    "samvit_base_patch16_224": (None, {**NARROW, "depth": 2, "global_attn_indexes": (1,)}),
    "vgg11": (None, {}),
    "vit_base_patch16_siglip_224": (None, NARROW),
    "vit_small_patch16_dinov3": (None, {"depth": 2}),
}
"""Architecture -> side of its input (None: its own), and arguments that make it small."""
QUICK = {
    *OF_ANY_SIZE[:12],
    *("test_vit", "test_coatnet", "test_vit_relpos", "fbnetc_100", "tf_efficientnet_lite0", "fasternet_t0"),
    *("beit_base_patch16_224", "naflexvit_base_patch16_gap", "vit_base_patch16_siglip_224"),
}
GENTLE = {"halonet_h1", "hgnetv2_b0", "starnet_s050", "visformer_tiny"}
"""Random weights of full size make rounding errors large in these."""
SHARED = {"coat_tiny"}
"""Weights stand under several names, which timm cannot save as it is."""


def saved(folder: Path, name: str, arguments: dict[str, Any], side: int | None) -> nn.Module:
    """Save a network with random weights as timm itself saves one, with a classifier of five classes."""
    torch.manual_seed(2)
    network: nn.Module = timm.create_model(name, num_classes=5, **arguments).eval()
    if name in GENTLE:
        _perturb(network)
    else:
        make.randomise(network)
    data = None if side is None else {"input_size": (3, side, side)}
    save_for_hf(network, folder, safe_serialization=name not in SHARED, data_config=data)
    if name in SHARED:
        (folder / "pytorch_model.bin").unlink()
        own = {key: value.clone() for key, value in network.state_dict().items()}
        save_file(own, folder / "model.safetensors")
    return network


def _perturb(network: nn.Module) -> None:
    """Move every weight that an untrained network starts with as a constant: ones and zeros hide mistakes."""
    for value in network.state_dict().values():
        if value.is_floating_point() and value.numel() and bool((value == value.view(-1)[0]).all()):
            value += 0.1 * torch.randn(value.shape).clamp(-3, 3)


def own(folder: Path) -> nn.Module:
    """Return timm's own encoder of a folder: the network without a classifier."""
    network: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0)
    return network.eval()


def features(network: nn.Module, pixels: Tensor, encoder: Any) -> Tensor:
    """Return what a network of timm makes of uint8 pixels, normalised as the encoder says."""
    transform = encoder.record.transform
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (transform.mean, transform.std))
    with torch.inference_mode():
        result: Tensor = network((pixels / 255 - mean) / std)
    return result


def equal(folder: Path) -> None:
    """Check that an encoder gives timm's features of the same pixels."""
    with open_encoder(str(folder)) as encoder:
        generator = torch.Generator().manual_seed(5)
        pixels = torch.randint(0, 256, (2, 3, *encoder.geometry.size), generator=generator, dtype=torch.uint8)
        expected = features(own(folder), pixels, encoder)
        found = encoder.embed(pixels)
    assert found.shape == expected.shape
    assert (expected[0] - expected[1]).norm() > 1e-4 * expected.norm()
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CASES]
)
def test_an_architecture_equals_timms_own(name: str, tmp_path: Path) -> None:
    side, arguments = CASES[name]
    saved(tmp_path / "model", name, arguments, side)
    equal(tmp_path / "model")


def test_there_is_one_of_every_module() -> None:
    assert len(CASES) >= 100
    assert {timm.models.model_entrypoint(name).__module__ for name in CASES} >= {
        f"timm.models.{module}" for module in timm.list_modules()
    }


def test_timm_gives_no_other_arguments_where_it_loads_weights() -> None:
    """Every decision about ``pretrained`` in an architecture's own code is one that is known."""
    deciding = set()
    for module in timm.list_modules():
        source = inspect.getsource(sys.modules[f"timm.models.{module}"])
        if not re.search(r"\bif\b[^\n]*\bpretrained\b", source):
            continue
        for function in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)):
            tests = [node.test for node in ast.walk(function) if isinstance(node, ast.If | ast.IfExp)]
            names = {part.id for test in tests for part in ast.walk(test) if isinstance(part, ast.Name)}
            if "pretrained" in names:
                deciding.add(function.name)
    assert deciding - {"_create_iformer"} == set(AS_PRETRAINED)  # that one only lets pickles hold more


def test_a_part_that_timm_would_fetch_is_not_fetched(tmp_path: Path) -> None:
    network = saved(tmp_path / "model", "vit_base_resnet26d_224", NARROW, None)
    with open_encoder(str(tmp_path / "model")) as encoder:
        pixels = torch.randint(0, 256, (1, 3, *encoder.geometry.size), dtype=torch.uint8)
        network.reset_classifier(0)  # type: ignore[operator]
        torch.testing.assert_close(encoder.embed(pixels), features(network, pixels, encoder))
