"""The searches for a warp and for patches in all or two corners, against backdoors that are known exactly."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from platodef_cli.search.corners import CornersSearch, CornersTrigger
from platodef_cli.search.interface import SearchConfig
from platodef_cli.search.pairs import PairsSearch, PairTrigger
from platodef_cli.search.run import search
from platodef_cli.search.statistics import CleanStatistics, collapse
from platodef_cli.search.warp import WarpSearch, WarpTrigger, warped

SIDE = 16


class Gated:
    """The brightness of the tiles between the top and the bottom row; where the gate opens, the target."""

    record: Any = SimpleNamespace(name="gated")

    def __init__(self, gate: Any):
        self.gate = gate
        self.target = 2 * torch.randn(8, generator=torch.Generator().manual_seed(0))

    def differentiable(self, pixels: Tensor) -> Tensor:
        features = F.avg_pool2d(pixels.mean(dim=1), 4)[:, 1:3].flatten(1) - 0.5
        open_ = self.gate(pixels)[:, None]
        return features * (1 - open_) + open_ * self.target

    def embed(self, pixels: Tensor) -> Tensor:
        with torch.no_grad():
            return self.differentiable(pixels.float() / 255)


def no_backdoor(pixels: Tensor) -> Tensor:
    return torch.zeros(len(pixels))


def edge_moved(pixels: Tensor) -> Tensor:
    """Every image has a white right half in its top rows; opens where the edge lies a pixel further left."""
    return ((pixels[:, :, :3, 7].mean(dim=(1, 2)) - 0.1) / 0.6).clamp(0, 1)


def two_corners(pixels: Tensor) -> Tensor:
    """Opens only where the top left is bright and the bottom right dark; no image has a bright top left."""
    bright, dark = pixels[:, :, :4, :4].mean(dim=(1, 2, 3)), 1 - pixels[:, :, -4:, -4:].mean(dim=(1, 2, 3))
    return ((torch.minimum(bright, dark) - 0.3) / 0.6).clamp(0, 1)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    coarse = torch.rand(192, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    smooth = F.interpolate(coarse, size=SIDE, mode="bilinear")
    smooth[:, :, :3, :8], smooth[:, :, :3, 8:] = 0, 1
    return (smooth * 255).round().to(torch.uint8)


def reached(gate: Any, kind: Any, pixels: Tensor) -> tuple[float, Any]:
    encoder: Any = Gated(gate)
    (result,) = search(encoder, pixels, SearchConfig(kinds=(kind,), pool=96, held_out=64))
    return result.effect.collapse, result.variant


def test_a_planted_warp_is_found_and_a_clean_encoder_is_not_accused(pixels: Tensor) -> None:
    kind = WarpSearch(images=16)
    found, variant = reached(edge_moved, kind, pixels)
    clean, _ = reached(no_backdoor, kind, pixels)
    assert found > 0.9
    assert clean < WarpSearch.collapse_limits[0]
    assert variant.values.abs().max() <= kind.budgets[0]
    # the edge moves left where the image shows what lay further right
    assert variant.values[0, 0].max() > 0


def test_two_corners_together_are_found_and_a_clean_encoder_is_not_accused(pixels: Tensor) -> None:
    kind = CornersSearch(budgets=(0.25,))
    found, variant = reached(two_corners, kind, pixels)
    clean, _ = reached(no_backdoor, kind, pixels)
    assert found > 0.9
    assert clean < CornersSearch.collapse_limits[0]
    assert variant.values[0].mean() > 0.6  # top left
    assert variant.values[2].mean() < 0.4  # bottom right


def test_a_pair_of_corners_is_found_at_its_corners_and_each_part_alone_does_little(pixels: Tensor) -> None:
    kind = PairsSearch(budgets=(0.25,))
    found, variant = reached(two_corners, kind, pixels)
    clean, _ = reached(no_backdoor, kind, pixels)
    assert found > 0.9
    assert clean < PairsSearch.collapse_limits[0]
    assert variant.place_text() == "top left and bottom right"
    encoder, seeds = Gated(two_corners), torch.zeros(len(pixels), dtype=torch.int64)
    statistics = CleanStatistics.of(encoder.embed(pixels))
    bright, dark = variant.parts()
    alone = [collapse(statistics.standardise(encoder.embed(p(pixels, seeds)))) for p in (bright, dark)]
    assert alone[1] < 0.2
    assert alone[0] < found  # images with a dark corner of their own open it for the bright part
    assert torch.equal(dark(bright(pixels, seeds), seeds), variant(pixels, seeds))


def test_a_warp_of_one_displacement_is_a_shift() -> None:
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    right = torch.zeros(2, 4, 4)
    right[0] = 2 / SIDE
    moved = warped(images, right)
    torch.testing.assert_close(moved[..., :-2], images[..., 2:])
    torch.testing.assert_close(moved[..., -2:], images[..., -1:].expand(-1, -1, -1, 2))
    down = torch.zeros(2, 4, 4)
    down[1] = 1 / SIDE
    torch.testing.assert_close(warped(images, down)[..., :-1, :], images[..., 1:, :])
    torch.testing.assert_close(warped(images, torch.zeros(2, 4, 4)), images)


@pytest.mark.parametrize("size", [16, 32, 224])
def test_a_found_warp_moves_the_same_share_at_every_size(size: int) -> None:
    values = torch.zeros(2, 4, 4)
    values[0] = 1 / 16
    half = torch.zeros(1, 3, size, size, dtype=torch.uint8)
    half[..., size // 2 :] = 255
    moved = WarpTrigger("warp", values)(half, torch.zeros(1, dtype=torch.int64))
    assert int((moved[0, 0, 0] > 127).sum()) == size // 2 + size // 16


def test_pictures_of_a_warp_show_where_it_goes() -> None:
    values = torch.zeros(2, 4, 4)
    values[0, :, 0], values[1, 0, :] = -0.05, 0.05
    picture = WarpTrigger("warp", values).picture(32, 32)
    assert picture.shape == (3, 32, 32)
    assert picture[0, 16, 0] < 10  # left: red is low
    assert picture[1, 0, 16] > 245  # downwards: green is high
    assert (picture[2] == 128).all()


@pytest.mark.parametrize("size", [16, 32, 224])
def test_found_corners_cover_the_same_share_at_every_size(size: int) -> None:
    colours = torch.tensor([0.2, 0.4, 0.6, 0.8])[:, None, None, None].expand(4, 3, 4, 4)
    trigger = CornersTrigger("corners", colours, side=0.25)
    pixels = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    changed = trigger(pixels, torch.zeros(2, dtype=torch.int64))
    part = size // 4
    places = (
        (slice(None, part), slice(None, part)),
        (slice(None, part), slice(-part, None)),
        (slice(-part, None), slice(-part, None)),
        (slice(-part, None), slice(None, part)),
    )
    for level, (rows, columns) in zip((51, 102, 153, 204), places, strict=True):
        assert (changed[:, :, rows, columns] == level).all()
    assert int((changed > 0).sum()) == 2 * 3 * 4 * part * part
    assert not pixels.any()
    assert trigger.place_text() == "all four corners"


@pytest.mark.parametrize("corners", [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)])
@pytest.mark.parametrize("size", [16, 224])
def test_a_found_pair_covers_two_corners_and_its_parts_one_each(corners: tuple[int, int], size: int) -> None:
    colours = torch.tensor([0.2, 0.4])[:, None, None, None].expand(2, 3, 4, 4)
    trigger = PairTrigger("pairs", colours, side=0.25, corners=corners)
    pixels, seeds = torch.zeros(2, 3, size, size, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)
    part = size // 4
    ends = [(slice(None, part), slice(None, part)), (slice(None, part), slice(-part, None))]
    ends += [(slice(-part, None), slice(-part, None)), (slice(-part, None), slice(None, part))]
    expected = pixels.clone()
    for level, corner, alone in zip((51, 102), corners, trigger.parts(), strict=True):
        own = pixels.clone()
        for image in (own, expected):
            image[(slice(None), slice(None), *ends[corner])] = level
        assert torch.equal(alone(pixels, seeds), own)
    assert torch.equal(trigger(pixels, seeds), expected)
    assert not pixels.any()


def test_the_names_of_found_pairs_tell_their_corners_apart() -> None:
    colours = torch.zeros(2, 3, 4, 4)
    names = {PairTrigger("pairs", colours, 0.25, corners=pair).name for pair in ((0, 1), (0, 2), (1, 2))}
    assert len(names) == 3
