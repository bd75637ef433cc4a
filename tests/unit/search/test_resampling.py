"""Resampled collapses against an average over explicit pairs."""

import itertools

import pytest
import torch

from platodef_cli.search.resampling import DRAWS, collapse_draws, interval_of, resampling_weights
from platodef_cli.search.statistics import collapse


def test_draws_are_the_mean_cosine_over_pairs_of_different_images() -> None:
    features = torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    draws, weights = collapse_draws(features), resampling_weights(6)
    cosine = torch.nn.functional.cosine_similarity(features[:, None], features[None], dim=2)
    for draw in range(20):
        taken = [image for image in range(6) for _ in range(int(weights[draw, image]))]
        assert len(taken) == 6
        pairs = [cosine[a, b] for a, b in itertools.permutations(taken, 2) if a != b]
        assert float(draws[draw]) == pytest.approx(float(torch.stack(pairs).mean()))


def test_equal_numbers_of_images_are_resampled_alike() -> None:
    """The distance of two encoders that see the same has no width."""
    features = torch.randn(50, 8, generator=torch.Generator().manual_seed(2))
    same = interval_of(collapse_draws(features) - collapse_draws(4 * features), 0.0)
    assert (same.low, same.high) == pytest.approx((0.0, 0.0), abs=1e-12)
    assert torch.equal(collapse_draws(features), collapse_draws(features.clone()))


def test_the_interval_holds_the_value_and_a_total_collapse_has_no_width() -> None:
    features = torch.randn(40, 8, generator=torch.Generator().manual_seed(3)) + 0.5
    interval = interval_of(collapse_draws(features), float(collapse(features)))
    assert interval.low < float(collapse(features)) < interval.high
    one = collapse_draws(torch.ones(30, 4))
    assert one.shape == (DRAWS,)
    assert one.min() == pytest.approx(1.0)
    assert interval_of(torch.zeros(DRAWS), 0.5).high == 0.5
