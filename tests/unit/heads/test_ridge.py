import pytest
import torch
from torch import Tensor

from platodef_cli.errors import UsageError
from platodef_cli.heads.ridge import PENALTIES, Ridge, fit_ridge, shrink


def linear_data(count: int = 300, noise: float = 0.5) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(3)
    references = [torch.randn(count, 5, generator=generator), torch.randn(count, 3, generator=generator)]
    mix = torch.randn(8, 4, generator=generator) / 8**0.5
    return torch.cat(references, dim=1) @ mix + noise * torch.randn(count, 4, generator=generator), references


@pytest.fixture(scope="module")
def fitted() -> tuple[Ridge, Tensor, Tensor]:
    source, references = linear_data()
    return fit_ridge(source, references), source.double(), torch.cat(references, dim=1).double()


def slow_leave_one_out(source: Tensor, stacked: Tensor, penalty: float) -> Tensor:
    """Refit without each row; the penalty is per mean square over all N rows."""
    residuals = []
    for row in range(len(source)):
        rest = torch.arange(len(source)) != row
        gram = stacked[rest].T @ stacked[rest] + penalty * len(source) * torch.eye(stacked.shape[1])
        weights = torch.linalg.solve(gram, stacked[rest].T @ source[rest])
        residuals.append(source[row] - stacked[row] @ weights)
    return torch.stack(residuals)


def test_leverage_gives_exact_leave_one_out_residuals(fitted: tuple[Ridge, Tensor, Tensor]) -> None:
    ridge, source, stacked = fitted
    posterior = ridge.posterior()
    leverage = ridge.leverage(stacked.float()).double().unsqueeze(1)
    fast = (source - stacked @ posterior.weights.double()) / (1 - leverage)
    assert torch.allclose(fast, slow_leave_one_out(source, stacked, posterior.penalty), atol=1e-4)


def test_penalty_minimises_the_leave_one_out_error() -> None:
    source, references = linear_data(count=60, noise=2.0)
    ridge, stacked = fit_ridge(source, references), torch.cat(references, dim=1).double()
    scale = float(stacked.square().mean(dim=0).mean())
    errors = {
        factor * scale: float(slow_leave_one_out(source.double(), stacked, factor * scale).square().sum())
        for factor in PENALTIES
    }
    chosen = min(errors, key=lambda penalty: abs(penalty - ridge.posterior().penalty))
    assert errors[chosen] <= 1.01 * min(errors.values())


def test_residual_covariance_is_the_leave_one_out_one(fitted: tuple[Ridge, Tensor, Tensor]) -> None:
    ridge, source, stacked = fitted
    posterior = ridge.posterior()
    residuals = slow_leave_one_out(source, stacked, posterior.penalty)
    expected = shrink(residuals.T @ residuals / len(residuals), len(residuals))
    found = (posterior.vectors * posterior.values) @ posterior.vectors.T
    assert torch.allclose(found.double(), expected, atol=0.01)


def test_mahalanobis_against_an_inverse(fitted: tuple[Ridge, Tensor, Tensor]) -> None:
    ridge, source, stacked = fitted
    posterior = ridge.posterior()
    inverse = torch.linalg.inv((posterior.vectors * posterior.values) @ posterior.vectors.T).double()
    residual = source - stacked @ posterior.weights.double()
    expected = torch.stack([row @ inverse @ row for row in residual])
    assert torch.allclose(ridge.mahalanobis(source.float(), stacked.float()).double(), expected, rtol=1e-4)


def test_mutual_information_of_known_correlations() -> None:
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(200_000, 2, generator=generator)
    correlation = torch.tensor([0.6, 0.9])
    noise = torch.randn(200_000, 2, generator=generator)
    source = reference * correlation + noise * (1 - correlation.square()).sqrt()
    expected = -0.5 * float((1 - correlation.square()).log().sum())
    assert fit_ridge(source, [reference]).mutual_information() == pytest.approx(expected, rel=0.01)


def test_subset_equals_a_fit_without_the_other_reference() -> None:
    source, references = linear_data(count=400)
    ridge = fit_ridge(source, references)
    first, penalty = references[0].double(), ridge.posterior().penalty
    gram = first.T @ first + penalty * 400 * torch.eye(5)
    expected = torch.linalg.solve(gram, first.T @ source.double())
    subset = ridge.posterior((True, False))
    assert torch.equal(subset.weights[5:], torch.zeros(3, 4))
    assert torch.allclose(subset.weights[:5].double(), expected, atol=1e-5)
    residuals = slow_leave_one_out(source.double(), first, penalty)
    covariance = (subset.vectors * subset.values) @ subset.vectors.T
    assert torch.allclose(covariance.double(), shrink(residuals.T @ residuals / 400, 400), atol=0.02)


def test_denoiser_equals_the_formula(fitted: tuple[Ridge, Tensor, Tensor]) -> None:
    ridge, source, stacked = fitted
    posterior = ridge.posterior()
    sigma = torch.linspace(0.1, 3, len(source))
    covariance = ((posterior.vectors * posterior.values) @ posterior.vectors.T).double()
    means = stacked @ posterior.weights.double()
    for row in (0, 17):
        noisy = covariance + sigma[row].double() ** 2 * torch.eye(4)
        expected = means[row] + covariance @ torch.linalg.solve(noisy, source[row] - means[row])
        found = posterior.denoise(source.float(), sigma, stacked.float())[row]
        assert torch.allclose(found.double(), expected, atol=1e-4)


def test_interpolating_shapes_still_have_positive_residual_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    ridge = fit_ridge(torch.randn(40, 6, generator=generator), [torch.randn(40, 200, generator=generator)])
    posterior = ridge.posterior()
    assert posterior.degrees <= 36
    assert float(posterior.values.min()) > 0.1  # pure noise stays unexplained


def test_shrinkage_of_the_identity_is_complete() -> None:
    assert torch.allclose(shrink(2.0 * torch.eye(3).double(), 10), 2.0 * torch.eye(3).double())


def test_wrong_input_is_refused() -> None:
    source, references = linear_data()
    with pytest.raises(UsageError, match="too few"):
        fit_ridge(source[:5], [values[:5] for values in references])
    with pytest.raises(UsageError, match="3 entries for 2 references"):
        fit_ridge(source, references).posterior((True, True, False))
