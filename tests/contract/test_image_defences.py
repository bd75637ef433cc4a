"""Every row of the tables that looks at images, internals or gradients, on a suspect that gives them all."""

import pytest
import torch

from platodef_cli.defences import (
    DETECTORS,
    ENCODER_DETECTORS,
    PURIFIERS,
    make_detector,
    make_encoder_detector,
    make_purifier,
)
from platodef_cli.defences.interface import PurifyOptions
from platodef_cli.defences.zip import fit_small_diffusion
from platodef_cli.errors import NotApplicable
from platodef_cli.features.access import Access
from platodef_cli.features.interface import Samples
from platodef_cli.heads.evaluate import auroc
from platodef_cli.heads.heads import Heads
from tests.gaussian_tuples import GaussianTuples
from tests.toy_model import ToyModel, pictures, samples, triggered

LOOKING = tuple(name for name in DETECTORS.names() if Access.images in DETECTORS.load(name).needs)
REDRAWING = tuple(name for name in PURIFIERS.names() if Access.images in PURIFIERS.load(name).needs)

pytestmark = pytest.mark.usefixtures("small_decoder")


@pytest.fixture(scope="module")
def bank() -> Samples:
    return samples(ToyModel(), pictures(160, 1))


@pytest.mark.parametrize("name", LOOKING)
def test_scores_are_finite_follow_their_rows_and_rise_with_the_backdoor(
    name: str, bank: Samples, small_heads: Heads
) -> None:
    model = ToyModel()
    detector = make_detector(name, small_heads, bank, model=model)
    clean = samples(model, pictures(60, 2))
    scores = detector.score(clean)
    assert scores.dtype == torch.float64
    assert scores.shape == (60,)
    assert bool(torch.isfinite(scores).all())
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(scores[order], detector.score(clean.select(order)), rtol=1e-4, atol=1e-5)
    parts = [detector.score(clean.select(rows)) for rows in torch.arange(60).split(23)]
    assert torch.allclose(scores, torch.cat(parts), rtol=1e-4, atol=1e-5)
    assert detector.score(clean.select(torch.arange(0))).shape == (0,)
    attacked = samples(model, triggered(pictures(60, 2)))
    assert auroc(scores, detector.score(attacked)) > 0.9


@pytest.mark.parametrize("name", LOOKING)
def test_the_published_mode_scores_too(name: str, bank: Samples, small_heads: Heads) -> None:
    detector = make_detector(name, small_heads, bank, mode="published", model=ToyModel())
    scores = detector.score(samples(ToyModel(), pictures(40, 2)))
    assert scores.shape == (40,)
    assert bool(torch.isfinite(scores).all())


@pytest.mark.parametrize("name", LOOKING)
def test_images_without_the_model_are_not_enough(name: str, bank: Samples, small_heads: Heads) -> None:
    with pytest.raises(NotApplicable, match="needs"):
        make_detector(name, small_heads, bank)


@pytest.mark.parametrize("name", REDRAWING)
def test_purifiers_of_images_return_features_and_say_what_they_need(
    name: str, bank: Samples, small_heads: Heads, gaussian: GaussianTuples
) -> None:
    model = ToyModel()
    diffusion = fit_small_diffusion(pictures(64, 1), steps=2) if name == "zip" else None
    purifier = make_purifier(
        name, small_heads, PurifyOptions(steps=4), clean=bank, model=model, diffusion=diffusion
    )
    attacked = samples(model, triggered(pictures(12, 2)))
    first, second = (purifier.purify(attacked, generator=torch.Generator().manual_seed(4)) for _ in range(2))
    assert first.shape == attacked.source.shape
    assert first.dtype == torch.float32
    assert torch.equal(first, second)
    assert not torch.equal(first, attacked.source)
    assert purifier.purify(attacked.select(torch.arange(0)), generator=torch.Generator()).shape == (0, 8)
    with pytest.raises(NotApplicable, match="needs images"):
        make_purifier(name, small_heads, clean=gaussian.sample(100, seed=1), model=model)
    with pytest.raises(NotApplicable, match="needs images"):
        purifier.purify(gaussian.sample(5, seed=1), generator=torch.Generator())


@pytest.mark.parametrize("mode", ["default", "published"])
@pytest.mark.parametrize("name", ENCODER_DETECTORS.names())
def test_encoder_detectors_find_the_corner_and_nothing_in_a_clean_model(name: str, mode: str) -> None:
    kind = ENCODER_DETECTORS.load(name)
    assert kind.name == name
    assert kind.needs
    assert kind.statistic
    assert len(kind.description) > 20
    assert len(kind.use_when) > 20
    detector = make_encoder_detector(name, mode=mode)  # type: ignore[arg-type]
    images = pictures(128, 5)
    soft = ToyModel(True, sharpness=12.0, level=0.7)  # a gate with gradients from afar, as networks have
    result = detector.examine(soft, images)
    if mode == "published":
        assert result == detector.examine(soft, images)
    else:
        assert result.value > detector.examine(ToyModel(False), images).value
