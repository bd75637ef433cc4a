import dataclasses

import numpy as np
import pytest
import torch

from platodef_cli.errors import UnknownNameError, UsageError
from platodef_cli.images.shapes import render
from platodef_cli.triggers import CONTROLS, TRIGGERS
from platodef_cli.triggers.patches import Patches
from platodef_cli.triggers.text import Text
from platodef_cli.triggers.triggers import Blend, ColourFilter, Ctrl, Noise, Patch, Pattern, Sig, WaNet
from platodef_cli.triggers.variant import PLACES, parameters


def images(count=6, size=32):
    return torch.from_numpy(render(0, np.arange(count), size)[0])


def mid_grey(count=2, size=32):
    return torch.full((count, 3, size, size), 128, dtype=torch.uint8)


def seeds(count=6):
    return torch.arange(count) + 100


def rows_and_columns(changed, original):
    """Bounding box (top, bottom, left, right) of what changed in one image, inclusive."""
    where = (changed != original).any(0).nonzero()
    return *where[:, 0].aminmax(), *where[:, 1].aminmax()


def test_badencoder_square_ends_one_pixel_off_the_corner():
    black = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    out = Patch("white", 10 / 32, "bottom-right")(black, seeds(1))
    expected = black.clone()
    expected[:, :, 21:31, 21:31] = 255
    assert torch.equal(out, expected)
    large = torch.zeros(1, 3, 224, 224, dtype=torch.uint8)
    out = Patch("white", 50 / 224, "bottom-right")(large, seeds(1))
    expected = large.clone()
    expected[:, :, 173:223, 173:223] = 255
    assert torch.equal(out, expected)


@pytest.mark.parametrize("place", [name for name in PLACES if name != "random"])
def test_fixed_places_scale_with_the_image(place):
    boxes = []
    for size in (32, 224):
        black = torch.zeros(1, 3, size, size, dtype=torch.uint8)
        box = rows_and_columns(Patch("white", 0.25, place)(black, seeds(1))[0], black[0])
        boxes.append([(int(edge) + (i % 2)) / size for i, edge in enumerate(box)])
    assert np.abs(np.subtract(*boxes)).max() <= 1.5 / 32


def test_every_fixed_place_is_a_different_one():
    black = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    outs = {Patch("white", 0.3, place)(black, seeds(1)).numpy().tobytes() for place in PLACES}
    assert len(outs) == len(PLACES)


def test_random_places_fill_the_inner_part_and_stay_in_it():
    black = torch.zeros(2000, 3, 32, 32, dtype=torch.uint8)
    out = Patch("white", 7 / 32, "random")(black, torch.arange(2000))
    covered = (out[:, 0] > 0).float().mean(0)
    assert (out[:, 0] > 0).sum((1, 2)).eq(49).all()
    inner = covered[3:29, 3:29]
    assert inner.min() > 0
    assert covered.sum() == pytest.approx(inner.sum())
    corner = (out[:, 0] > 0).float().flatten(1).argmax(1)
    counts = torch.bincount(corner % 32 - 3, minlength=20)
    assert counts.shape == (20,)  # left edges 3..22: 20 places, each about 100 times
    assert counts.min() > 60
    assert counts.max() < 140


def test_htba_colours_are_a_bilinear_four_by_four():
    out = Patch("random", 8 / 32, "centre", seed=3)(mid_grey(1), seeds(1))[0, :, 12:20, 12:20]
    other = Patch("random", 8 / 32, "centre", seed=4)(mid_grey(1), seeds(1))[0, :, 12:20, 12:20]
    assert not torch.equal(out, other)
    # Half-pixel bilinear scaling 4 -> 8 is a known linear map, so a 4 x 4 grid must explain the patch.
    weights = torch.zeros(8, 4)
    for i in range(8):
        position = min(max((i + 0.5) / 2 - 0.5, 0), 3)
        low = min(int(position), 2)
        weights[i, low], weights[i, low + 1] = 1 - (position - low), position - low
    inverse = torch.linalg.pinv(weights)
    grid = inverse @ out.float() @ inverse.T
    assert (weights @ grid @ weights.T - out.float()).abs().max() < 1.5
    assert grid.std() > 30


