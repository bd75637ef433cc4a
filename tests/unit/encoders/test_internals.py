"""Internals of networks: maps against the library's own, terms that add up, and refusals with a reason."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from platodef_cli.encoders.interface import HeadTerms
from platodef_cli.encoders.isolation.isolate import RemoteEncoder
from platodef_cli.encoders.load import open_encoder
from platodef_cli.encoders.local import LocalEncoder
from platodef_cli.errors import IncompleteError, NotApplicable
from tests.contract import encoder_models as make

PIXELS = torch.randint(0, 256, (5, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
TINY = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}
LAYOUTS: dict[str, Any] = {
    "timm class token": lambda path: make.timm_model(path),
    "timm mean, norm after pooling": lambda path: make.timm_model(
        path, arguments=TINY | {"global_pool": "avg"}
    ),
    "timm mean, norm before pooling": lambda path: make.timm_model(
        path, arguments=TINY | {"global_pool": "avg", "fc_norm": False}
    ),
    "timm layer scale and registers": lambda path: make.timm_model(
        path, arguments=TINY | {"init_values": 0.3, "reg_tokens": 2, "qk_norm": True}
    ),
    "open_clip": lambda path: make.open_clip_model(path),
    "transformers vit": lambda path: make.transformers_model(path, "vit"),
    "transformers dinov2": lambda path: make.transformers_model(path, "dinov2"),
    "transformers clip": lambda path: make.transformers_model(path, "clip"),
}


def opened(path: Path) -> LocalEncoder:
    encoder = open_encoder(str(path))
    assert isinstance(encoder, LocalEncoder)
    return encoder


@pytest.mark.parametrize("kind", LAYOUTS)
def test_terms_of_the_heads_add_up_to_the_feature(kind: str, tmp_path: Path) -> None:
    LAYOUTS[kind](tmp_path / "model")
    encoder = opened(tmp_path / "model")
    found = encoder.head_terms(PIXELS)
    features = encoder.embed(PIXELS)
    assert found.terms.shape == (5, 1 + found.layers * (found.heads + 1), encoder.dim)
    assert float((found.terms.sum(dim=1) - features).abs().max()) <= 1e-4 * float(features.norm(dim=1).max())
    assert float(found.terms.std(dim=0).mean()) > 0  # they depend on the image


def test_a_head_term_is_what_switching_the_head_off_takes_away(tmp_path: Path) -> None:
    """The last block's head, ablated by hand before a frozen norm, changes the residual by its own term."""
    make.timm_model(tmp_path / "model")
    encoder = opened(tmp_path / "model")
    found = encoder.head_terms(PIXELS)
    network: Any = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    inputs = (PIXELS.float() / 255 - mean) / std
    residuals: list[Tensor] = []
    network.norm.register_forward_pre_hook(lambda _, arguments: residuals.append(arguments[0][:, 0]))
    block = network.blocks[-1]
    with torch.no_grad():
        network.forward_features(inputs)
        mlp: list[Tensor] = []
        hook = block.ls2.register_forward_hook(lambda _, __, output: mlp.append(output))
        network.forward_features(inputs)
        hook.remove()
        # the MLP of the block must stay as it was: only the attention's own addition is compared
        block.ls2.register_forward_hook(lambda _, __, output: mlp[0])
        weight = block.attn.proj.weight
        weight[:, 16:] = 0.0
        block.attn.proj.bias.mul_(0.5)
        network.forward_features(inputs)
    before, after = residuals[0], residuals[-1]
    centred = (before - after) - (before - after).mean(dim=1, keepdim=True)
    deviation = (before.var(dim=1, correction=0) + network.norm.eps).sqrt()
    expected = centred / deviation[:, None] * network.norm.weight
    share = network.norm.bias / found.terms.shape[1]
    second = found.terms[:, found.last_heads][:, 1]
    torch.testing.assert_close(second, expected.detach() + share.detach(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("resnet18", {}),
        ("convnext_atto", {}),
        ("vit_tiny_patch16_224", TINY | {"global_pool": "map", "class_token": False}),
    ],
)
def test_other_networks_have_no_head_terms_and_say_why(
    architecture: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    make.timm_model(tmp_path / "model", architecture, arguments)
    with pytest.raises(NotApplicable, match="needs a pre-norm Vision Transformer"):
        opened(tmp_path / "model").head_terms(PIXELS)


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("vit_tiny_patch16_224", TINY),
        ("resnet18", {"channels": [8, 8, 16, 16]}),
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": 32, "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
        ),
    ],
)
def test_maps_are_the_librarys_own_with_channels_first(
    architecture: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    make.timm_model(tmp_path / "model", architecture, arguments)
    encoder = opened(tmp_path / "model")
    found = encoder.feature_map(PIXELS)
    network: Any = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    assert found.shape[:2] == (5, network.num_features)
    if architecture != "vit_tiny_patch16_224":
        # these average their map, so the mean over places is the feature
        pooled = found.mean(dim=2)
    else:
        pooled = found[:, :, 0]
    torch.testing.assert_close(pooled, encoder.embed(PIXELS), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["open_clip", "transformers vit", "transformers clip"])
def test_maps_of_other_libraries_hold_one_column_per_token(kind: str, tmp_path: Path) -> None:
    LAYOUTS[kind](tmp_path / "model")
    found = opened(tmp_path / "model").feature_map(PIXELS)
    assert found.shape == (5, 32, 17)  # 16 patches and the class token


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inside") / "model"
    make.timm_model(path)
    return path


@pytest.fixture(scope="module")
def remote(folder: Path) -> Iterator[RemoteEncoder]:
    encoder = open_encoder(str(folder), isolate=True, time_limit_s=120)
    assert isinstance(encoder, RemoteEncoder)
    yield encoder
    encoder.close()


def test_the_child_shows_the_same(folder: Path, remote: RemoteEncoder) -> None:
    here = opened(folder)
    assert torch.equal(remote.feature_map(PIXELS), here.feature_map(PIXELS))
    mine, theirs = here.head_terms(PIXELS), remote.head_terms(PIXELS)
    assert torch.equal(mine.terms, theirs.terms)
    assert (mine.layers, mine.heads) == (theirs.layers, theirs.heads)


def test_a_reason_crosses_the_pipe_and_the_child_lives_on(tmp_path: Path) -> None:
    make.timm_model(tmp_path / "model", "resnet18", {})
    with open_encoder(str(tmp_path / "model"), isolate=True) as encoder:  # type: ignore[attr-defined]
        with pytest.raises(NotApplicable, match="^not applicable: needs a pre-norm Vision Transformer"):
            encoder.head_terms(PIXELS)
        assert encoder.embed(PIXELS).shape == (5, 512)


@pytest.mark.parametrize(
    "answer",
    [
        ({"layers": 3, "heads": 2}, torch.zeros(5, 7, 32)),
        ({"layers": "2", "heads": 2}, torch.zeros(5, 7, 32)),
        ({"layers": 2, "heads": 2}, torch.zeros(5, 7, 31)),
        ({"layers": 2, "heads": 2}, torch.full((5, 7, 32), torch.nan)),
        ({"layers": 2, "heads": 2}, torch.zeros(4, 7, 32)),
        ({"layers": 2, "heads": 2}, None),
    ],
)
def test_a_child_that_contradicts_itself_is_ended(
    answer: tuple[dict[str, Any], Tensor | None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = open_encoder(str(folder), isolate=True)
    assert isinstance(encoder, RemoteEncoder)
    monkeypatch.setattr(encoder._child, "call", lambda *_, **__: answer)
    with pytest.raises(IncompleteError, match="broke the protocol"):
        encoder.head_terms(PIXELS)
    monkeypatch.undo()
    with pytest.raises(IncompleteError, match="broke the protocol"):
        encoder.embed(PIXELS)
    encoder.close()


def test_last_heads_are_the_last_block_without_its_mlp() -> None:
    terms = torch.arange(1 + 3 * 5).reshape(1, -1, 1)
    found = HeadTerms(terms, layers=3, heads=4)
    assert found.terms[:, found.last_heads].flatten().tolist() == [11, 12, 13, 14]
