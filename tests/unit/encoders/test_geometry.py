"""Resize and crop against torchvision, timm and transformers, pixel by pixel."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as tv

from platodef_cli.encoders import geometry as module
from platodef_cli.encoders.interface import Geometry, to_levels, to_pixels

SIZES = [(32, 32), (33, 47), (47, 33), (64, 41), (20, 90), (7, 5), (31, 32)]


def picture(height: int, width: int, smooth: bool = False) -> Image.Image:
    """Return noise, or a smooth picture."""
    generator = np.random.default_rng(height * 1000 + width)
    if smooth:
        small = Image.fromarray(generator.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        return small.resize((width, height), Image.Resampling.BICUBIC)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


def tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", [(20, 20), (21, 32), (40, 16), (33, 33)])
def test_crop_equals_torchvision_exactly(size: tuple[int, int], target: tuple[int, int]) -> None:
    image = picture(*size)
    pixels = to_pixels(image, Geometry(target, size, "bicubic"))
    assert pixels.dtype == torch.uint8
    assert pixels.is_contiguous()
    assert torch.equal(pixels, tv.center_crop(tensor(image), list(target)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", [(20, 20), (21, 32), (40, 16), (33, 33)])
def test_floor_crop_equals_transformers_exactly(size: tuple[int, int], target: tuple[int, int]) -> None:
    from transformers import CLIPImageProcessor
    from transformers.image_utils import SizeDict

    image = picture(*size)
    pixels = to_pixels(image, Geometry(target, size, "bicubic", crop="floor"))
    expected = CLIPImageProcessor().center_crop(tensor(image), SizeDict(height=target[0], width=target[1]))
    assert torch.equal(pixels, expected)


def test_the_two_roundings_differ_by_one_pixel() -> None:
    image = picture(35, 35)
    rounded = to_pixels(image, Geometry((32, 32), (35, 35), "bicubic"))
    floored = to_pixels(image, Geometry((32, 32), (35, 35), "bicubic", crop="floor"))
    assert torch.equal(rounded, tensor(image)[:, 2:34, 2:34])
    assert torch.equal(floored, tensor(image)[:, 1:33, 1:33])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_shorter_side_equals_pillow(size: tuple[int, int], interpolation: str) -> None:
    image = picture(*size)
    mode = tv.InterpolationMode(interpolation)
    expected = tensor(tv.center_crop(tv.resize(image, 24, mode), [24, 24]))
    pixels = to_pixels(image, Geometry((24, 24), 24, interpolation))
    difference = (pixels.int() - expected.int()).abs()
    assert difference.max() <= 2
    assert (difference > 0).float().mean() < 0.03


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("fit", "longest"), [("cover", 0.0), ("contain", 1.0)])
def test_kept_aspect_equals_timm(size: tuple[int, int], fit: str, longest: float) -> None:
    from timm.data.transforms import CenterCropOrPad, ResizeKeepRatio

    image = picture(*size)
    steps = ResizeKeepRatio((24, 36), longest=longest, interpolation="bilinear")
    expected = tensor(CenterCropOrPad((24, 36), fill=(9, 80, 200))(steps(image)))
    pixels = to_pixels(image, Geometry((24, 36), (24, 36), "bilinear", fill=(9, 80, 200), fit=fit))
    assert (pixels.int() - expected.int()).abs().max() <= 2


@pytest.mark.parametrize("size", SIZES)
def test_nearest_equals_pillow(size: tuple[int, int]) -> None:
    image = picture(*size)
    expected = tensor(image.resize((19, 26), Image.Resampling.NEAREST))
    pixels = to_pixels(image, Geometry((26, 19), (26, 19), "nearest"))
    assert (pixels != expected).any(0).float().mean() < 0.08  # ties between two neighbours


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_floats_are_what_the_levels_are_rounded_from(size: tuple[int, int], interpolation: str) -> None:
    image = picture(*size, smooth=True)
    exact = to_pixels(image, Geometry((22, 23), 24, interpolation + "-float"))
    pixels = to_pixels(image, Geometry((22, 23), 24, interpolation))
    assert exact.dtype == torch.float32
    assert exact.is_contiguous()
    # 8 bits are clipped between the two passes as well, so overshoots differ by more than rounding
    assert (to_levels(exact).int() - pixels.int()).abs().float().mean() < 0.5
    if interpolation != "nearest":
        assert (255 * exact - (255 * exact).round()).abs().max() > 0.3


def test_levels_of_floats_are_rounded_and_clipped() -> None:
    pixels = torch.tensor([-0.1, 0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 1.2])
    assert to_levels(pixels).tolist() == [0, 0, 0, 1, 255, 255]
    assert pixels[0] == torch.tensor(-0.1)
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_levels(levels), levels)
    assert torch.equal(to_levels(levels / 255), levels)


def test_other_modes_become_rgb() -> None:
    grey = Image.new("L", (8, 8), 77)
    assert torch.equal(
        to_pixels(grey, Geometry((8, 8), (8, 8), "bilinear")), torch.full((3, 8, 8), 77).byte()
    )


@pytest.mark.parametrize("crop", ["round", "floor"])
@pytest.mark.parametrize("size", SIZES)
def test_the_short_cut_for_elongated_images_gives_the_same_pixels(
    size: tuple[int, int], crop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = picture(*size, smooth=True)
    shape = Geometry((24, 24), 27, "bicubic", crop=crop)
    whole = to_pixels(image, shape)
    floats = Geometry((24, 24), 27, "bicubic-float", crop=crop)
    exact = to_pixels(image, floats)
    monkeypatch.setattr(module, "MAX_RESIZED", 1)
    assert (to_pixels(image, shape).int() - whole.int()).abs().max() <= 2
    short = to_pixels(image, floats)
    assert short.dtype == torch.float32
    assert (short - exact).abs().max() < 1e-3


def test_a_strip_one_pixel_high_does_not_fill_the_memory() -> None:
    strip = Image.new("RGB", (60_000, 1), (10, 20, 30))
    pixels = to_pixels(strip, Geometry((224, 224), 256, "bilinear"))
    assert torch.equal(pixels, torch.tensor([10, 20, 30]).byte().view(3, 1, 1).expand(3, 224, 224))


def test_an_extreme_aspect_ratio_keeps_one_pixel() -> None:
    strip = Image.new("RGB", (5000, 1), (255, 0, 0))
    pixels = to_pixels(strip, Geometry((32, 32), (32, 32), "bilinear", fill=7, fit="contain"))
    assert (pixels[0] == 255).any(dim=1).sum() == 1
    assert (pixels[1] == 7).sum() == 31 * 32