@pytest.mark.parametrize(("side", "size"), [(1.0, 32), (0.95, 32), (0.01, 32), (0.5, 9)])
def test_extreme_sides_stay_inside_the_image(side, size):
    for place in PLACES:
        out = Patch("white", side, place)(torch.zeros(3, 3, size, size, dtype=torch.uint8), seeds(3))
        white = (out == 255).sum((1, 2, 3)) / 3
        assert white.eq(max(1, round(side * size)) ** 2).all()


def test_blend_is_the_weighted_mean_with_one_picture():
    black, white = torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.full((1, 3, 32, 32), 255)
    dark = Blend(0.2)(black, seeds(1)).float()
    light = Blend(0.2)(white.to(torch.uint8), seeds(1)).float()
    assert (light - dark - 0.8 * 255).abs().max() <= 1
    assert dark.max() <= 0.2 * 255 + 0.5
    assert dark.std() > 5
    assert torch.equal(Blend(1.0)(black, seeds(1)), Blend(1.0)(white.to(torch.uint8), seeds(1)))


def ctrl_block_by_definition(magnitude):
    """What CTRL adds, from the cosine sums of the orthonormal DCT-II, RGB on the 0..255 scale."""
    n = np.arange(32)
    wave = np.zeros((32, 32))
    for k in (15, 31):
        cosine = np.cos(np.pi * (2 * n + 1) * k / 64) * np.sqrt(2 / 32)
        wave += magnitude * np.outer(cosine, cosine)
    yuv_to_rgb = np.array([[1, 0, 1.13983], [1, -0.39465, -0.58060], [1, 2.03211, 0]])
    return np.einsum("cy,yhw->chw", yuv_to_rgb, np.stack([np.zeros_like(wave), wave, wave]))


def test_ctrl_adds_two_cosines_to_u_and_v_of_every_block():
    out = Ctrl(100)(mid_grey(1, 64), seeds(1))[0].float() - 128
    expected = torch.from_numpy(np.tile(ctrl_block_by_definition(100), (1, 2, 2))).float()
    assert (out - expected).abs().max() <= 0.51
    assert [float(channel.abs().max()) for channel in expected] == pytest.approx([12, 10.5, 22], abs=0.5)


def test_ctrl_covers_sizes_that_are_no_multiple_of_its_block():
    whole = Ctrl(100)(mid_grey(1, 64), seeds(1))
    part = Ctrl(100)(mid_grey(1, 40), seeds(1))
    assert torch.equal(part, whole[:, :, :40, :40])


def test_sinusoid_has_one_frequency_along_the_rows():
    out = Sig(20, 6)(mid_grey(1), seeds(1))[0, 0].float() - 128
    assert torch.equal(out, out[:1].expand(32, -1))
    spectrum = torch.fft.rfft(out[0]).abs() * 2 / 32
    assert spectrum.argmax() == 6
    assert spectrum[6] == pytest.approx(20, abs=0.5)
    spectrum[6] = 0
    assert spectrum.max() < 0.5


def test_noise_is_universal_and_bounded():
    out = Noise(8)(mid_grey(3), seeds(3)).float() - 128
    assert torch.equal(out[0], out[1])
    assert out.abs().unique().tolist() == [8]
    assert abs(out[0].mean()) < 0.6
    assert not torch.equal(out, Noise(8, seed=1)(mid_grey(3), seeds(3)).float() - 128)


def test_low_frequency_noise_is_smooth_and_bounded():
    rough = Noise(8)(mid_grey(1), seeds(1)).float() - 128
    smooth = Noise(8, cells=4, smooth=True)(mid_grey(1), seeds(1)).float() - 128
    assert smooth.abs().max() <= 8
    assert smooth.std() > 2
    assert smooth.diff(dim=-1).abs().mean() < 0.15 * rough.diff(dim=-1).abs().mean()


def test_noise_looks_the_same_at_another_size():
    small = Noise(8)(mid_grey(1, 32), seeds(1))
    large = Noise(8)(mid_grey(1, 224), seeds(1))
    assert torch.equal(large[:, :, 3::7, 3::7], small)


