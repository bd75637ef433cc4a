"""Every encoder backend gives the features of its own library, and loads strictly."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from platodef_cli.encoders import BACKENDS
from platodef_cli.encoders.backends.transformers_models import FAMILIES
from platodef_cli.encoders.interface import to_pixels
from platodef_cli.encoders.load import open_encoder
from platodef_cli.errors import RefusedError
from tests.contract import encoder_models as make
from tests.contract import tower_models as towers

VIT = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
RESNET = {"channels": [8, 8, 16, 16], "output_stride": 16}

SMALL_TEXT = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
TIMM_TOWER = {"image_size": 64, "timm_model_name": "resnet10t", "timm_pool": "avg", "timm_proj": "linear"}
COCA_TOWER = {**VIT, "image_size": 32, "attentional_pool": True, "output_tokens": True}

TIMM_CASES: dict[str, tuple[Any, ...]] = {
    "timm": ({},),
    "timm-crop": ({"crop_pct": 0.9, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)},),
    "timm-squash": ({"crop_pct": 0.8, "crop_mode": "squash", "interpolation": "bilinear"},),
    "timm-border": ({"crop_pct": 1.0, "crop_mode": "border", "interpolation": "lanczos"},),
    "timm-border-crop": ({"crop_pct": 0.75, "crop_mode": "border"},),
    "timm-enlarged": ({"crop_pct": 1.3},),
    "timm-resnet": ({}, "resnet18", RESNET),
    "timm-resnet-oblong": ({"input_size": (3, 32, 48), "crop_pct": 0.9}, "resnet18", RESNET),
    "timm-convnext": ({}, "convnext_atto", {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}),
    "timm-no-head": ({}, "vit_tiny_patch16_224", None, 0),
}
OPEN_CLIP_CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "open_clip": ({}, {}),
    "open_clip-squash": (
        {"resize_mode": "squash", "interpolation": "bilinear", "mean": 0.5, "std": 0.5},
        {"quick_gelu": True},
    ),
    "open_clip-longest": ({"resize_mode": "longest", "fill_color": 90}, {}),
    "open_clip-oblong": ({}, {"vision_cfg": {**VIT, "image_size": [32, 48]}}),
    "open_clip-resnet": ({}, {"vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}}),
    "open_clip-timm-tower": (
        {"resize_mode": "squash"},
        {"vision_cfg": TIMM_TOWER, "custom_text": True, "init_logit_bias": -10.0},
    ),
    "open_clip-coca": (
        {},
        {
            "vision_cfg": COCA_TOWER,
            "text_cfg": {**SMALL_TEXT, "embed_cls": True, "output_tokens": True},
            "multimodal_cfg": SMALL_TEXT,
            "custom_text": True,
        },
    ),
}
CASES: dict[str, Callable[[Path], make.Reference]] = {
    **{
        case: lambda folder, row=row: make.timm_model(folder, *row[1:], **row[0])
        for case, row in TIMM_CASES.items()
    },
    **{
        case: lambda folder, row=row: make.open_clip_model(folder, row[0], **row[1])
        for case, row in OPEN_CLIP_CASES.items()
    },
    **{
        f"transformers-{kind}": lambda folder, kind=kind: make.transformers_model(folder, kind)
        for kind in sorted(FAMILIES.keys() - towers.MAKERS.keys())
    },
    **{
        f"transformers-{kind}": lambda folder, kind=kind: towers.tower_model(folder, kind)
        for kind in towers.MAKERS
    },
}
ONE_PER_BACKEND = ("timm", "open_clip", "transformers-siglip")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, make.Reference]]:
    """Make each tiny model once."""
    done: dict[str, tuple[Path, make.Reference]] = {}

    def get(case: str) -> tuple[Path, make.Reference]:
        if case not in done:
            folder = tmp_path_factory.mktemp(case) / "model"
            done[case] = (folder, CASES[case](folder))
        return done[case]

    return get


def test_every_backend_has_a_case() -> None:
    assert {case.split("-")[0] for case in CASES} == set(BACKENDS.names())


@pytest.mark.parametrize("case", CASES)
def test_features_equal_the_librarys_own_pipeline(case: str, made: Any) -> None:
    folder, reference = made(case)
    squares = {**make.SQUARES, **towers.SQUARES}
    images = make.photographs(square=squares.get(case.removeprefix("transformers-")))
    expected = reference(images)
    with open_encoder(str(folder)) as encoder:
        assert encoder.record.backend == case.split("-")[0]
        pixels = torch.stack([to_pixels(image, encoder.geometry) for image in images])
        features = encoder.embed(pixels)
        assert features.dtype == torch.float32
        assert features.shape == (len(images), encoder.dim) == tuple(expected.shape)
        # Resampling to 8 bits may differ by a level in a few pixels; a crop that is off by a pixel, another
        # order of steps or another output makes an error as large as the distance between two images.
        between = (expected - expected.mean(0)).norm(dim=1).mean()
        assert between > 0.02 * expected.norm(dim=1).mean()
        assert (features - expected).norm(dim=1).max() < 0.04 * between


@pytest.mark.parametrize("case", CASES)
def test_gradients_agree_with_finite_differences(case: str, made: Any) -> None:
    folder, _ = made(case)
    with open_encoder(str(folder)) as encoder:
        generator = torch.Generator().manual_seed(3)
        levels = torch.randint(
            20, 236, (1, 3, *encoder.geometry.size), generator=generator, dtype=torch.uint8
        )
        pixels = (levels.float() / 255).requires_grad_()
        features = encoder.differentiable(pixels)
        torch.testing.assert_close(features.detach(), encoder.embed(levels), rtol=1e-4, atol=1e-5)
        direction = torch.randn(pixels.shape, generator=generator)
        weights = torch.randn(features.shape, generator=generator)
        (gradient,) = torch.autograd.grad((features * weights).sum(), pixels)
        step = 2e-4
        with torch.no_grad():
            ahead = (encoder.differentiable(pixels + step * direction) * weights).sum()
            behind = (encoder.differentiable(pixels - step * direction) * weights).sum()
        slope = float(ahead - behind) / (2 * step)
        assert slope == pytest.approx(
            float((gradient * direction).sum()), rel=0.1, abs=0.05 * float(gradient.norm())
        )


def _weights(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def _copy(folder: Path, target: Path) -> Path:
    target.mkdir()
    for entry in folder.iterdir():
        if entry.is_file():
            (target / entry.name).write_bytes(entry.read_bytes())
    return target


_HEADS = ("classifier", "decoder", "fc.", "head.fc", "lm_head", "language_model", "model.l", "model.embed")


def _victim(state: dict[str, torch.Tensor]) -> str:
    """Pick a weight of the vision part that every load needs."""
    seen = sorted(key for key in state if key.startswith("visual.")) or sorted(state)
    return next(k for k in seen if k.endswith("weight") and "text" not in k and state[k].ndim >= 2)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("damage", ["missing", "nan", "shape"])
def test_damaged_weights_are_refused(case: str, damage: str, made: Any, tmp_path: Path) -> None:
    folder = _copy(made(case)[0], tmp_path / "damaged")
    state = load_file(_weights(folder))
    key = _victim({k: v for k, v in state.items() if not k.startswith(_HEADS)})
    if damage == "missing":
        del state[key]
    elif damage == "nan":
        state[key] = state[key].clone()
        state[key].view(-1)[-1] = float("nan")
    else:
        state[key] = torch.cat([state[key], state[key]], dim=0)
    save_file(state, _weights(folder))
    words = {"missing": "weight", "nan": "not finite", "shape": "shape"}
    with pytest.raises(RefusedError, match=words[damage]):
        open_encoder(str(folder))


@pytest.mark.parametrize("case", ONE_PER_BACKEND)
def test_unexpected_weight_is_refused(case: str, made: Any, tmp_path: Path) -> None:
    folder = _copy(made(case)[0], tmp_path / "more")
    state = load_file(_weights(folder))
    save_file({**state, "backdoor.weight": torch.zeros(4, 4)}, _weights(folder))
    with pytest.raises(RefusedError, match=r"unexpected weight 'backdoor\.weight'"):
        open_encoder(str(folder))


@pytest.mark.parametrize("case", ONE_PER_BACKEND)
def test_integer_weight_is_refused(case: str, made: Any, tmp_path: Path) -> None:
    folder = _copy(made(case)[0], tmp_path / "integers")
    state = load_file(_weights(folder))
    key = _victim(state)
    save_file({**state, key: state[key].to(torch.int32)}, _weights(folder))
    with pytest.raises(RefusedError, match="floating point"):
        open_encoder(str(folder))


@pytest.mark.parametrize("case", ONE_PER_BACKEND)
def test_a_configuration_larger_than_its_files_is_refused_before_it_is_built(
    case: str, made: Any, tmp_path: Path
) -> None:
    folder = _copy(made(case)[0], tmp_path / "giant")
    name = "open_clip_config.json" if case == "open_clip" else "config.json"
    config = json.loads((folder / name).read_text())
    place = {"timm": ("model_args", "embed_dim"), "open_clip": ("model_cfg", "vision_cfg", "width"),
             "transformers-siglip": ("vision_config", "intermediate_size")}[case]  # fmt: skip
    inner = config
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = 65536
    (folder / name).write_text(json.dumps(config))
    with pytest.raises(RefusedError, match="parameters but its files hold"):
        open_encoder(str(folder))


@pytest.mark.parametrize("case", ONE_PER_BACKEND)
def test_bfloat16_keeps_the_features(case: str, made: Any) -> None:
    folder, _ = made(case)
    with open_encoder(str(folder)) as full, open_encoder(str(folder), dtype="bfloat16") as half:
        pixels = torch.stack([to_pixels(image, full.geometry) for image in make.photographs()])
        exact, rounded = full.embed(pixels), half.embed(pixels)
        assert rounded.dtype == torch.float32
        assert half.record.dtype == "bfloat16"
        assert not torch.equal(exact, rounded)
        assert torch.nn.functional.cosine_similarity(exact, rounded).min() > 0.995


OLDER = (
    (r"^stem\.", "downsample_layers.0."),
    (r"^stages\.(\d)\.blocks\.(\d)", r"stages.\1.\2"),
    (r"^stages\.(\d)\.downsample\.(\d)", r"downsample_layers.\1.\2"),
    (r"conv_dw", "dwconv"),
    (r"mlp\.fc", "pwconv"),
    (r"^head\.norm", "norm"),
    (r"^head\.fc", "head"),
)
"""Names of timm's ConvNeXt -> names of its first releases."""


