"""Detectors that were asked for: those that can work, and the reason for the others."""

import pytest

from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.steps.samples import wants_images
from platodef_cli.audit.steps.scoring import CalibratedDefences, build_detectors
from platodef_cli.heads.heads import Heads
from tests.gaussian_tuples import GaussianTuples
from tests.toy_model import ToyModel, pictures, samples


def test_what_cannot_work_has_a_reason_and_no_score(gaussian: GaussianTuples, small_heads: Heads) -> None:
    names = ("ridge", "knn", "decomp", "dede", "clipscore")
    found, reasons = build_detectors(
        names, small_heads, gaussian.sample(80, seed=1), gaussian.sample(40, seed=2), 0, None
    )
    assert tuple(found) == ("ridge", "knn")
    assert set(reasons) == {"decomp", "dede", "clipscore"}
    assert reasons["dede"] == "needs images"
    assert reasons["decomp"] == "needs images and internals"
    assert reasons["clipscore"].startswith("needs text")


def test_a_judge_scores_with_what_the_access_permits_and_counts_the_cost(small_heads: Heads) -> None:
    model = ToyModel()
    config = AuditConfig("toy", detectors=("decomp", "clipscore", "ridge"), false_positive_rate=0.1)
    bank, calibration, test = (samples(model, pictures(60, seed)) for seed in (1, 2, 3))
    judge = CalibratedDefences(small_heads, bank, calibration, test, config, model)
    scored = judge.score(test)
    assert set(scored.scores) == {"decomp", "ridge", judge.deciding}
    assert list(judge.not_applicable) == ["clipscore"]
    assert {entry.detector for entry in judge.thresholds} == set(scored.scores)
    costs = judge.costs()
    assert set(costs) == set(scored.scores)
    assert all(cost.seconds >= 0 and cost.memory_mb >= 0 for cost in costs.values())
    assert costs["decomp"].seconds > 0


@pytest.mark.parametrize(
    ("detectors", "purifier", "expected"),
    [(("ridge", "dao"), "mean", False), (("dede",), "mean", True), (("ridge",), "zip", True)],
)
def test_images_are_loaded_only_where_somebody_looks_at_them(
    detectors: tuple[str, ...], purifier: str, expected: bool
) -> None:
    assert wants_images(AuditConfig("toy", detectors=detectors, purifier=purifier)) is expected
