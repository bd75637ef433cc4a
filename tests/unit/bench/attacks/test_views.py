import pytest
import torch

from platodef_cli.bench.attacks.views import flip, jitter, random_window, two_views, window


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 6, height: int = 16, width: int = 24) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=generator(9))


def test_a_window_on_whole_pixels_is_a_slice():
    unit = pictures(2)
    corner, side = torch.tensor([[3.0, 5.0], [0.0, 8.0]]), torch.tensor([[8.0, 16.0], [16.0, 16.0]])
    out = window(unit, corner, side, (8, 16))
    assert torch.allclose(out[0], unit[0, :, 3:11, 5:21], atol=1e-5)
    halved = torch.nn.functional.interpolate(unit[1:, :, :, 8:24], (8, 16), mode="bilinear")[0]
    assert torch.allclose(out[1], halved, atol=1e-5)


def test_flips_mirror_about_half_of_the_images_and_nothing_else():
    unit = pictures(400, 2, 3)
    out = flip(unit, generator())
    mirrored = (out == unit.flip(-1)).flatten(1).all(1)
    kept = (out == unit).flatten(1).all(1)
    assert (mirrored ^ kept).all()
    assert 150 < mirrored.sum() < 250


def test_jitter_keeps_the_range_and_makes_some_images_grey():
    out = jitter(pictures(300), generator(), grey=0.2)
    assert out.min() >= 0
    assert out.max() <= 1
    grey = (out.amax(1) - out.amin(1)).flatten(1).amax(1) < 1e-6
    assert 30 < grey.sum() < 95
    assert torch.allclose(jitter(pictures(), generator(), strength=0.0, grey=0.0), pictures(), atol=1e-6)


def test_random_windows_stay_inside_and_are_as_large_as_asked():
    """On a ramp, the span of a window is its side."""
    ramp = ((torch.arange(32) + 0.5) / 32).expand(200, 3, 32, 32).contiguous()
    out = random_window(ramp, generator(), least=0.5)
    span = (out[:, 0, 0, -1] - out[:, 0, 0, 0]) * 32 / 31
    assert span.min() > 0.48
    assert span.max() < 1.01
    assert span.std() > 0.1
    assert torch.allclose(random_window(ramp, generator(), least=1.0), ramp, atol=1e-5)


def test_views_differ_repeat_and_carry_gradients():
    unit = pictures().requires_grad_(True)
    one, two = two_views(unit, generator())
    assert not torch.equal(one, two)
    again = two_views(unit, generator())
    assert torch.equal(one, again[0])
    assert torch.equal(two, again[1])
    one.sum().backward()
    assert unit.grad is not None
    assert unit.grad.abs().sum() > 0


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (3, 3, 32, 16)])
def test_shapes_are_kept(shape):
    unit = torch.rand(shape)
    assert two_views(unit, generator())[0].shape == unit.shape
