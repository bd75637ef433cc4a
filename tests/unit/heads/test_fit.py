import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from platodef_cli.errors import UnknownNameError, UsageError
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.backbone import BackboneConfig
from platodef_cli.heads.config import MODES, FitConfig, preset, preset_name
from platodef_cli.heads.evaluate import (
    component_scores,
    gaussian_mean,
    gaussian_scores,
    held_out_metrics,
    one_shot_mean,
)
from platodef_cli.heads.fit import fit_heads
from platodef_cli.heads.heads import Heads, fit_standardiser
from platodef_cli.heads.mismatch import MismatchConfig
from platodef_cli.heads.train import TrainConfig
from platodef_cli.progress import SilentProgress, Task
from tests.gaussian_tuples import GaussianTuples

QUICK = FitConfig(
    backbone=BackboneConfig(width=8, depth=1, heads=2),
    mismatch=MismatchConfig(queue=64),
    energy=TrainConfig(epochs=1, batch_size=64),
    denoiser=TrainConfig(epochs=1, batch_size=64),
    lift_features=4,
)


def all_weights(heads: Heads) -> Tensor:
    parts = [*heads.energy.state_dict().values(), *heads.denoiser.state_dict().values()]
    return torch.cat([part.flatten() for part in parts])


def test_same_seed_same_bytes_other_seed_other_bytes(gaussian: GaussianTuples) -> None:
    tuples = gaussian.sample(300, seed=0)
    first, second = fit_heads(tuples, QUICK, seed=1), fit_heads(tuples, QUICK, seed=1)
    assert torch.equal(all_weights(first), all_weights(second))
    assert dict(first.metrics) == dict(second.metrics)
    assert not torch.equal(all_weights(first), all_weights(fit_heads(tuples, QUICK, seed=2)))


def test_global_random_state_is_left_alone(gaussian: GaussianTuples) -> None:
    torch.manual_seed(9)
    expected = torch.rand(1)
    torch.manual_seed(9)
    fit_heads(gaussian.sample(200, seed=0), QUICK)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("correlation", [0.5, 0.8, 0.95])
def test_energy_gap_is_within_five_percent_of_the_truth(correlation: float) -> None:
    gaussian = GaussianTuples(correlation)
    # the optimum of the NCE loss is the log density ratio only for source-only mismatches
    only = MismatchConfig(full=0.0, source=1.0, partial=0.0, collapsed=0.0, negatives=8, queue=64)
    config = replace(QUICK, lift_features=0, mismatch=only, subset_drop=0.0)
    heads = fit_heads(gaussian.sample(8000, seed=0), config)
    test = gaussian.sample(4000, seed=7)
    other = torch.randperm(4000, generator=torch.Generator().manual_seed(0))
    matched, mismatched = (
        gaussian_scores(heads, test),
        gaussian_scores(heads, test.with_source(test.source[other])),
    )
    assert float(mismatched.mean() - matched.mean()) == pytest.approx(gaussian.energy_gap, rel=0.05)
    assert heads.ridge.mutual_information() == pytest.approx(gaussian.mutual_information, rel=0.05)
    trained = heads.energies(test.with_source(test.source[other])).mean() - heads.energies(test).mean()
    assert float(trained) == pytest.approx(gaussian.energy_gap, rel=0.05)


def test_conditional_means_are_near_the_truth(gaussian: GaussianTuples, small_heads: Heads) -> None:
    test = gaussian.sample(1000, seed=8)
    expected = gaussian.mean(dict(test.references))
    for mean in (gaussian_mean(small_heads, test)[1], one_shot_mean(small_heads, test)):
        restored = small_heads.source_standardiser.invert(mean)
        assert float((restored - expected).square().mean()) < 0.01


def test_held_out_metrics_of_the_gaussian_world(gaussian: GaussianTuples, small_heads: Heads) -> None:
    metrics = small_heads.metrics
    assert metrics["matched_auroc"] > 0.99
    assert metrics["ridge_r2"] == pytest.approx(gaussian.correlation**2, abs=0.02)
    assert metrics["gaussian_mutual_information"] == pytest.approx(gaussian.mutual_information, rel=0.05)
    assert 1.5 < metrics["mi_lower_bound"] <= torch.tensor(9.0).log()
    again = held_out_metrics(small_heads, gaussian.sample(500, seed=9))
    assert again["matched_auroc"] == pytest.approx(metrics["matched_auroc"], abs=0.01)


def test_scores_do_not_depend_on_batch_or_order(gaussian: GaussianTuples, small_heads: Heads) -> None:
    test = gaussian.sample(50, seed=3)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    whole, turned = component_scores(small_heads, test), component_scores(small_heads, test.select(order))
    for name, values in whole.items():
        assert torch.allclose(values[order], turned[name], atol=1e-4)
        single = component_scores(small_heads, test.select(torch.tensor([7])))[name]
        assert torch.allclose(single, values[7:8], atol=1e-4)