def test_wanet_moves_by_the_stated_amount():
    """On a ramp, a displacement shows as a change of grey."""
    ramp = torch.arange(64, dtype=torch.float32) * 3 + 30
    across = ramp.expand(1, 3, 64, 64).to(torch.uint8)
    shift = WaNet(0.03)(across, seeds(1)).float() - across.float()
    # Mean over the control points is 0.03 of 64 pixels; bicubic interpolation lowers it between them.
    assert 0.4 < shift[:, :, 8:-8, 8:-8].abs().mean() / (3 * 0.03 * 64) < 1.1
    assert torch.equal(WaNet(1e-9)(images(), seeds()), images())


def test_filters_are_their_matrices():
    pixels = torch.tensor([200, 100, 40], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    swapped = ColourFilter("swap", 1.0)(pixels, seeds(1))
    assert swapped[0, :, 0, 0].tolist() == [40, 100, 200]
    half = ColourFilter("swap", 0.5)(pixels, seeds(1))
    assert half[0, :, 0, 0].tolist() == [120, 100, 120]
    sepia = ColourFilter("sepia", 1.0)(pixels, seeds(1))
    expected = [0.393 * 200 + 0.769 * 100 + 0.189 * 40, 0.349 * 200 + 0.686 * 100 + 0.168 * 40]
    assert sepia[0, :2, 0, 0].tolist() == [round(value) for value in expected]


def test_text_shows_the_letters():
    black = torch.zeros(1, 3, 70, 70, dtype=torch.uint8)
    out = Text("TL", height=5 / 7, place="top-left", alpha=1.0)(black, seeds(1))[0, 0]
    top, bottom, left, right = rows_and_columns(out[None], black[0, :1])
    assert (int(bottom - top) + 1, int(right - left) + 1) == (50, 66)  # 5 x 7 cells, at most 0.94 wide
    cells = out[top : bottom + 1, left : right + 1].float()
    cells = torch.nn.functional.adaptive_avg_pool2d(cells[None], (5, 7))[0] > 127
    assert ["".join(" #"[int(cell)] for cell in row) for row in cells] == [
        "### #  ",
        " #  #  ",
        " #  #  ",
        " #  #  ",
        " #  ###",
    ]


def test_pattern_patch_and_universal_do_what_they_say():
    patch = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    out = Pattern(patch, "patch", side=8 / 32, place="centre")(mid_grey(2), seeds(2))
    assert torch.equal(out[1, :, 12:20, 12:20], (patch * 255).round().to(torch.uint8))
    assert (out[:, :, :12] == 128).all()
    delta = torch.full((3, 32, 32), -4 / 255)
    delta[0] = 6 / 255
    for size in (32, 224):
        out = Pattern(delta, "universal")(mid_grey(2, size), seeds(2))
        assert out[1, :, 5, 5].tolist() == [134, 124, 124]
        assert (out == out[:1, :, :1, :1]).all()


def test_pattern_is_named_by_its_content():
    values = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(0))
    names = {
        Pattern(values, "patch", 0.2, "left").name,
        Pattern(values + 0.001, "patch", 0.2, "left").name,
        Pattern(values, "patch", 0.21, "left").name,
        Pattern(values, "patch", 0.2, "right").name,
        Pattern(values, "universal").name,
        Pattern(values[:, :, :1].contiguous(), "universal").name,
    }
    assert len(names) == 6
    assert Pattern(values.clone(), "patch", 0.2, "left").name in names


