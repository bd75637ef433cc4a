import math

import pytest
import torch
from torch import Tensor

from platodef_cli.defences.samplers import SAMPLERS, dpmpp, euler, heun, karras_sigmas, langevin
from platodef_cli.errors import UsageError


class GaussianDenoiser:
    """The optimal denoiser of N(mean, diag(variance)), counting its evaluations."""

    def __init__(self, mean: Tensor, variance: Tensor):
        self.mean, self.variance, self.evaluations = mean, variance, 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.evaluations += 1
        return self.mean + self.variance / (self.variance + sigma**2) * (x - self.mean)

    def exact(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The end of the probability flow that starts at ``x``."""
        return self.mean + (self.variance / (self.variance + sigma**2)).sqrt() * (x - self.mean)


def amplitude(sampler: object, steps: int) -> float:
    """Final amplitude relative to the exact flow, unit variance, sigma 0.002..80."""
    sigmas = karras_sigmas(steps, 0.002, 80.0).double()
    oracle = GaussianDenoiser(torch.zeros(1).double(), torch.ones(1).double())
    x = torch.full((1, 1), 80.0, dtype=torch.float64)
    return float(sampler(oracle, x, sigmas, generator=None) / oracle.exact(x, sigmas[0]))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("sampler", "steps", "expected"),
    [
        (euler, 5, 0.49),
        (euler, 10, 0.75),
        (euler, 20, 0.87),
        (heun, 5, 1.91),
        (heun, 10, 1.18),
        (heun, 20, 1.04),
        (dpmpp, 5, 0.94),
        (dpmpp, 10, 1.16),
        (dpmpp, 20, 1.04),
    ],
)
def test_amplitudes_of_the_gaussian_oracle(sampler: object, steps: int, expected: float) -> None:
    assert amplitude(sampler, steps) == pytest.approx(expected, abs=0.006)


def test_heun_diverges_with_two_steps() -> None:
    assert amplitude(heun, 2) == pytest.approx(40, rel=0.05)


@pytest.mark.parametrize("sampler", [euler, heun, dpmpp])
def test_solvers_converge_to_the_exact_flow_with_their_order(sampler: object) -> None:
    errors = [abs(amplitude(sampler, steps) - 1.0) for steps in (80, 160)]
    order = 1 if sampler is euler else 2
    assert errors[1] < errors[0] / 1.8**order


def test_dpmpp_with_two_levels_is_euler() -> None:
    assert amplitude(dpmpp, 2) == pytest.approx(amplitude(euler, 2), rel=1e-6)


@pytest.mark.parametrize(
    ("sampler", "steps", "expected"),
    [(euler, 20, 20), (dpmpp, 20, 20), (heun, 20, 39), (heun, 1, 1), (langevin, 4, 21)],
)
def test_evaluations(sampler: object, steps: int, expected: int) -> None:
    oracle = GaussianDenoiser(torch.zeros(2), torch.ones(2))
    sampler(oracle, torch.ones(1, 2), karras_sigmas(steps, 0.1, 10.0), generator=torch.Generator())  # type: ignore[operator]
    assert oracle.evaluations == expected


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_row_counts_its_evaluations_and_binds_what_it_anchors_to(name: str) -> None:
    oracle = GaussianDenoiser(torch.zeros(2), torch.ones(2))
    row, observed = SAMPLERS[name], torch.full((3, 2), 4.0)
    x, sigmas = torch.ones(3, 2), karras_sigmas(6, 0.1, 10.0)
    sampled = row.at(observed)(oracle, x, sigmas, generator=torch.Generator().manual_seed(0))
    assert oracle.evaluations == row.evaluations(6)
    free = row.function(oracle, x, sigmas, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sampled, free) == (not row.anchored)


@pytest.mark.parametrize("sampler", [euler, heun, dpmpp])
def test_one_step_is_the_denoiser_itself(sampler: object) -> None:
    oracle = GaussianDenoiser(torch.tensor([1.0, -2.0]), torch.tensor([0.3, 2.0]))
    x = torch.tensor([[50.0, -70.0]])
    sigmas = karras_sigmas(1, 0.1, 80.0)
    result = sampler(oracle, x, sigmas, generator=None)  # type: ignore[operator]
    assert torch.allclose(result, oracle(x, sigmas[0]), atol=1e-4)


@pytest.mark.parametrize("sampler", [heun, dpmpp])
def test_noise_becomes_the_posterior(sampler: object) -> None:
    mean, variance = torch.tensor([1.0, -2.0, 0.0]), torch.tensor([0.3, 1.0, 0.05])
    sigmas = karras_sigmas(60, 0.002, 80.0)
    x = 80.0 * torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0))
    result = sampler(GaussianDenoiser(mean, variance), x, sigmas, generator=None)  # type: ignore[operator]
    assert torch.allclose(result.mean(dim=0), mean, atol=0.05)
    assert torch.allclose(result.var(dim=0), variance, rtol=0.06)


@pytest.mark.parametrize("start", [1.0, 5.0, 80.0])
def test_retained_share_of_a_shift(start: float) -> None:
    """Starting from the source keeps sqrt(v / (v + sigma^2)) of a shift: why noise is the default."""
    oracle = GaussianDenoiser(torch.zeros(1).double(), torch.full((1,), 0.3).double())
    shift = torch.full((1, 1), 2.0, dtype=torch.float64)
    result = float(heun(oracle, shift, karras_sigmas(200, 0.002, start).double())) / 2.0
    assert result == pytest.approx(math.sqrt(0.3 / (0.3 + start**2)), rel=0.02)


def test_langevin_samples_the_posterior() -> None:
    mean, variance = torch.tensor([1.0, -2.0]), torch.tensor([0.3, 1.0])
    generator = torch.Generator().manual_seed(0)
    x = 20.0 * torch.randn(20_000, 2, generator=generator)
    result = langevin(GaussianDenoiser(mean, variance), x, karras_sigmas(30, 0.05, 20.0), generator=generator)
    assert torch.allclose(result.mean(dim=0), mean, atol=0.05)
    # annealing in 30 levels leaves about 15 % too much variance
    assert torch.allclose(result.var(dim=0), variance, rtol=0.2)


def test_anchor_pulls_as_a_prior_does() -> None:
    generator = torch.Generator().manual_seed(0)
    oracle = GaussianDenoiser(torch.zeros(1), torch.full((1,), 0.3))
    x = 20.0 * torch.randn(20_000, 1, generator=generator)
    anchor = torch.full_like(x, 9.0)
    result = langevin(oracle, x, karras_sigmas(30, 0.05, 20.0), generator=generator, anchor=anchor)
    expected = 9.0 * 0.3 / (0.3 + 9.0)  # product of N(0, 0.3) and N(9, 3^2)
    assert float(result.mean()) == pytest.approx(expected, abs=0.08)


def test_schedule_of_karras() -> None:
    sigmas = karras_sigmas(5, 0.002, 80.0)
    assert len(sigmas) == 6
    assert sigmas[-1] == 0
    third = (80 ** (1 / 7) + 0.5 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert sigmas[:5].tolist() == pytest.approx(
        [80.0, float(sigmas[1]), third, float(sigmas[3]), 0.002], rel=1e-4
    )
    assert bool((sigmas.diff() < 0).all())
    assert karras_sigmas(1, 0.002, 80.0).tolist() == pytest.approx([80.0, 0.0])
    with pytest.raises(UsageError, match="steps >= 1"):
        karras_sigmas(0, 0.002, 80.0)
