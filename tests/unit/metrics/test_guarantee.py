import math

import pytest
import torch
from torch import Tensor

from platodef_cli.errors import UsageError
from platodef_cli.metrics.guarantee import guarantee, sub_gaussian_parameter
from tests.gaussian_tuples import GaussianTuples


def optimal_energies(gaussian: GaussianTuples, count: int, negatives: int) -> tuple[Tensor, Tensor]:
    """Exact ``ln p(s) - ln p(s | r)`` of matched tuples and of K sources from other images."""
    tuples = gaussian.sample(count, seed=0)
    mean, variance = gaussian.mean(dict(tuples.references)), 1 - gaussian.correlation**2

    def energy(source: Tensor) -> Tensor:
        quadratic = (source - mean).square().sum(dim=1) / variance - source.square().sum(dim=1)
        return 0.5 * quadratic + 0.5 * gaussian.dim * math.log(variance)

    generator = torch.Generator().manual_seed(1)
    others = [energy(tuples.source[torch.randperm(count, generator=generator)]) for _ in range(negatives)]
    return energy(tuples.source), torch.stack(others, dim=1)


@pytest.mark.parametrize("correlation", [0.3, 0.6, 0.9])
def test_gap_and_information_in_a_gaussian_world(correlation: float) -> None:
    gaussian = GaussianTuples(correlation)
    matched, mismatched = optimal_energies(gaussian, 20_000, 63)
    found = guarantee(matched, mismatched)
    assert found.gap == pytest.approx(gaussian.energy_gap, rel=0.05)
    assert found.gap >= gaussian.mutual_information  # Proposition 1
    assert found.mutual_information <= gaussian.mutual_information + 0.02
    assert found.mutual_information <= found.mutual_information_limit == pytest.approx(math.log(64))
    if gaussian.mutual_information < 2:
        assert found.mutual_information == pytest.approx(gaussian.mutual_information, rel=0.1)


def test_bounds_hold_for_sub_gaussian_energies() -> None:
    generator = torch.Generator().manual_seed(0)
    matched = torch.randn(5000, generator=generator)
    mismatched = 5.0 + torch.randn(5000, 2, generator=generator)
    found = guarantee(matched, mismatched)
    assert found.sub_gaussian == pytest.approx(1.0, abs=0.1)
    assert found.threshold == pytest.approx(2.5, abs=0.05)
    expected = math.exp(-((found.gap / found.sub_gaussian) ** 2) / 8)
    assert found.error_bound == pytest.approx(expected)
    assert found.auroc_bound == pytest.approx(1 - 2 * expected)
    assert found.auroc_bound_tight == pytest.approx(1 - expected**2)
    assert found.false_positive <= found.error_bound
    assert found.miss <= found.error_bound
    assert found.auroc >= found.auroc_bound_tight >= found.auroc_bound


def test_without_a_gap_the_bounds_are_trivial() -> None:
    found = guarantee(torch.tensor([3.0, 4.0]), torch.tensor([[1.0], [2.0]]))
    assert found.gap == -2.0
    assert (found.error_bound, found.auroc_bound, found.auroc) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("power", [1, 2])
def test_sub_gaussian_parameter_dominates_the_empirical_cumulants(power: int) -> None:
    values = torch.randn(3000, generator=torch.Generator().manual_seed(0)).double() ** power
    found = sub_gaussian_parameter(values)
    centred = values - values.mean()
    for t in torch.linspace(-20, 20, 401).double():
        cumulant = float((t * centred).logsumexp(dim=0)) - math.log(3000)
        assert cumulant <= float(t) ** 2 * found**2 / 2 * 1.001 + 1e-9
    assert found >= float(values.std()) * 0.999


def test_rademacher_has_parameter_one() -> None:
    assert sub_gaussian_parameter(torch.tensor([-1.0, 1.0] * 50)) == pytest.approx(1.0, abs=1e-6)
    assert sub_gaussian_parameter(torch.ones(5)) == 0.0


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\(3,\) and \(3,\)"):
        guarantee(torch.zeros(3), torch.zeros(3))
    with pytest.raises(UsageError, match="finite"):
        guarantee(torch.zeros(3), torch.full((3, 1), float("nan")))
