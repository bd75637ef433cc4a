from dataclasses import replace

import pytest
import torch

from platodef_cli.errors import UsageError
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.backbone import BackboneConfig
from platodef_cli.heads.evaluate import (
    auroc,
    blame_references,
    gaussian_scores,
    leave_one_out_scores,
    odd_reference,
    robust_scores,
)
from platodef_cli.heads.fit import FitConfig, fit_heads
from platodef_cli.heads.heads import Heads
from platodef_cli.heads.train import TrainConfig
from tests.gaussian_tuples import GaussianTuples

ONE = TrainConfig(epochs=1, batch_size=128)
CONFIG = FitConfig(
    backbone=BackboneConfig(width=8, depth=1, heads=2), energy=ONE, denoiser=ONE, lift_features=4
)


def three_references(count: int, seed: int) -> FeatureTuples:
    """Source and three references that all see the same image with noise of their own."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(count, 8, generator=generator)
    views = {
        name: image + 0.3 * torch.randn(count, 8, generator=generator) for name in ("one", "two", "three")
    }
    return FeatureTuples(image + 0.3 * torch.randn(count, 8, generator=generator), views)


def corrupt(tuples: FeatureTuples, name: str) -> FeatureTuples:
    """Give one reference the features of other images."""
    order = torch.randperm(len(tuples), generator=torch.Generator().manual_seed(9))
    return FeatureTuples(tuples.source, {**tuples.references, name: tuples.references[name][order]})


@pytest.fixture(scope="module")
def heads() -> Heads:
    return fit_heads(three_references(1500, seed=0), CONFIG)


@pytest.mark.parametrize("bad", ["one", "two", "three"])
def test_the_corrupted_reference_is_named(heads: Heads, bad: str) -> None:
    test = three_references(300, seed=1)
    blame = blame_references(heads, corrupt(test, bad), three_references(300, seed=2))
    assert max(blame, key=lambda name: blame[name]) == bad
    assert blame[bad] > 5
    assert all(value < 0 for name, value in blame.items() if name != bad)


def test_the_heads_carry_the_baseline_and_the_odd_one_is_named(heads: Heads) -> None:
    test = three_references(400, seed=1)
    for bad in heads.reference_names:
        assert odd_reference(blame_references(heads, corrupt(test, bad))) == bad
    assert odd_reference(blame_references(heads, test)) is None
    turned = test.with_source(test.source.flip(0))  # the suspect is the odd one: everybody disagrees with it
    assert odd_reference(blame_references(heads, turned)) is None
    with pytest.raises(UsageError, match="give clean tuples"):
        blame_references(replace(heads, metrics={}), test)
    with pytest.raises(UsageError, match="no rows"):
        blame_references(heads, test.select(torch.arange(0)))


def test_nobody_is_blamed_on_clean_tuples(heads: Heads) -> None:
    blame = blame_references(heads, three_references(400, seed=1), three_references(400, seed=2))
    assert all(abs(value) < 1 for value in blame.values())


def test_robust_score_survives_a_corrupted_reference_where_the_plain_one_does_not(heads: Heads) -> None:
    test = three_references(600, seed=1)
    order = torch.randperm(600, generator=torch.Generator().manual_seed(0))
    attacked = test.with_source(test.source[order])
    clean = auroc(robust_scores(heads, test), robust_scores(heads, attacked))
    for bad in heads.reference_names:
        one, other = corrupt(test, bad), corrupt(attacked, bad)
        robust = auroc(robust_scores(heads, one), robust_scores(heads, other))
        plain = auroc(gaussian_scores(heads, one), gaussian_scores(heads, other))
        assert robust > clean - 0.02
        assert robust > plain


def test_leaving_out_equals_heads_that_never_had_the_reference(heads: Heads) -> None:
    tuples, test = three_references(1500, seed=0), three_references(200, seed=1)
    kept = ("one", "three")
    without = FeatureTuples(tuples.source, {name: tuples.references[name] for name in kept})
    smaller = fit_heads(without, FitConfig(**{**vars(CONFIG), "lift_features": 0}))
    linear = fit_heads(tuples, FitConfig(**{**vars(CONFIG), "lift_features": 0}))
    found, expected = leave_one_out_scores(linear, test)["two"], gaussian_scores(smaller, test)
    assert torch.allclose(found, expected, atol=0.2)


def test_a_single_reference_cannot_be_left_out(gaussian: GaussianTuples) -> None:
    tuples = gaussian.sample(300, seed=0)
    heads = fit_heads(FeatureTuples(tuples.source, {"left": tuples.references["left"]}), CONFIG)
    with pytest.raises(UsageError, match="at least two references"):
        leave_one_out_scores(heads, tuples)
    assert torch.equal(robust_scores(heads, tuples), gaussian_scores(heads, tuples))
    assert heads.metrics["matched_auroc"] > 0.9
