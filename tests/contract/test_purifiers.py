import pickle
from importlib import import_module

import pytest
import torch

from platodef_cli.defences import PURIFIERS, make_purifier
from platodef_cli.defences.interface import PurifyOptions
from platodef_cli.errors import NotApplicable
from platodef_cli.features.access import Access
from platodef_cli.heads.heads import Heads
from tests.gaussian_tuples import GaussianTuples

FEATURES = {Access.features, Access.references}
FEATURES_ONLY = [name for name in PURIFIERS.names() if PURIFIERS.load(name).needs <= FEATURES]


@pytest.mark.parametrize("name", PURIFIERS.names())
def test_every_row_says_what_it_needs_and_for_whom_it_is_and_can_be_pickled(name: str) -> None:
    kind = PURIFIERS.load(name)
    assert kind.name == name
    assert kind.needs
    assert all(isinstance(access, Access) for access in kind.needs)
    for sentence in (kind.description, kind.use_when):
        assert 20 < len(sentence) <= 120
        assert sentence.endswith(".")
        assert "\n" not in sentence
    assert pickle.loads(pickle.dumps(kind)) is kind
    assert getattr(import_module(kind.__module__), kind.__qualname__) is kind


@pytest.mark.parametrize("name", [name for name in PURIFIERS.names() if name not in FEATURES_ONLY])
def test_what_features_cannot_give_is_not_applicable(name: str, small_heads: Heads) -> None:
    with pytest.raises(NotApplicable, match="needs .*images"):
        make_purifier(name, small_heads)


@pytest.mark.parametrize("name", FEATURES_ONLY)
def test_every_purifier_undoes_a_shift_in_feature_units(
    name: str, gaussian: GaussianTuples, small_heads: Heads
) -> None:
    test = gaussian.sample(100, seed=30)
    attacked = test.with_source(test.source + 6.0)
    purifier = make_purifier(name, small_heads, PurifyOptions(steps=25, samples=2))
    result = purifier.purify(attacked, generator=torch.Generator().manual_seed(0))
    assert purifier.name == name
    assert result.dtype == torch.float32
    assert result.shape == test.source.shape
    assert purifier.evaluations >= 0
    error = float((result - test.source).square().mean())
    assert error < 0.6  # the attack moved it by 36, the posterior leaves at most 0.26


@pytest.mark.parametrize("name", FEATURES_ONLY)
def test_same_generator_same_features_and_no_rows_is_fine(
    name: str, gaussian: GaussianTuples, small_heads: Heads
) -> None:
    test = gaussian.sample(10, seed=30)
    purifier = make_purifier(name, small_heads, PurifyOptions(steps=3, samples=2))
    first, second = (purifier.purify(test, generator=torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, second)
    assert purifier.purify(test.select(torch.arange(0)), generator=torch.Generator()).shape == (0, 8)
