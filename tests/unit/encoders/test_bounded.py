"""Encoders in parts: how many images fit is known beforehand, and parts change nothing but rounding."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from platodef_cli.encoders.bounded import BoundedEncoder, Parts, at_once, bounded, parts_of, smallest_limit
from platodef_cli.encoders.footprint import Footprint, measure
from platodef_cli.encoders.geometry import Geometry
from platodef_cli.encoders.load import open_encoder
from platodef_cli.errors import OutOfMemoryError
from tests.contract import encoder_models as make

SIDE = 8
GB = 2**30
PIXELS = torch.rand(11, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


class Small:
    """Runs out of memory with more images at once than it is told."""

    record = SimpleNamespace(name="small")
    geometry = Geometry((SIDE, SIDE), SIDE, "bilinear")
    dim = 4

    def __init__(self, most: int, most_backward: int | None = None):
        self.weight = torch.randn(4, 3 * SIDE * SIDE, generator=torch.Generator().manual_seed(1))
        self.most, self.most_backward = most, most if most_backward is None else most_backward
        self.calls: list[int] = []

    def differentiable(self, pixels: Tensor) -> Tensor:
        self.calls.append(len(pixels))
        if len(pixels) > self.most:
            raise OutOfMemoryError("too much")
        features = (pixels.flatten(1) @ self.weight.T).sin()
        if features.requires_grad and len(pixels) > self.most_backward:
            features.register_hook(self._fail)
        return features

    def embed(self, pixels: Tensor) -> Tensor:
        with torch.no_grad():
            return self.differentiable(pixels.float() / 255)

    def close(self) -> None:
        self.calls.clear()

    @staticmethod
    def _fail(gradient: Tensor) -> Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")


def spread(features: Tensor) -> Tensor:
    """A loss that no image has for itself."""
    return (features @ features.T).square().sum()


def value_and_gradient(compute: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    shift = torch.zeros(3, SIDE, SIDE, requires_grad=True)
    value = spread(compute((PIXELS + shift).clamp(0, 1)))
    (gradient,) = torch.autograd.grad(value, shift)
    return value.detach(), gradient


@pytest.mark.parametrize("part", [1, 3, 4, 11, 64])
def test_parts_give_the_features_and_gradients_of_the_whole(part: int) -> None:
    encoder = BoundedEncoder(Small(part), Parts(part, part), pytest.fail)
    value, gradient = value_and_gradient(encoder.differentiable)
    expected_value, expected = value_and_gradient(Small(64).differentiable)
    assert torch.allclose(value, expected_value, rtol=1e-5)
    assert torch.allclose(gradient, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    images = (255 * PIXELS).to(torch.uint8)
    assert torch.allclose(encoder.embed(images), Small(64).embed(images), atol=1e-5)
    assert max(encoder.encoder.calls) <= part


def test_images_that_fit_run_once_and_of_the_others_the_last_part_does() -> None:
    fits = BoundedEncoder(Small(64), Parts(64, 64), pytest.fail)
    value_and_gradient(fits.differentiable)
    assert fits.encoder.calls == [11]
    parts = BoundedEncoder(Small(64), Parts(64, 4), pytest.fail)
    value_and_gradient(parts.differentiable)
    assert parts.encoder.calls == [
        7,
        4,
        4,
        3,
    ]  # all but the last four, those with their graph, the rest again


@pytest.mark.parametrize(("most", "backward"), [(3, 3), (5, 2), (11, 1)])
def test_memory_that_runs_out_halves_the_parts_and_says_so(most: int, backward: int) -> None:
    warned: list[str] = []
    encoder = BoundedEncoder(Small(most, backward), Parts(64, 64), warned.append)
    value, gradient = value_and_gradient(encoder.differentiable)
    expected_value, expected = value_and_gradient(Small(64).differentiable)
    assert torch.allclose(value, expected_value, rtol=1e-5)
    assert torch.allclose(gradient, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert 1 <= encoder.parts.backward <= backward
    assert warned
    assert all("'small' ran out of memory" in warning for warning in warned)
    told = len(warned)
    value_and_gradient(encoder.differentiable)
    assert len(warned) == told  # it has learnt


def test_memory_that_runs_out_without_gradients_halves_too() -> None:
    warned: list[str] = []
    encoder = BoundedEncoder(Small(3), Parts(64, 64), warned.append)
    images = (255 * PIXELS).to(torch.uint8)
    assert torch.allclose(encoder.embed(images), Small(64).embed(images), atol=1e-5)
    assert encoder.parts.forward == 2
    assert len(warned) == 2


@pytest.mark.parametrize("gradients", [False, True])
def test_a_single_image_that_does_not_fit_ends_with_advice(gradients: bool) -> None:
    encoder = BoundedEncoder(Small(0), Parts(2, 2), lambda warning: None)
    with pytest.raises(OutOfMemoryError, match="a single image of 8x8 pixels; raise --memory-limit"):
        encoder.differentiable(PIXELS.clone().requires_grad_(gradients))


def test_no_images_have_no_features() -> None:
    assert BoundedEncoder(Small(4), Parts(2, 2), pytest.fail).embed(torch.zeros(0, 3, 8, 8).byte()).shape == (
        0,
        4,
    )


def test_what_else_an_encoder_has_is_passed_on() -> None:
    encoder = BoundedEncoder(Small(4), Parts(3, 2), pytest.fail)
    assert encoder.most == 4
    assert not hasattr(encoder, "head_terms")
    assert (at_once(encoder, 64), at_once(encoder, 64, gradients=True), at_once(encoder, 1)) == (3, 2, 1)
    assert at_once(Small(4), 64) == 64
    encoder.close()
    assert encoder.encoder.calls == []


sizes = st.integers(1, 40 * GB)


@given(sizes, sizes, sizes, st.floats(0.5, 1000), st.integers(1, 4096), st.booleans())
def test_the_limit_that_is_advised_is_enough_and_more_holds_no_less(
    weights: int, forward: int, backward: int, limit: float, most: int, gradients: bool
) -> None:
    footprint = Footprint(weights, forward, backward)
    parts = parts_of(footprint, limit, most, gradients=gradients)
    advised = smallest_limit(footprint, gradients=gradients)
    assert parts_of(footprint, advised, most, gradients=gradients) is not None
    if parts is None:
        assert advised > limit
        return
    assert 1 <= parts.backward <= most
    assert 1 <= parts.forward <= most
    taken = weights + (backward * parts.backward if gradients else forward * parts.forward)
    assert taken <= limit * GB
    more = parts_of(footprint, 2 * limit, most, gradients=gradients)
    assert more is not None
    assert more.backward >= parts.backward
    assert more.forward >= parts.forward


def test_what_a_network_keeps_is_counted_per_image() -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 64, 2))
    network.requires_grad_(False)
    footprint = measure(network, (SIDE, SIDE), weights=7)
    assert footprint.weights == 7
    image, maps = 4 * 3 * 64, 4 * 5 * 64
    # the convolution keeps its input, ReLU its output; a linear map with frozen weights keeps nothing
    assert footprint.backward == image + maps
    assert footprint.forward == 6 * maps


def test_measuring_keeps_nothing_and_gives_the_same_in_a_child(tmp_path: Path) -> None:
    make.timm_model(tmp_path / "model")
    with (
        open_encoder(str(tmp_path / "model")) as here,
        open_encoder(str(tmp_path / "model"), isolate=True) as there,
    ):
        assert here.footprint() == here.footprint() == there.footprint()
        weights = sum(value.nbytes for value in here._tower.module.state_dict().values())
        assert here.footprint().weights == weights


def test_a_child_that_runs_out_of_its_limit_goes_on_with_half(tmp_path: Path) -> None:
    """Where memory was measured wrongly, the features are those of one that has enough."""
    make.timm_model(tmp_path / "model")
    pixels = torch.randint(0, 256, (40_000, 3, 32, 32), dtype=torch.uint8)
    told: list[str] = []
    with open_encoder(str(tmp_path / "model"), isolate=True, memory_limit_gb=0.5) as encoder:
        inside = BoundedEncoder(encoder, Parts(40_000, 40_000), told.append)
        found = inside.embed(pixels)
        again = inside.embed(pixels[:100])
    assert 1 <= len(told) <= 8
    assert "ran out of memory with 40000 images at once, and goes on with 20000 at once" in told[0]
    assert inside.parts.forward == 40_000 >> len(told)
    with open_encoder(str(tmp_path / "model")) as here:
        assert torch.allclose(found[:100], here.embed(pixels[:100]), atol=1e-5)
        assert torch.allclose(found[-100:], here.embed(pixels[-100:]), atol=1e-5)
    assert torch.allclose(again, found[:100], atol=1e-5)


def test_a_limit_that_is_too_small_is_told_at_once_and_the_advised_one_works(tmp_path: Path) -> None:
    """At 800 pixels one image of a small ResNet needs more than the smallest limit."""
    size = (800, 800)
    make.timm_model(tmp_path / "model", "resnet10t", {}, input_size=(3, *size))
    with open_encoder(str(tmp_path / "model")) as encoder:
        need = smallest_limit(encoder.footprint())
    assert need > 0.5
    with (
        open_encoder(str(tmp_path / "model"), isolate=True, memory_limit_gb=0.5) as encoder,
        pytest.raises(
            OutOfMemoryError, match=f"of 0.5 GB does not hold.*800x800.*--memory-limit {need:g} or"
        ),
    ):
        bounded(encoder, limit_gb=0.5, most=64, warn=pytest.fail)
    with open_encoder(str(tmp_path / "model"), isolate=True, memory_limit_gb=need) as encoder:
        inside = bounded(encoder, limit_gb=need, most=64, warn=pytest.fail)
        pixels = torch.rand(3, 3, *size).requires_grad_(True)
        inside.differentiable(pixels).sum().backward()
        assert torch.isfinite(pixels.grad).all()