def test_without_the_bad_reference_the_energy_is_lower(gaussian: GaussianTuples, small_heads: Heads) -> None:
    test = gaussian.sample(400, seed=4)
    shuffled = test.references["right"][torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    broken = FeatureTuples(test.source, {"left": test.references["left"], "right": shuffled})
    without = {"right": small_heads.energies(broken, references=["left"])}
    without["left"] = small_heads.energies(broken, references=["right"])
    everything = small_heads.energies(broken)
    assert float(without["right"].median()) < float(everything.median())
    assert float(without["right"].median()) < float(without["left"].median())
    clean = small_heads.energies(test, references=["left"])
    assert torch.allclose(without["right"], clean, atol=1e-4)  # what was left out does not matter


@pytest.mark.parametrize("mode", MODES)
def test_modes_share_and_freeze_what_they_say(gaussian: GaussianTuples, mode: str) -> None:
    heads = fit_heads(gaussian.sample(200, seed=0), replace(QUICK, mode=mode))  # type: ignore[arg-type]
    energy = torch.cat([p.flatten() for p in heads.energy.backbone.state_dict().values()])
    denoiser = torch.cat([p.flatten() for p in heads.denoiser.backbone.state_dict().values()])
    same = mode == "joint" or "-on-" in mode
    assert torch.equal(energy, denoiser) == same
    if mode.startswith("energy-from") or mode.startswith("denoiser-from"):
        separate = fit_heads(gaussian.sample(200, seed=0), QUICK)
        first = "denoiser" if mode.startswith("energy") else "energy"
        own = getattr(heads, first).backbone.state_dict()
        alone = getattr(separate, first).backbone.state_dict()
        assert all(torch.equal(own[name], value) for name, value in alone.items())
    assert all(
        torch.isfinite(values).all()
        for values in component_scores(heads, gaussian.sample(20, seed=1)).values()
    )


@pytest.mark.parametrize("kind", ["transformer", "mixer", "resmlp"])
@pytest.mark.parametrize("gaussian_start", [True, False])
def test_every_backbone_fits_with_every_kind_of_negative(
    gaussian: GaussianTuples, kind: str, gaussian_start: bool
) -> None:
    config = replace(
        QUICK,
        backbone=BackboneConfig(kind=kind, width=8, depth=1, heads=2),  # type: ignore[arg-type]
        gaussian_start=gaussian_start,
        mismatch=MismatchConfig(neighbour=1.0, collapsed=1.0, queue=64),
        subset_drop=0.5,
    )
    heads = fit_heads(gaussian.sample(200, seed=0), config)
    if gaussian_start:
        assert heads.metrics["matched_auroc"] > 0.97
    assert set(heads.clean_scores) == {"energy", "ridge", "gaussian", "denoiser", "robust"}
    assert {len(scores) for scores in heads.clean_scores.values()} == {20}


class Killed(Exception):
    pass


class KillIn(SilentProgress):
    """Dies after the second epoch of one step, and counts the epochs of all steps."""

    def __init__(self, title: str | None) -> None:
        self.title, self.epochs = title, 0

    @contextmanager
    def step(self, title, total=None):  # type: ignore[no-untyped-def]
        outer = self

        class Task:
            seen = 0

            def advance(self, amount: int = 1, *, note: str = "") -> None:
                if note:
                    outer.epochs += 1
                    self.seen += 1
                    if title == outer.title and self.seen == 2:
                        raise Killed

        yield Task()


@pytest.mark.parametrize("title", ["training energy", "training denoiser"])
def test_killed_fit_resumes_to_the_same_bytes(gaussian: GaussianTuples, tmp_path: Path, title: str) -> None:
    training = TrainConfig(epochs=3, batch_size=64)
    config = replace(QUICK, energy=training, denoiser=training)
    tuples = gaussian.sample(300, seed=0)
    whole = fit_heads(tuples, config)
    with pytest.raises(Killed):
        fit_heads(tuples, config, checkpoint=tmp_path, progress=KillIn(title))
    rest = KillIn(None)
    resumed = fit_heads(tuples, config, checkpoint=tmp_path, progress=rest)
    assert torch.equal(all_weights(resumed), all_weights(whole))
    assert rest.epochs == (1 + 3 if title == "training energy" else 1)  # finished epochs are not run again
    assert dict(resumed.metrics) == dict(whole.metrics)


def test_bfloat16_training_keeps_the_closed_form_exact(gaussian: GaussianTuples) -> None:
    tuples = gaussian.sample(300, seed=0)
    heads = fit_heads(tuples, QUICK)
    source, references = heads.standardise(tuples)
    posterior = heads.closed_form.posterior()

    def both() -> tuple[Tensor, Tensor]:
        lifted = heads.closed_form.lift(references)
        return posterior.mean(lifted), posterior.mahalanobis(source - posterior.mean(lifted))

    expected = both()
    with torch.autocast("cpu", torch.bfloat16):
        found = both()
        low = source @ posterior.vectors
    assert low.dtype == torch.bfloat16
    assert all(torch.equal(left, right) for left, right in zip(expected, found, strict=True))
    half = replace(QUICK.energy, precision="bfloat16")
    trained = fit_heads(tuples, replace(QUICK, energy=half, denoiser=half))
    assert all(parameter.dtype == torch.float32 for parameter in trained.energy.parameters())
    assert trained.metrics["energy_gap"] == pytest.approx(heads.metrics["energy_gap"], rel=0.05)


def test_isolated_references_fit_and_score(gaussian: GaussianTuples) -> None:
    backbone = BackboneConfig(width=8, depth=2, heads=2, isolated=True)
    heads = fit_heads(gaussian.sample(300, seed=0), replace(QUICK, backbone=backbone))
    assert heads.metrics["matched_auroc"] > 0.97


def test_papers_recipe_has_no_head_start(gaussian: GaussianTuples) -> None:
    """From scratch, real mismatches only, references dropped all or none."""
    config = replace(
        QUICK,
        gaussian_start=False,
        mismatch=MismatchConfig(collapsed=0.0),
        sigma_min=0.002,
        subset_drop=0.0,
        lift_features=0,
    )
    heads = fit_heads(gaussian.sample(200, seed=0), config)
    assert heads.energy.closed_form is None
    assert heads.denoiser.closed_form is None
    assert "log_gaussian_scale" not in heads.energy.state_dict()


def test_standardiser_leaves_dead_dimensions_alone() -> None:
    values = (
        torch.randn(100, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([2.0, 1.0, 0.0]) + 5
    )
    entry = fit_standardiser(values)
    applied = entry.apply(values)
    assert torch.allclose(applied[:, :2].std(dim=0), torch.ones(2), atol=1e-5)
    assert float(applied[:, 2].abs().max()) < 1e-5
    assert torch.allclose(entry.invert(applied), values, atol=1e-5)


def test_wrong_tuples_are_refused(gaussian: GaussianTuples, small_heads: Heads) -> None:
    tuples = gaussian.sample(150, seed=0)
    with pytest.raises(UsageError, match="99 clean tuples are too few"):
        fit_heads(tuples.select(torch.arange(99)), QUICK)
    broken = tuples.source.clone()
    broken[3, 2] = float("nan")
    with pytest.raises(UsageError, match="'source' contain NaN"):
        fit_heads(tuples.with_source(broken), QUICK)
    with pytest.raises(UsageError, match="at least one reference"):
        fit_heads(FeatureTuples(tuples.source, {}), QUICK)
    with pytest.raises(UsageError, match="lack reference 'right'"):
        small_heads.energies(FeatureTuples(tuples.source, {"left": tuples.references["left"]}))
    with pytest.raises(UsageError, match=r"source has shape \(150, 7\).* 8-d"):
        small_heads.energies(tuples.with_source(tuples.source[:, :7]))
    with pytest.raises(UsageError, match="'up' is not one of them"):
        small_heads.energies(tuples, references=["up"])


def test_configuration_round_trip_and_errors() -> None:
    config = preset("small", gaussian_start=False, mode="joint")
    again = FitConfig.from_json(json.loads(json.dumps(config.to_json())))
    assert again == config
    assert preset_name(config) == "small"
    assert preset_name(QUICK) == "custom"
    with pytest.raises(UnknownNameError, match="epocs"):
        FitConfig.from_json({"energy": {"epocs": 3}})
    with pytest.raises(UsageError, match="epochs has the wrong type"):
        FitConfig.from_json({"energy": {"epochs": "3"}})
    with pytest.raises(UsageError, match="must be a JSON object"):
        FitConfig.from_json({"backbone": 3})
    with pytest.raises(UsageError, match="sigma_min"):
        FitConfig(sigma_min=90.0)
    with pytest.raises(UnknownNameError, match="training mode"):
        FitConfig(mode="both")  # type: ignore[arg-type]


def test_every_step_of_a_fit_has_an_estimate(gaussian: GaussianTuples) -> None:
    told: dict[str, tuple[int | None, list[int]]] = {}

    class Told(SilentProgress):
        @contextmanager
        def step(self, title: str, total: int | None = None) -> Iterator[Task]:
            done: list[int] = []
            told[title] = (total, done)
            yield SimpleNamespace(advance=lambda amount=1, note="": done.append(amount))  # type: ignore[misc]

    fit_heads(gaussian.sample(300, seed=0), QUICK, progress=Told())
    assert list(told) == [
        "fitting closed forms", "training energy", "training denoiser", "measuring held-out images"
    ]  # fmt: skip
    for title, (total, done) in told.items():
        assert total == sum(done), title
    assert len(told["fitting closed forms"][1]) > 2
    assert len(told["measuring held-out images"][1]) > 2
