"""Preprocessing that a geometry cannot express is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from platodef_cli.encoders.backends.processors import Preprocessing, read_preprocessing
from platodef_cli.encoders.checks.weights import Bundle
from platodef_cli.encoders.geometry import Geometry
from platodef_cli.errors import PlatodefError, RefusedError, UsageError
from platodef_cli.records import FileRecord

VIT = {"image_processor_type": "ViTImageProcessor"}
CLIP = {"image_processor_type": "CLIPImageProcessor"}


def read(
    folder: Path, content: dict[str, Any], name: str = "preprocessor_config.json", kind: str = "vit"
) -> Preprocessing:
    """Write a processor configuration and read it."""
    from hashlib import sha256

    data = json.dumps(content).encode()
    (folder / name).write_bytes(data)
    record = FileRecord(path=name, sha256=sha256(data).hexdigest(), bytes=len(data))
    return read_preprocessing(Bundle(folder, (record,), 0), kind)


def test_old_and_new_names_and_places_mean_the_same(tmp_path: Path) -> None:
    settings = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}
    names = ("CLIPImageProcessor", "CLIPImageProcessorFast")
    results = [read(tmp_path, {"image_processor_type": name, **settings}) for name in names]
    results.append(read(tmp_path, {"feature_extractor_type": "CLIPFeatureExtractor", **settings}))
    (tmp_path / "preprocessor_config.json").unlink()
    inner = {"image_processor_type": names[0], **settings}
    results.append(read(tmp_path, {"image_processor": inner}, "processor_config.json"))
    assert all(result.geometry == Geometry((32, 32), 40, "bicubic", crop="floor") for result in results)


def test_old_sizes_of_one_number(tmp_path: Path) -> None:
    vit = read(tmp_path, {**VIT, "size": 48})
    assert vit.geometry == Geometry((48, 48), (48, 48), "bilinear", crop="floor")
    clip = read(tmp_path, {"image_processor_type": "CLIPImageProcessor", "size": 48, "crop_size": 32})
    assert clip.geometry == Geometry((32, 32), 48, "bicubic", crop="floor")


def test_one_number_stands_for_all_channels(tmp_path: Path) -> None:
    for mean, std in ((0.5, 0.25), ([0.5], [0.25]), ([0.5] * 3, [0.25] * 3)):
        found = read(tmp_path, {**VIT, "image_mean": mean, "image_std": std})
        assert found.mean == pytest.approx((0.5,) * 3)
        assert found.std == pytest.approx((0.25,) * 3)


@pytest.mark.parametrize(
    "name", ["bicubic", "BICUBIC", "PILImageResampling.BICUBIC", "Resampling.BICUBIC", 3]
)
def test_names_of_interpolations(name: str | int, tmp_path: Path) -> None:
    assert read(tmp_path, {**VIT, "size": 48, "resample": name}).geometry.interpolation == "bicubic"


def test_steps_that_are_off(tmp_path: Path) -> None:
    base = {**VIT, "image_mean": [0.1] * 3, "image_std": [0.2] * 3}
    plain = read(tmp_path, base)
    assert plain.mean == pytest.approx((0.1,) * 3)
    assert plain.std == pytest.approx((0.2,) * 3)
    off = read(tmp_path, {**base, "do_normalize": False})
    assert (off.mean, off.std) == (pytest.approx((0.0,) * 3), pytest.approx((1.0,) * 3))
    levels = read(tmp_path, {**base, "do_rescale": False})
    assert levels.std == pytest.approx((0.2 / 255,) * 3)


def test_the_fixed_square_of_networks_of_any_size_is_noted(tmp_path: Path) -> None:
    naflex = read(tmp_path, {"image_processor_type": "Siglip2ImageProcessor", "max_num_patches": 300})
    assert naflex.geometry.size == (272, 272)
    assert "square of 272 pixels" in naflex.notes[0]
    qwen = read(
        tmp_path, {"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 3136, "max_pixels": 10**7}
    )
    assert qwen.geometry.size == (448, 448)
    large = {"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 500**2, "max_pixels": 10**7}
    assert read(tmp_path, large).geometry.size == (504, 504)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ({"image_processor_type": "EvilImageProcessor"}, UsageError, "'EvilImageProcessor' is not supported"),
        ({**VIT, "do_pad": True}, UsageError, "do_pad"),
        ({**VIT, "do_flip": 1}, UsageError, "do_flip"),
        ({**VIT, "pad_size": {"height": 3}}, UsageError, "pad_size"),
        ({**VIT, "do_resize": False}, UsageError, "do_resize"),
        ({**VIT, "resample": 5}, UsageError, "resample = 5"),
        ({**VIT, "resample": "hamming"}, UsageError, "resample = 5"),
        ({**VIT, "resample": "x"}, RefusedError, "malformed"),
        ({**VIT, "size": 0}, RefusedError, "malformed"),
        ({"image_processor_type": "DetrImageProcessor"}, UsageError, "inputs of any size"),
        ({"image_processor_type": "LayoutLMv3ImageProcessor"}, UsageError, "a library|than resize"),
        ({"image_processor_type": "PreTrainedModel"}, UsageError, "is not supported"),
        ({**CLIP, "do_center_crop": False}, UsageError, "do_center_crop"),
        (
            {**CLIP, "size": {"shortest_edge": 3, "longest_edge": 9}},
            UsageError,
            "size = ",
        ),
        ({**VIT, "image_std": [0.2, 0.2]}, UsageError, "three colour channels"),
        ({**VIT, "rescale_factor": 0}, UsageError, "rescale_factor"),
        ({**VIT, "image_mean": "x"}, RefusedError, "malformed"),
        ({**VIT, "size": "large"}, RefusedError, "malformed"),
        ({**VIT, "resample": []}, RefusedError, "malformed"),
    ],
)  # fmt: skip
def test_what_cannot_be_reproduced(
    content: dict[str, Any], error: type[PlatodefError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message) as caught:
        read(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_what_transformers_reads_is_read(tmp_path: Path) -> None:
    plain = read(tmp_path, {**VIT, "size": 48, "resample": 3})
    assert read(tmp_path, {"size": 48, "resample": "bicubic"}) == plain  # the class follows from model_type
    assert (
        read(tmp_path, {**VIT, "size": 48, "resample": "BICUBIC", "image_mean": 0.5, "image_std": 0.5})
        == plain
    )
    crop = read(tmp_path, {"size": 40, "crop_size": 32, "do_center_crop": True}, kind="dinov2")
    assert crop.geometry == Geometry((32, 32), 40, "bicubic", crop="floor")
    assert read(tmp_path, {**VIT, "size": 48, "resample": 0}).geometry.interpolation == "nearest"


def test_the_joint_file_comes_first(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**VIT, "size": 48}))
    inner = {"image_processor": {**VIT, "size": 32}}
    assert read(tmp_path, inner, "processor_config.json").geometry.size == (32, 32)


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"lacks preprocessor_config\.json"):
        read_preprocessing(Bundle(tmp_path, (), 0), "vit")


@pytest.mark.parametrize(
    ("name", "size", "resize", "interpolation", "flipped"),
    [
        ("LevitImageProcessor", 224, 256, "bicubic", False),
        ("MobileNetV1ImageProcessor", 224, 256, "bilinear", False),
        ("MobileViTImageProcessor", 256, 224, "bicubic", True),
        ("PvtImageProcessor", 224, (224, 224), "bicubic", False),
        ("PoolFormerImageProcessor", 224, 248, "bicubic", False),
    ],
)
def test_other_processors_are_known_by_what_they_do(
    name: str, size: int, resize: tuple[int, int] | int, interpolation: str, flipped: bool, tmp_path: Path
) -> None:
    made = read(tmp_path, {"image_processor_type": name})
    assert made.geometry == Geometry((size, size), resize, interpolation, crop="floor")
    assert made.flipped == flipped
