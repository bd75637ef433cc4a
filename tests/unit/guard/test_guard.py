"""The guard: what it flags and replaces, whatever the batch, the thread and the module around it."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from platodef_cli import Guard, GuardTransformer
from platodef_cli.defences import make_purifier
from platodef_cli.defences.calibrate import conformal_pvalues
from platodef_cli.defences.interface import PurifyOptions
from platodef_cli.errors import NotApplicable, UnknownNameError, UsageError
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.heads import Heads
from tests.gaussian_tuples import GaussianTuples


@pytest.fixture(scope="module")
def guard(small_heads: Heads) -> Guard:
    return Guard.load(small_heads)


@pytest.fixture(scope="module")
def mixed(gaussian: GaussianTuples) -> FeatureTuples:
    """64 tuples; every fourth source feature is that of another image, far out."""
    tuples = gaussian.sample(64, seed=11)
    source = tuples.source.clone()
    source[::4] = 4 * source.roll(1, 0)[::4]
    return tuples.with_source(source)


def test_what_it_gives(guard: Guard, mixed: FeatureTuples, small_heads: Heads) -> None:
    features, p_values, flagged = guard(mixed)
    assert features.shape == (64, 8)
    assert flagged.dtype == torch.bool
    assert flagged[::4].float().mean() > 0.7
    assert torch.equal(features[~flagged], mixed.source[~flagged])
    mean = make_purifier("mean", small_heads).purify(mixed, generator=torch.Generator())
    torch.testing.assert_close(features[flagged], mean[flagged])
    assert bool((p_values[flagged] <= 0.05).all())
    assert bool((p_values[~flagged] > 0.05).all())
    alarm = guard._alarm
    assert torch.equal(p_values, conformal_pvalues(alarm.clean, alarm.detector.score(mixed)))


def test_clean_rows_are_flagged_as_rarely_as_promised(guard: Guard, gaussian: GaussianTuples) -> None:
    flagged = guard.clean(gaussian.sample(4000, seed=12)).flagged
    assert float(flagged.double().mean()) < 0.08  # 0.05, the calibration's own spread, and noise


@pytest.mark.parametrize("purifier", ["mean", "heun", "langevin", "gaussian", "ridge", "average"])
def test_a_row_does_not_depend_on_its_batch(small_heads: Heads, mixed: FeatureTuples, purifier: str) -> None:
    guard = Guard.load(small_heads, purifier=purifier, options=PurifyOptions(steps=3, samples=2))
    together = guard.clean(mixed)
    for rows in ([0], [4, 0, 1], list(range(63, -1, -1))):
        alone = guard.clean(mixed.select(torch.tensor(rows)))
        assert torch.equal(alone.flagged, together.flagged[rows])
        torch.testing.assert_close(alone.features, together.features[rows], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(alone.p_values, together.p_values[rows])


def test_a_seed_is_a_result(small_heads: Heads, mixed: FeatureTuples) -> None:
    first, again, other = (
        Guard.load(small_heads, purifier="heun", seed=s).clean(mixed).features for s in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_values_that_are_no_numbers(guard: Guard, mixed: FeatureTuples) -> None:
    source = mixed.source.clone()
    source[1, 0], source[2, 3] = torch.nan, torch.inf
    features, p_values, flagged = guard.clean(mixed.with_source(source))
    assert bool(flagged[1])
    assert bool(flagged[2])
    assert float(p_values[1]) == p_values.min()
    assert bool(torch.isfinite(features).all())
    broken = {name: value.clone() for name, value in mixed.references.items()}
    broken["left"][0, 0] = torch.nan
    with pytest.raises(UsageError, match="reference are not finite"):
        guard.clean(FeatureTuples(mixed.source, broken))


def test_names_to_features(guard: Guard, mixed: FeatureTuples) -> None:
    given = {"source": mixed.source, "right": mixed.references["right"], "left": mixed.references["left"]}
    assert torch.equal(guard(given).features, guard(mixed).features)
    with pytest.raises(UsageError, match="lack 'source'"):
        guard({"left": mixed.source})
    with pytest.raises(UsageError, match="lack reference 'right'"):
        guard({"source": mixed.source, "left": mixed.references["left"]})
    with pytest.raises(UsageError, match="shape"):
        guard({**given, "source": torch.zeros(64, 5)})
    with pytest.raises(UsageError, match="expected"):
        guard({**given, "source": torch.zeros(8)})
    with pytest.raises(UsageError, match="do not name their encoders"):
        guard([torch.zeros(3, 8, 8, dtype=torch.uint8)])


def test_nothing_in_nothing_out(guard: Guard, mixed: FeatureTuples) -> None:
    before = guard.drift.seen
    features, p_values, flagged = guard(mixed.select(torch.zeros(0, dtype=torch.long)))
    assert features.shape == (0, 8)
    assert len(p_values) == len(flagged) == 0
    assert guard.drift.seen == before


def test_it_counts_what_it_sees(small_heads: Heads, mixed: FeatureTuples, tmp_path: Path) -> None:
    guard = Guard.load(small_heads)
    for _ in range(20):
        guard(mixed)
    assert guard.drift.seen == 20 * 64
    assert guard.drift.alarm is not None
    guard.clean(mixed)
    assert guard.drift.seen == 20 * 64
    guard.save_state(tmp_path / "state.json")
    again = Guard.load(small_heads, state=tmp_path / "state.json")
    assert again.drift == guard.drift
    fresh = Guard.load(small_heads, state=tmp_path / "none.json")
    assert fresh.drift.seen == 0
    fresh.load_state_dict(guard.state_dict())
    assert fresh.drift == guard.drift
    with pytest.raises(UsageError, match="of rate"):
        Guard.load(small_heads, rate=0.1, state=tmp_path / "state.json")


def test_copies(guard: Guard, mixed: FeatureTuples) -> None:
    for other in (pickle.loads(pickle.dumps(guard)), copy.deepcopy(guard)):
        assert torch.equal(other.clean(mixed).features, guard.clean(mixed).features)
        assert other.monitor is not guard.monitor


def test_threads_share_it(small_heads: Heads, mixed: FeatureTuples) -> None:
    guard = Guard.load(small_heads, purifier="heun", options=PurifyOptions(steps=2))
    wanted = guard.clean(mixed)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(guard, [mixed] * 12))
    for result in results:
        assert torch.equal(result.features, wanted.features)
    assert guard.drift.seen == 12 * 64


def test_a_module_around_it_changes_nothing(small_heads: Heads, mixed: FeatureTuples) -> None:
    guard = Guard.load(small_heads)
    wanted = guard.clean(mixed)
    around = torch.nn.Sequential(guard).train().half()
    assert not guard.training
    assert not any(parameter.requires_grad for parameter in around.parameters())
    assert torch.equal(guard.clean(mixed).features, wanted.features)


def test_slips(small_heads: Heads, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown purifier"):
        Guard.load(small_heads, purifier="bleach")
    with pytest.raises(UnknownNameError, match="unknown detector"):
        Guard.load(small_heads, detector="nose")
    with pytest.raises(NotApplicable):
        Guard.load(small_heads, purifier="zip")
    with pytest.raises(UsageError, match="no clean scores"):
        Guard.load(small_heads, detector="clipscore")
    with pytest.raises(UsageError, match="cannot guarantee"):
        Guard.load(small_heads, rate=1e-6)
    with pytest.raises(UsageError):
        Guard.load(tmp_path / "absent")


def test_in_a_pipeline(small_heads: Heads, gaussian: GaussianTuples, mixed: FeatureTuples) -> None:
    clean = gaussian.sample(400, seed=13)
    labels = (clean.source[:, 0] > 0).long().numpy()
    transformer = GuardTransformer(small_heads)
    X = transformer.join(clean)
    assert X.shape == (400, 16)
    model = make_pipeline(transformer, LogisticRegression()).fit(X, labels)
    fitted = model[0]
    assert fitted.guard_.drift.seen == 0  # training data are no traffic
    assert model.score(X, labels) > 0.9
    assert fitted.guard_.drift.seen == 400
    assert np.array_equal(fitted.transform(fitted.join(mixed)), fitted.guard_.clean(mixed).features.numpy())
    assert fitted.score_samples(fitted.join(mixed)).shape == (64,)
    assert list(fitted.get_feature_names_out()) == [f"source{n}" for n in range(8)]
    with pytest.raises(UsageError, match=r"X has 5 columns; .* 8 \+ 4 \+ 4"):
        model.predict(np.zeros((2, 5)))
    again = clone(transformer).set_params(purifier="ridge").fit(X)
    assert again.get_params()["purifier"] == "ridge"
    assert pickle.loads(pickle.dumps(model)).predict(X).tolist() == model.predict(X).tolist()
    frame = fitted.set_output(transform="pandas").transform(X)
    assert list(frame.columns)[:2] == ["source0", "source1"]
