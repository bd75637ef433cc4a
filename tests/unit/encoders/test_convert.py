"""Checkpoints of research code become model folders; hostile ones are never loaded."""

import argparse
import os
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from platodef_cli.encoders.convert import convert
from platodef_cli.encoders.load import open_encoder
from platodef_cli.errors import IncompleteError, RefusedError, UnsupportedError, UsageError

PIXELS = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(scope="module")
def network() -> Any:
    torch.manual_seed(0)
    return timm.create_model("resnet10t", num_classes=7).eval()


def _expected(network: Any) -> torch.Tensor:
    normalised = timm.data.resolve_model_data_config(network)
    mean, std = (torch.tensor(normalised[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        return network.forward_head(network.forward_features((PIXELS / 255 - mean) / std), pre_logits=True)


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        (lambda s: s, ""),
        (lambda s: {"state_dict": {f"module.encoder.{k}": v for k, v in s.items()}, "epoch": 3},
         "state_dict.module.encoder."),
        (lambda s: {"teacher": {f"backbone.{k}": v for k, v in s.items()}, "optimizer": {"lr": 0.1}},
         "teacher.backbone."),
        (lambda s: {"model": {**s, "proj.0.weight": torch.zeros(3, 3)}}, "model."),
    ],
)  # fmt: skip
def test_nested_and_prefixed_names(wrap: Any, prefix: str, network: Any, tmp_path: Path) -> None:
    torch.save(wrap(network.state_dict()), tmp_path / "a.pth")
    done = convert(tmp_path / "a.pth", "timm/resnet10t", tmp_path / "model", input_size=32)
    assert (done.prefix, done.by_order, done.dropped["fc"]) == (prefix, False, 2)
    with open_encoder(str(tmp_path / "model"), isolate=True) as encoder:
        assert encoder.geometry.size == (32, 32)
        torch.testing.assert_close(encoder.embed(PIXELS), _expected(network), rtol=1e-4, atol=1e-5)


def test_numbered_names_are_matched_by_order(network: Any, tmp_path: Path) -> None:
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save({f"f.{n}.w": v for n, v in enumerate(state.values())}, tmp_path / "a.pth")
    assert convert(tmp_path / "a.pth", "resnet10t", tmp_path / "model", input_size=32).by_order
    with open_encoder(str(tmp_path / "model")) as encoder:
        torch.testing.assert_close(encoder.embed(PIXELS), _expected(network), rtol=1e-4, atol=1e-5)


def test_safetensors_are_taken_too(network: Any, tmp_path: Path) -> None:
    save_file(network.state_dict(), tmp_path / "a.safetensors")
    assert convert(tmp_path / "a.safetensors", "timm/resnet10t", tmp_path / "model").prefix == ""


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_code_is_never_run(tmp_path: Path) -> None:
    torch.save({"state_dict": Evil(tmp_path / "ran")}, tmp_path / "a.pth")
    with pytest.raises(RefusedError, match=r"without running code \(it asks for \w+\.mkdir\)"):
        convert(tmp_path / "a.pth", "timm/resnet10t", tmp_path / "model")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.pth"]


def test_what_training_scripts_put_beside_the_weights(network: Any, tmp_path: Path) -> None:
    """Numbers of numpy, parsed options and paths are no code; what hides code among them is refused."""
    beside: dict[str, Any] = {
        "best": np.float64(0.5), "epoch": np.int64(3), "flag": np.bool_(True), "mean": np.ones(3, np.half),
        "names": np.array(["a", None], dtype=object), "args": argparse.Namespace(lr=0.1, out=Path("runs/1")),
        "place": PureWindowsPath("C:/runs"),
    }  # fmt: skip
    torch.save({"state_dict": network.state_dict(), **beside}, tmp_path / "a.pth")
    done = convert(tmp_path / "a.pth", "timm/resnet10t", tmp_path / "model", input_size=32)
    assert done.prefix == "state_dict."
    evil = Evil(tmp_path / "ran")
    for number, hidden in enumerate((np.array([evil], dtype=object), argparse.Namespace(x=evil))):
        torch.save({"state_dict": network.state_dict(), "x": hidden}, tmp_path / "b.pth")
        with pytest.raises(RefusedError, match="without running code"):
            convert(tmp_path / "b.pth", "timm/resnet10t", tmp_path / f"other-{number}", input_size=32)
        assert not (tmp_path / f"other-{number}").exists()
    assert not (tmp_path / "ran").exists()


def test_what_cannot_be_converted_says_why_and_leaves_nothing(network: Any, tmp_path: Path) -> None:
    state = network.state_dict()
    torch.save(state, tmp_path / "a.pth")
    (tmp_path / "half.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:20_000])
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    odd = {**state, "layer1.0.conv1.weight": torch.zeros(3, 3, 1, 1)}
    torch.save(odd, tmp_path / "odd.pth")
    for name, architecture, error, message in (
        ("none.pth", "timm/resnet10t", UsageError, "no such file"),
        ("half.pth", "timm/resnet10t", IncompleteError, "cannot be read"),
        ("empty.pth", "timm/resnet10t", IncompleteError, "holds no tensors"),
        ("odd.pth", "timm/resnet10t", UsageError, r"'layer1\.0\.conv1\.weight' has shape \[3, 3, 1, 1\]"),
        ("a.pth", "timm/resnet18", UsageError, "does not fit resnet18: .* weights are there"),
        ("a.pth", "timm/resnt10t", UnsupportedError, "the nearest one is 'resnet10t'"),
        ("a.pth", "org/name", UnsupportedError, "only networks of timm"),
    ):
        with pytest.raises(error, match=message):
            convert(tmp_path / name, architecture, tmp_path / "model")
        assert not (tmp_path / "model").exists()
    (tmp_path / "model").mkdir()
    with pytest.raises(UsageError, match="exists; choose another folder or give --force"):
        convert(tmp_path / "a.pth", "timm/resnet10t", tmp_path / "model")
    assert convert(tmp_path / "a.pth", "timm/resnet10t", tmp_path / "model", force=True).taken > 20
