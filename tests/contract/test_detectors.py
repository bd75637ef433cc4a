import pytest
import torch

from platodef_cli.detectors import DETECTORS, make_detector
from platodef_cli.heads.evaluate import auroc
from platodef_cli.heads.heads import Heads
from tests.gaussian_world import GaussianWorld

MARGINAL = ("mahalanobis", "knn")  # they see the source alone


@pytest.mark.parametrize("name", DETECTORS.names())
def test_every_detector_scores_finite_float64_higher_for_off_manifold_sources(
    name: str, world: GaussianWorld, small_heads: Heads
) -> None:
    detector = make_detector(name, small_heads, world.sample(300, seed=20))
    test = world.sample(300, seed=21)
    scores = detector.score(test)
    assert detector.name == name
    assert scores.dtype == torch.float64
    assert scores.shape == (300,)
    assert bool(torch.isfinite(scores).all())
    shifted = test.with_source(test.source + 4.0)
    assert auroc(scores, detector.score(shifted)) > 0.99
    assert detector.score(test.select(torch.arange(0))).shape == (0,)


@pytest.mark.parametrize("name", DETECTORS.names())
def test_every_conditional_detector_sees_mismatches_and_no_marginal_one_does(
    name: str, world: GaussianWorld, small_heads: Heads
) -> None:
    detector = make_detector(name, small_heads, world.sample(300, seed=20))
    test = world.sample(600, seed=21)
    order = torch.randperm(600, generator=torch.Generator().manual_seed(0))
    area = auroc(detector.score(test), detector.score(test.with_source(test.source[order])))
    if name in MARGINAL:
        assert area == pytest.approx(0.5, abs=0.01)
    else:
        assert area > 0.98


@pytest.mark.parametrize("name", DETECTORS.names())
def test_scores_follow_their_rows(name: str, world: GaussianWorld, small_heads: Heads) -> None:
    detector = make_detector(name, small_heads, world.sample(50, seed=20))
    test = world.sample(40, seed=21)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(detector.score(test)[order], detector.score(test.select(order)), atol=1e-4)
