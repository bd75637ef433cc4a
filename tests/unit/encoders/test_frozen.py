"""Batch normalisation of frozen encoders: the library's values and gradients, without keeping its input."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from platodef_cli.encoders.footprint import measure
from platodef_cli.encoders.frozen import FrozenNorms


def norm(*, affine: bool = True, frozen: bool = True, training: bool = False) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    module = nn.BatchNorm2d(5, affine=affine, eps=1e-3)
    for value in (*module.parameters(), *module.buffers()):
        if value.is_floating_point():
            value.data = 0.5 + torch.rand(5, generator=generator)
    return module.train(training).requires_grad_(not frozen)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_are_the_librarys_and_so_are_gradients(
    affine: bool, inplace: bool, layout: torch.memory_format
) -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 3), norm(affine=affine), nn.ReLU6(inplace), nn.Conv2d(5, 2, 3))
    network.requires_grad_(False)
    images = torch.rand(4, 3, 9, 9, generator=torch.Generator().manual_seed(1)).to(memory_format=layout)

    def both() -> tuple[Tensor, Tensor]:
        leaf = images.clone().requires_grad_(True)
        result = network(leaf)
        (gradient,) = torch.autograd.grad(result.square().sum(), leaf)
        return result.detach(), gradient

    expected = both()
    with FrozenNorms():
        value, gradient = both()
    assert torch.equal(value, expected[0])
    assert torch.allclose(gradient, expected[1], rtol=1e-5, atol=1e-6)


def test_what_learns_or_has_no_statistics_is_left_to_the_library() -> None:
    images = torch.rand(6, 5, 4, 4, generator=torch.Generator().manual_seed(2)).requires_grad_(True)
    for module in (norm(frozen=False), norm(frozen=False, training=True), norm(training=True)):
        kept = [value.clone() for value in module.buffers()]
        expected = module(images)
        for value, before in zip(module.buffers(), kept, strict=True):
            value.copy_(before)
        with FrozenNorms():
            assert torch.equal(module(images), expected)
            assert module(images).grad_fn.name() == expected.grad_fn.name()
    with FrozenNorms():
        assert torch.equal(
            F.batch_norm(images, None, None, training=True), F.batch_norm(images, None, None, training=True)
        )
        assert not norm()(images.detach()).requires_grad


def test_the_input_is_not_kept() -> None:
    network = nn.Sequential(*(norm() for _ in range(4)), nn.Flatten())

    def run(images: Tensor) -> Tensor:
        return network(images.mean(dim=1, keepdim=True).expand(-1, 5, -1, -1) * 1.0)

    def frozen(images: Tensor) -> Tensor:
        with FrozenNorms():
            return run(images)

    assert measure(run, (16, 16), 0).backward >= 4 * 5 * 16 * 16 * 4
    assert measure(frozen, (16, 16), 0).backward == 3 * 16 * 16 * 4  # an image's own size is the least