@pytest.mark.parametrize("extra", [False, True])
def test_older_names_of_timm_weights_are_converted_but_nothing_is_dropped(
    extra: bool, made: Any, tmp_path: Path
) -> None:
    folder, _ = made("timm-convnext")
    old = _copy(folder, tmp_path / "old")
    state = {}
    for name, value in load_file(_weights(folder)).items():
        for pattern, replacement in OLDER:
            name = re.sub(pattern, replacement, name)
        state[name] = value
    if extra:
        # timm's own filter silently discards this prefix.
        state["projectors.weight"] = torch.zeros(3)
    save_file(state, _weights(old))
    if extra:
        with pytest.raises(RefusedError, match="lacks the weight"):
            open_encoder(str(old))
        return
    with open_encoder(str(folder)) as expected, open_encoder(str(old)) as converted:
        pixels = torch.stack([to_pixels(image, expected.geometry) for image in make.photographs()])
        assert torch.equal(converted.embed(pixels), expected.embed(pixels))


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", ["open_clip", "transformers-siglip", "transformers-resnet", "transformers-qwen2_vl"]
)
def test_isolated_features_are_the_same_bit_for_bit(case: str, made: Any) -> None:
    folder, _ = made(case)
    with open_encoder(str(folder)) as here, open_encoder(str(folder), isolate=True) as there:
        pixels = torch.stack([to_pixels(image, here.geometry) for image in make.photographs()])
        assert torch.equal(there.embed(pixels), here.embed(pixels))
        mine = (pixels.float() / 255).requires_grad_()
        theirs = mine.detach().clone().requires_grad_()
        (expected,) = torch.autograd.grad(here.differentiable(mine).square().sum(), mine)
        (gradient,) = torch.autograd.grad(there.differentiable(theirs).square().sum(), theirs)
        assert torch.equal(gradient, expected)
