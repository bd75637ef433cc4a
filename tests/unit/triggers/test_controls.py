import io

import numpy as np
import pytest
import torch
from PIL import Image

from platodef_cli.errors import UsageError
from platodef_cli.images.shapes import render
from platodef_cli.triggers.controls import Blur, Crop, Jpeg, MildNoise


def images(count=4, size=32):
    return torch.from_numpy(render(0, np.arange(count), size)[0])


def test_jpeg_is_what_pillow_makes():
    pixels = images(1, 64)
    buffer = io.BytesIO()
    Image.fromarray(pixels[0].permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=40)
    expected = np.asarray(Image.open(buffer).convert("RGB")).transpose(2, 0, 1)
    out = Jpeg(40)(pixels, torch.zeros(1, dtype=torch.int64))[0].numpy()
    assert np.abs(out.astype(int) - expected).mean() < 1.0


def test_jpeg_loses_more_at_lower_quality():
    pixels = images()
    losses = [
        (Jpeg(q)(pixels, torch.arange(4)).float() - pixels.float()).square().mean() for q in (95, 50, 10)
    ]
    assert losses[0] < losses[1] < losses[2]


def test_blur_is_a_convolution_with_a_gaussian():
    point = torch.zeros(1, 3, 33, 33, dtype=torch.uint8)
    point[:, :, 16, 16] = 255
    sigma = 0.05 * 33
    out = Blur(0.05)(point, torch.zeros(1, dtype=torch.int64))[0, 1].float()
    offset = torch.arange(33) - 16
    expected = 255 * torch.exp(-(offset[:, None] ** 2 + offset[None, :] ** 2) / (2 * sigma**2))
    expected /= 2 * torch.pi * sigma**2
    assert (out - expected).abs().max() <= 1
    flat = torch.full((1, 3, 16, 16), 77, dtype=torch.uint8)
    assert torch.equal(Blur(0.05)(flat, torch.zeros(1, dtype=torch.int64)), flat)


def test_crop_keeps_the_stated_part_and_scales_it_up():
    ramp = (torch.arange(64, dtype=torch.float32) * 3 + 30).expand(200, 3, 64, 64).to(torch.uint8)
    out = Crop(0.75)(ramp, torch.arange(200)).float()
    slope = (out[:, 0, 0, 60] - out[:, 0, 0, 3]) / (57 * 3)
    assert (slope - 0.75).abs().max() < 0.02
    left = (out[:, 0, 0, 0] - 30) / 3 / 64  # share of the width that was cut off on the left
    assert left.min() >= 0
    assert left.max() <= 0.26
    assert left.std() == pytest.approx(0.25 / 12**0.5, rel=0.15)
    assert torch.equal(Crop(1.0)(ramp, torch.arange(200)), ramp)


def test_mild_noise_is_gaussian_and_differs_between_images():
    grey = torch.full((40, 3, 32, 32), 128, dtype=torch.uint8)
    noise = MildNoise(8)(grey, torch.arange(40)).float() - 128
    assert noise.mean().abs() < 0.1
    assert noise.std() == pytest.approx((64 + 1 / 12) ** 0.5, rel=0.01)
    flat = noise.flatten(1)
    assert (torch.corrcoef(flat) - torch.eye(40)).abs().max() < 0.1
    assert ((flat / 8) ** 4).mean() == pytest.approx(3, rel=0.03)  # kurtosis of a normal


@pytest.mark.parametrize("make", [lambda: Jpeg(0), lambda: Jpeg(101), lambda: Blur(0), lambda: Crop(1.2)])
def test_bad_parameters_are_usage_errors(make):
    with pytest.raises(UsageError):
        make()
