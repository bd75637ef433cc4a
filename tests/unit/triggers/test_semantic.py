"""Changes without a pattern do what their names say, on images that are not square too."""

import pytest
import torch

from platodef_cli.errors import UsageError
from platodef_cli.triggers.semantic import Flip, Greyscale, Rotation

SEEDS = torch.zeros(1, dtype=torch.int64)


def bar(height: int, width: int) -> torch.Tensor:
    """One vertical white line through the centre."""
    pixels = torch.zeros(1, 3, height, width, dtype=torch.uint8)
    pixels[..., width // 2] = 255
    return pixels


def test_grey_images_have_the_luma_of_their_colours_in_every_channel() -> None:
    pixels = torch.tensor([255, 128, 0], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 4, 5)
    grey = Greyscale()(pixels, SEEDS)
    assert torch.equal(grey, torch.full_like(grey, round(0.299 * 255 + 0.587 * 128)))
    assert torch.equal(Greyscale()(grey, SEEDS), grey)


def test_a_mirrored_image_mirrored_is_the_image() -> None:
    pixels = torch.randint(0, 256, (2, 3, 5, 6), dtype=torch.uint8)
    assert torch.equal(Flip()(pixels, SEEDS)[..., 0], pixels[..., -1])
    assert torch.equal(Flip()(Flip()(pixels, SEEDS), SEEDS), pixels)


@pytest.mark.parametrize("size", [(33, 33), (33, 65), (65, 33)])
def test_a_quarter_turn_lays_a_line_down_and_a_whole_one_changes_nothing(size: tuple[int, int]) -> None:
    pixels = bar(*size)
    assert torch.equal(Rotation(0)(pixels, SEEDS), pixels)
    turned = Rotation(90)(pixels, SEEDS)
    # through the centre, from left to right, one pixel thick whatever the sides are
    assert (turned[0, :, size[0] // 2] == 255).all()
    assert (turned[0, :, size[0] // 2 - 2] == 0).all()
    turned = Rotation(45)(pixels, SEEDS)[0, 0].float()
    middle = (size[0] // 2, size[1] // 2)
    assert turned[middle[0] - 5, middle[1] - 5] > 100  # counter-clockwise: the upper end goes left
    assert turned[middle[0] - 5, middle[1] + 5] == 0
    with pytest.raises(UsageError, match="degrees=200"):
        Rotation(200)
