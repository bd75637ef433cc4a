"""Half of a symmetric product is the whole, and neighbours by threshold are those of a sorted row."""

import pytest
import torch

from platodef_cli.metrics import kernels
from platodef_cli.metrics.linear_probe import LinearProbe
from platodef_cli.metrics.products import all_finite, gram, gram_power


@pytest.mark.parametrize("shape", [(10, 3), (5000, 20), (40, 600), (300, 513)])
def test_half_of_a_product_is_the_whole(shape: tuple[int, int]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    exact = x.double().T @ x.double()
    assert torch.allclose(gram(x), exact, atol=1e-3, rtol=1e-5)
    assert gram_power(x) == pytest.approx(float(exact.square().sum()), rel=1e-5)


def test_one_value_that_is_no_number_is_found_and_large_ones_are_numbers() -> None:
    x = torch.full((50, 7), 3e38)  # whose sum overflows
    assert all_finite(x)
    for wrong in (torch.nan, torch.inf, -torch.inf):
        y = torch.zeros(50, 7)
        y[33, 2] = wrong
        assert not all_finite(y)
        y[34, 2] = -wrong
        assert not all_finite(y)


@pytest.mark.parametrize("block", [300, 4000, 2**22])  # one row of a block, several blocks, one block
@pytest.mark.parametrize("k", [2, 10])
def test_neighbours_are_those_of_sorted_rows(block: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(211, 12, generator=torch.Generator().manual_seed(1))
    # rows that come late beat those that came early, and the other way round
    x[150:] *= 3
    x[:20] *= 5
    monkeypatch.setattr(kernels, "_BLOCK", block)
    best, index = kernels._search(x, k)
    similar = x @ x.T
    similar.fill_diagonal_(-torch.inf)
    expected = similar.topk(k, dim=1)
    assert torch.allclose(best, expected.values, atol=1e-5)
    assert torch.equal(index, expected.indices)


def test_a_probe_of_features_far_from_zero_is_that_of_centred_ones() -> None:
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(0, 4, (3000,), generator=generator)
    centres = torch.randn(4, 15, generator=generator)
    x = centres[labels] + torch.randn(3000, 15, generator=generator)
    # sorted by class: the first rows are no sample of the rest
    order = labels.argsort()
    plain = LinearProbe.fit(x[order], labels[order])
    moved = LinearProbe.fit(x[order] * 3 + 200, labels[order])
    assert plain.penalty == moved.penalty
    assert torch.allclose(plain.scores(x), moved.scores(x * 3 + 200), atol=2e-3)