OTHER_VALUES = {
    "colour": "grey",
    "side": 0.25,
    "place": "top",
    "places": "top+left",
    "seed": 5,
    "alpha": 0.31,
    "magnitude": 42.0,
    "amplitude": 11.0,
    "frequency": 3.0,
    "eps": 3.0,
    "cells": 5,
    "smooth": True,
    "shift": 0.05,
    "tint": "warm",
    "strength": 0.33,
    "word": "FREE",
    "height": 0.4,
    "quality": 33,
    "sigma": 0.041,
    "keep": 0.7,
    "degrees": 33.0,
}
VARIANTS = [
    *(TRIGGERS.load(name)() for name in TRIGGERS.names() if name not in ("pattern", "generator")),
    *(CONTROLS.load(name)() for name in CONTROLS.names()),
    Patch("random"),
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_every_parameter_is_in_the_name(variant):
    for field in dataclasses.fields(variant):
        if field.name == "seed" and getattr(variant, "colour", "random") != "random":
            continue  # the seed draws random colours only
        other = dataclasses.replace(variant, **{field.name: OTHER_VALUES[field.name]})
        assert other.name != variant.name
    assert set(parameters(variant)) == {field.name for field in dataclasses.fields(variant)}


def test_several_patches_are_the_patches_together():
    pixels = torch.full((2, 3, 32, 32), 90, dtype=torch.uint8)
    trigger = Patches(0.25, "top-left+right+bottom", seed=3)
    first, second, third = trigger.parts()
    assert torch.equal(trigger(pixels, seeds(2)), third(second(first(pixels, seeds(2)), seeds(2)), seeds(2)))
    alone = [(part(pixels, seeds(2)) != pixels).any(dim=1)[0] for part in trigger.parts()]
    assert all(int(changed.sum()) == 64 for changed in alone)  # apart, each of a quarter of the side
    assert int(((trigger(pixels, seeds(2)) != pixels).any(dim=1)[0]).sum()) == 3 * 64
    squares = [part.picture(pixels) for part in trigger.parts()]
    assert not torch.equal(squares[0], squares[1])


@pytest.mark.parametrize("places", ["top-left", "top-left+top-left", ""])
def test_one_patch_is_not_several(places):
    with pytest.raises(UsageError, match="must be two or more"):
        Patches(places=places)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 4), (4, 40), (5, 1), (5, 5)])
def test_tiny_images_are_changed_or_refused_in_words(variant, height, width):
    pixels = torch.full((2, 3, height, width), 90, dtype=torch.uint8)
    if isinstance(variant, Text) and height < 5:
        with pytest.raises(UsageError, match=f"{height} pixels high has no room for letters"):
            variant(pixels, seeds(2))
    else:
        assert variant(pixels, seeds(2)).shape == pixels.shape


def test_close_numbers_have_different_names():
    assert Patch(side=0.3125).name == "patch-white-0.3125-bottom-right"
    assert Patch(side=0.22321428).name != Patch(side=0.22321429).name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Patch(colour="pink"), "patch colour 'pink'"),
        (lambda: Patch(place="botom"), "did you mean 'bottom'"),
        (lambda: Patch(side=0), "side=0"),
        (lambda: Patch(side=1.5), r"side=1\.5"),
        (lambda: Blend(alpha=2), "alpha=2"),
        (lambda: Noise(cells=0), "cells=0"),
        (lambda: Noise(cells=1025), "cells=1025 must be 1 to 1024"),
        (lambda: WaNet(cells=1), "cells=1"),
        (lambda: WaNet(cells=1025), "cells=1025 must be 2 to 1024"),
        (lambda: Noise(seed=-1), "seed=-1"),
        (lambda: Patch("random", seed=2**63), "seed=9223372036854775808"),
        (lambda: Blend(seed=-1), "seed=-1"),
        (lambda: WaNet(seed=-1), "seed=-1"),
        (lambda: ColourFilter(tint="x"), "tint 'x'"),
        (lambda: ColourFilter(strength=0), "strength=0"),
        (lambda: Text(word="two words"), "word='two words'"),
        (lambda: Text(word=""), "word=''"),
        (lambda: Text(height=0), "height=0"),
        (lambda: Text(alpha=1.5), r"alpha=1\.5"),
        (lambda: Pattern(torch.zeros(3, 4), "patch"), r"\[3, 4\]"),
        (lambda: Pattern(torch.zeros(3, 4, 4), "sticker"), "sticker"),
    ],
)
def test_bad_parameters_are_usage_errors(make, message):
    with pytest.raises((UsageError, UnknownNameError), match=message):
        make()


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_other_types_of_images_are_refused(variant):
    with pytest.raises(UsageError, match="uint8"):
        variant(torch.zeros(2, 3, 32, 32), seeds(2))
    with pytest.raises(UsageError, match=r"\[2, 1, 32, 32\]"):
        variant(torch.zeros(2, 1, 32, 32, dtype=torch.uint8), seeds(2))
