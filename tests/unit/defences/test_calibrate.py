import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from platodef_cli.defences.calibrate import conformal_pvalues, conformal_threshold
from platodef_cli.errors import UsageError


@pytest.mark.parametrize(("count", "rate"), [(19, 0.05), (30, 0.1), (250, 0.05), (99, 0.01)])
def test_exceedance_is_at_most_the_rate_and_near_it(count: int, rate: float) -> None:
    """Simulation over calibration sets: E[exceedance] = 1 - ceil((n+1)(1-rate)) / (n+1) <= rate."""
    generator = torch.Generator().manual_seed(0)
    trials = 8000
    calibration = torch.randn(trials, count, generator=generator, dtype=torch.float64).exp()
    fresh = torch.randn(trials, 20, generator=generator, dtype=torch.float64).exp()
    exceeded = torch.tensor(
        [float((fresh[t] > conformal_threshold(calibration[t], rate)).double().mean()) for t in range(trials)]
    )
    mean, error = float(exceeded.mean()), float(exceeded.std()) / trials**0.5
    assert mean <= rate + 3 * error
    assert mean >= rate - 1 / (count + 1) - 3 * error


def test_threshold_by_hand() -> None:
    scores = torch.arange(1.0, 20.0)  # 19 scores: ceil(20 * 0.95) = 19th
    assert conformal_threshold(scores, 0.05) == 19.0
    assert conformal_threshold(scores, 0.1) == 18.0
    assert conformal_threshold(scores.flip(0), 0.5) == 10.0


def test_pvalues_by_hand() -> None:
    result = conformal_pvalues(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 2.0, 2.5, 9.0]))
    assert result.tolist() == [1.0, 0.75, 0.5, 0.25]


@given(st.lists(st.integers(0, 8), min_size=1, max_size=30), st.integers(0, 8))
def test_pvalue_counts_ties_against_the_sample(clean: list[int], score: int) -> None:
    result = conformal_pvalues(torch.tensor(clean, dtype=torch.float64), torch.tensor([float(score)]))
    assert result.item() == pytest.approx((1 + sum(value >= score for value in clean)) / (len(clean) + 1))


def test_pvalues_are_valid() -> None:
    """P(p <= u) <= u for clean samples, by simulation."""
    generator = torch.Generator().manual_seed(1)
    values = torch.cat(
        [
            conformal_pvalues(torch.randn(40, generator=generator), torch.randn(10, generator=generator))
            for _ in range(2000)
        ]
    )
    for level in (0.05, 0.1, 0.5):
        assert float((values <= level).double().mean()) <= level + 0.01


def test_too_few_or_broken_scores_are_refused() -> None:
    with pytest.raises(UsageError, match="18 calibration samples .* at least 19"):
        conformal_threshold(torch.zeros(18), 0.05)
    with pytest.raises(UsageError, match="between 0 and 1"):
        conformal_threshold(torch.zeros(50), 0.0)
    with pytest.raises(UsageError, match="finite"):
        conformal_threshold(torch.tensor([1.0, float("nan")]), 0.5)
    with pytest.raises(UsageError, match="non-empty"):
        conformal_pvalues(torch.zeros(0), torch.zeros(3))
