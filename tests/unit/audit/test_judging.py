"""Thresholds of the detectors of an audit."""

import torch

from platodef_cli.audit.config import AuditConfig
from platodef_cli.audit.steps.scoring import CalibratedDefences
from platodef_cli.heads.heads import Heads
from tests.gaussian_tuples import GaussianTuples


def test_no_detector_scores_its_own_bank(gaussian: GaussianTuples, small_heads: Heads) -> None:
    bank, calibration, test = (gaussian.sample(400, seed=seed) for seed in (5, 6, 7))
    config = AuditConfig(model="m", detectors=("knn",), false_positive_rate=0.2)
    judge = CalibratedDefences(small_heads, bank, calibration, test, config)
    source, own, of_bank = (small_heads.standardise(tuples)[0] for tuples in (test, calibration, bank))
    distances = torch.cdist(own, of_bank).sort(dim=1).values[:, 9]
    limit = float(distances.sort().values[-80])  # a rate of 0.2 leaves 80 of 400 at it or above
    threshold = next(entry for entry in judge.thresholds if entry.detector == "knn")
    assert abs(threshold.value - limit) < 1e-3
    measured = float((torch.cdist(source, of_bank).sort(dim=1).values[:, 9] > limit).float().mean())
    assert threshold.measured.value is not None
    assert abs(threshold.measured.value - measured) < 0.01
