import pickle
from importlib import import_module

import pytest
import torch

from platodef_cli.defences import DETECTORS, ENCODER_DETECTORS, PURIFIERS, make_detector
from platodef_cli.defences.interface import ExpectedAuroc
from platodef_cli.errors import NotApplicable, UnknownNameError
from platodef_cli.features.access import Access
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.evaluate import auroc
from platodef_cli.heads.heads import Heads
from tests.gaussian_tuples import GaussianTuples

# they see the source alone
MARGINAL = ("mahalanobis", "knn", "lof", "iforest", "dao", "slof", "kdist", "lid")
FEATURES_ONLY = tuple(
    name for name in DETECTORS.names() if DETECTORS.load(name).needs <= {Access.features, Access.references}
)


@pytest.mark.parametrize("name", DETECTORS.names())
def test_every_row_says_what_it_needs_reaches_changes_and_for_whom_it_is(name: str) -> None:
    kind = DETECTORS.load(name)
    assert kind.name == name
    assert kind.needs
    assert all(isinstance(access, Access) for access in kind.needs)
    assert 20 < len(kind.description) <= 120
    assert "\n" not in kind.description + kind.published + kind.use_when
    assert 20 < len(kind.use_when) <= 120
    assert kind.use_when.endswith(".")
    assert kind.expected_auroc is None or (
        isinstance(kind.expected_auroc, ExpectedAuroc) and 0.5 < kind.expected_auroc.auroc <= 1
    )
    assert kind.bank >= 0


@pytest.mark.parametrize(
    "kind", [table.load(name) for table in (DETECTORS, ENCODER_DETECTORS) for name in table.names()]
)
def test_every_row_can_be_pickled_and_is_found_under_its_own_name(kind: type) -> None:
    assert pickle.loads(pickle.dumps(kind)) is kind
    assert getattr(import_module(kind.__module__), kind.__qualname__) is kind
    assert kind.__name__.endswith("Detector")


@pytest.mark.parametrize("name", [name for name in DETECTORS.names() if name not in FEATURES_ONLY])
def test_what_features_cannot_give_is_not_applicable_and_never_a_score(
    name: str, gaussian: GaussianTuples, small_heads: Heads
) -> None:
    clean = gaussian.sample(100, seed=20)
    with pytest.raises(NotApplicable, match="^not applicable: needs (images|text)"):
        make_detector(name, small_heads, clean).score(clean)


@pytest.mark.parametrize("name", FEATURES_ONLY)
def test_every_detector_scores_finite_float64_higher_for_off_manifold_sources(
    name: str, gaussian: GaussianTuples, small_heads: Heads
) -> None:
    detector = make_detector(name, small_heads, gaussian.sample(300, seed=20))
    test = gaussian.sample(300, seed=21)
    scores = detector.score(test)
    assert detector.name == name
    assert scores.dtype == torch.float64
    assert scores.shape == (300,)
    assert bool(torch.isfinite(scores).all())
    shifted = test.with_source(test.source + 4.0)
    assert auroc(scores, detector.score(shifted)) > 0.99
    assert detector.score(test.select(torch.arange(0))).shape == (0,)


@pytest.mark.parametrize("name", FEATURES_ONLY)
def test_every_conditional_detector_sees_mismatches_and_no_marginal_one_does(
    name: str, gaussian: GaussianTuples, small_heads: Heads
) -> None:
    detector = make_detector(name, small_heads, gaussian.sample(300, seed=20))
    test = gaussian.sample(600, seed=21)
    order = torch.randperm(600, generator=torch.Generator().manual_seed(0))
    area = auroc(detector.score(test), detector.score(test.with_source(test.source[order])))
    if name in MARGINAL:
        assert area == pytest.approx(0.5, abs=0.01)
    else:
        assert area > 0.98


@pytest.mark.parametrize("name", MARGINAL)
def test_marginal_detectors_do_not_need_references(
    name: str, gaussian: GaussianTuples, small_heads: Heads
) -> None:
    bank, test = (FeatureTuples(gaussian.sample(60, seed=seed).source, {}) for seed in (20, 21))
    assert make_detector(name, small_heads, bank).score(test).shape == (60,)


@pytest.mark.parametrize("name", FEATURES_ONLY)
def test_scores_follow_their_rows_and_not_the_batch(
    name: str, gaussian: GaussianTuples, small_heads: Heads
) -> None:
    detector = make_detector(name, small_heads, gaussian.sample(50, seed=20))
    test = gaussian.sample(40, seed=21)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    whole = detector.score(test)
    assert torch.allclose(whole[order], detector.score(test.select(order)), atol=1e-4)
    parts = [detector.score(test.select(rows)) for rows in torch.arange(40).split(7)]
    assert torch.allclose(whole, torch.cat(parts), atol=1e-4)


@pytest.mark.parametrize("name", FEATURES_ONLY)
def test_the_published_mode_works_and_is_the_default_only_where_it_says_so(
    name: str, gaussian: GaussianTuples, small_heads: Heads
) -> None:
    bank, test = gaussian.sample(100, seed=20), gaussian.sample(80, seed=21)
    default, published = (
        make_detector(name, small_heads, bank, mode=mode).score(test) for mode in ("default", "published")
    )
    assert bool(torch.isfinite(published).all())
    assert torch.equal(default, published) == (DETECTORS.load(name).published == "")


def test_an_unknown_mode_lists_the_choices(small_heads: Heads) -> None:
    with pytest.raises(UnknownNameError, match="choose one of: default, published"):
        make_detector("ridge", small_heads, mode="fast")  # type: ignore[arg-type]


def test_no_two_rows_are_for_the_same_case() -> None:
    for table in (DETECTORS, ENCODER_DETECTORS, PURIFIERS):
        sentences = [table.load(name).use_when for name in table.names()]
        assert len({*sentences}) == len(sentences)
