"""The layouts of checkpoints that published methods write: found, told, and equal to the network in them."""

import os
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from platodef_cli.encoders.checkpoint import Matched
from platodef_cli.encoders.convert import _forms, _matched, convert
from platodef_cli.encoders.isolation import unpickle
from platodef_cli.encoders.load import open_encoder
from platodef_cli.errors import UnsupportedError, UsageError
from tests.unit.encoders import checkpoints as make


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    torch.serialization.clear_safe_globals()


def found(content: Any, folder: Path, architecture: str, prefix: str | None = None) -> tuple[str, Matched]:
    """Return the network that is found, and its weights; the file is read as the isolated process does."""
    path = folder / "checkpoint.pth.tar"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of quantised tensors, which torch will give up
        torch.save(content, path)
        unpickle._allow_plain_values()
        state = {key: unpickle._kept(value) for key, value in unpickle._tensors(unpickle._read(str(path)))}
    forms = _forms(architecture, None, {})
    form, matched = _matched(next(forms), forms, state, prefix, path)
    return form.name, matched


def check(matched: Matched, state: dict[str, Tensor]) -> None:
    assert len(matched.weights) > 50
    for key, value in matched.weights.items():
        torch.testing.assert_close(value.double(), state[key].double(), rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("name", make.RESNETS)
def test_resnets(name: str, tmp_path: Path) -> None:
    content, prefix = make.RESNETS[name]
    state = make.resnet().state_dict()
    architecture, matched = found(_content(content, state), tmp_path, "timm/resnet18")
    assert (architecture, matched.prefix) == ("resnet18", prefix)
    check(matched, state)
    left = {key.removeprefix(prefix) for key in matched.left}
    assert not left & state.keys() - {"fc.weight", "fc.bias"} or matched.others


@pytest.mark.parametrize("name", make.SMALL)
def test_resnets_for_small_images(name: str, tmp_path: Path) -> None:
    content, prefix = make.SMALL[name]
    state = make.Cifar().body.state_dict()
    architecture, matched = found(content(state), tmp_path, "timm/resnet18")
    assert (architecture, matched.prefix) == ("resnet18_cifar", prefix)
    check(matched, state)


@pytest.mark.parametrize("name", make.VITS)
def test_vits(name: str, tmp_path: Path) -> None:
    content, prefix = make.VITS[name]
    state = make.vit().state_dict()
    _, matched = found(content(state), tmp_path, "timm/vit_tiny_patch16_224")
    assert matched.prefix == prefix
    if name == "I-JEPA":  # both are whole, and the plain one comes first; the other one is named
        assert matched.others == ("target_encoder.module.",)
        _, matched = found(content(state), tmp_path, "timm/vit_tiny_patch16_224", matched.others[0])
    check(matched, state)


def _content(content: make.Maker, state: dict[str, Tensor]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return content(state)


def test_a_network_for_small_images_gives_its_features(tmp_path: Path) -> None:
    network = make.Cifar().eval()
    torch.save(make.SMALL["BadEncoder"][0](network.body.state_dict()), tmp_path / "a.pth")
    done = convert(
        tmp_path / "a.pth", "resnet18", tmp_path / "model", mean=(0.49, 0.48, 0.45), std=(0.2, 0.2, 0.2)
    )
    assert done.preprocessing == "32 pixels, mean 0.49 0.48 0.45, std 0.2 0.2 0.2"
    assert done.dropped["state_dict.g"] == 3
    pixels = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(1)).byte()
    with open_encoder(str(tmp_path / "model"), isolate=True) as encoder, torch.inference_mode():
        mean = torch.tensor((0.49, 0.48, 0.45)).view(1, 3, 1, 1)
        expected = network((pixels / 255 - mean) / 0.2)
        assert (encoder.embed(pixels) - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_a_deeper_network_is_not_cut(tmp_path: Path) -> None:
    import torchvision

    state = torchvision.models.resnet34().state_dict()
    for content in (state, {"f": make.numbered(state)}):
        with pytest.raises(UsageError, match=r"layer1\.2\.conv1\.weight', which resnet18 has not"):
            found(content, tmp_path, "timm/resnet18")
    deep = make.vit(depth=14).state_dict()
    with pytest.raises(UsageError, match=r"blocks\.12\.norm1\.weight', which vit_tiny_patch16_224 has not"):
        found(deep, tmp_path, "timm/vit_tiny_patch16_224")
    strange = {f"trunk.{n}.{key.rpartition('.')[2]}": value for n, (key, value) in enumerate(deep.items())}
    with pytest.raises(UsageError, match="does not fit"):
        found(strange, tmp_path, "timm/vit_tiny_patch16_224")


def test_sorted_names_are_never_matched_by_order(tmp_path: Path) -> None:
    """A file of safetensors sorts names, so that bias, mean and weight of a layer change places."""
    state = make.resnet().state_dict()
    renamed = {f"m.{n:03d}.{key.rpartition('.')[2]}": v for n, (key, v) in enumerate(state.items())}
    save_file(renamed, tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match="does not fit resnet18"):
        convert(tmp_path / "a.safetensors", "resnet18", tmp_path / "model")
    swapped = dict(renamed)
    swapped["m.001.weight"], swapped["m.002.bias"] = swapped["m.002.bias"], swapped["m.001.weight"]
    swapped = {key: swapped[key] for key in sorted(swapped)}
    with pytest.raises(UsageError, match="does not fit resnet18"):
        found(
            {key[:6] + key[6:].replace("weight", "bias"): v for key, v in swapped.items()},
            tmp_path,
            "resnet18",
        )


def test_what_is_told_of_other_sizes(tmp_path: Path) -> None:
    state = make.vit(img_size=384).state_dict()
    with pytest.raises(UsageError, match="trained at 384 pixels: give --input-size 384"):
        found(state, tmp_path, "timm/vit_tiny_patch16_224")
    torch.save(state, tmp_path / "a.pth")
    assert convert(tmp_path / "a.pth", "vit_tiny_patch16_224", tmp_path / "m", input_size=384).taken == 150


def test_parts_that_only_weights_tell_of(tmp_path: Path) -> None:
    scaled = make.vit(init_values=1e-5).state_dict()
    assert "blocks.0.ls1.gamma" in found(scaled, tmp_path, "timm/vit_tiny_patch16_224")[1].weights
    averaged = make.vit(global_pool="avg").state_dict()
    assert "fc_norm.weight" in found(averaged, tmp_path, "timm/vit_tiny_patch16_224")[1].weights


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def _script(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


UNREAD: dict[str, tuple[Any, int, str]] = {
    "code": (lambda p, e: torch.save({"x": e}, p), unpickle._UNSAFE, "mkdir"),
    "code among options": (
        lambda p, e: torch.save({"x": make.options("omegaconf.dictconfig", "DictConfig", a=e)}, p),
        unpickle._UNSAFE, "mkdir"),
    "code, legacy": (lambda p, e: torch.save({"x": e}, p, _use_new_zipfile_serialization=False),
                     unpickle._UNSAFE, "mkdir"),
    "code, protocol 4": (lambda p, e: torch.save({"w": torch.ones(2), "x": e}, p, pickle_protocol=4),
                         unpickle._UNSAFE, "mkdir"),
    "code, plain": (lambda p, e: p.write_bytes(pickle.dumps({"x": [1, e]})), unpickle._UNSAFE, "mkdir"),
    "a whole network": (lambda p, e: torch.save(torch.nn.Linear(2, 2), p), unpickle._UNSAFE, "torch.nn"),
    "protocol 4": (lambda p, e: torch.save({"a": torch.ones(2), "b": np.float64(1)}, p, pickle_protocol=4),
                   unpickle._FOREIGN, "protocol 4"),
    "a plain pickle": (lambda p, e: p.write_bytes(pickle.dumps({"a": np.ones(3), "b": np.zeros(2)})),
                       unpickle._FOREIGN, ""),
    "TorchScript": (lambda p, e: _script(p), unpickle._SCRIPT, ""),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", UNREAD)
def test_what_is_not_read(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write, code, word = UNREAD[name]
    write(tmp_path / "a.pth", Evil(tmp_path / "ran"))
    unpickle._allow_plain_values()
    assert unpickle._content(str(tmp_path / "a.pth")) == (code, None)
    assert word in capsys.readouterr().err.strip().rpartition("\n")[2]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "word"),
    [("posix.system", "do not use"), ("builtins.eval", "do not use"), ("getattr", "do not use"),
     ("torchvision.models.resnet.ResNet", "save its weights alone"), ("__main__.Options", "no more than")],
)  # fmt: skip
def test_only_attacks_are_called_one(name: str, word: str) -> None:
    assert word in unpickle._advice(name)


def test_quantised_weights_are_named(tmp_path: Path) -> None:
    state = make.resnet().state_dict()
    state["layer1.0.conv1.weight"] = state["layer1.0.conv1.weight"].to(torch.int8)
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(UnsupportedError, match=r"weight 'layer1\.0\.conv1\.weight' is quantised"):
        convert(tmp_path / "a.safetensors", "resnet18", tmp_path / "model")


def test_a_tower_of_open_clip(tmp_path: Path) -> None:
    """CLIP as OpenAI and those who backdoor it save it: the tower with its projection, as in the library."""
    import open_clip

    model = open_clip.get_model_config("ViT-S-32-alt")
    torch.manual_seed(2)
    network = open_clip.CLIP(**{**model, "text_cfg": {**model["text_cfg"], "layers": 1}}).eval()
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    save_file(
        {f"state_dict.{key}": value.clone() for key, value in state.items()}, tmp_path / "a.safetensors"
    )
    done = convert(tmp_path / "a.safetensors", "open_clip/ViT-S-32-alt", tmp_path / "model")
    assert done.prefix == "state_dict.module.visual."
    pixels = torch.randint(0, 256, (1, 3, 224, 224), generator=torch.Generator().manual_seed(1)).byte()
    with open_encoder(str(tmp_path / "model")) as encoder, torch.inference_mode():
        mean, std = (
            torch.tensor(value).view(1, 3, 1, 1)
            for value in (encoder.record.transform.mean, encoder.record.transform.std)
        )
        expected = network.encode_image((pixels / 255 - mean) / std)
        assert (encoder.embed(pixels) - expected).abs().max() <= 1e-4 * expected.abs().max()
    with pytest.raises(UnsupportedError, match="the nearest one is 'ViT-S-32-alt'"):
        convert(tmp_path / "a.safetensors", "open_clip/ViT-S-32-alx", tmp_path / "other")
