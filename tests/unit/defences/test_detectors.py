import subprocess
import sys

import pytest
import torch

from platodef_cli.defences import make_detector
from platodef_cli.defences.knn import KnnDetector
from platodef_cli.defences.platonic import PlatonicDetector, members_of
from platodef_cli.errors import UnknownNameError, UsageError
from platodef_cli.heads.evaluate import COMPONENTS, auroc, one_shot_mean
from platodef_cli.heads.heads import Heads
from tests.gaussian_tuples import GaussianTuples


def test_ridge_and_gaussian_against_dense_matrices(gaussian: GaussianTuples, small_heads: Heads) -> None:
    test = gaussian.sample(20, seed=5)
    source, references = small_heads.standardise(test)
    stacked = torch.cat(references, dim=1)
    posterior = small_heads.ridge.posterior()
    covariance = (posterior.vectors * posterior.values) @ posterior.vectors.T
    residual = source - stacked @ posterior.weights
    expected = (residual * torch.linalg.solve(covariance, residual.T).T).sum(dim=1)
    assert torch.allclose(make_detector("ridge", small_heads).score(test), expected.double(), rtol=1e-3)


def test_denoiser_score_is_the_length_around_the_one_shot_mean(
    gaussian: GaussianTuples, small_heads: Heads
) -> None:
    test = gaussian.sample(20, seed=5)
    source, _ = small_heads.standardise(test)
    posterior = small_heads.closed_form.posterior()
    covariance = (posterior.vectors * posterior.values) @ posterior.vectors.T
    residual = source - one_shot_mean(small_heads, test)
    expected = (residual * torch.linalg.solve(covariance, residual.T).T).sum(dim=1)
    assert torch.allclose(make_detector("denoiser", small_heads).score(test), expected.double(), rtol=1e-3)


def test_mahalanobis_ignores_the_references(gaussian: GaussianTuples, small_heads: Heads) -> None:
    test = gaussian.sample(200, seed=5)
    detector = make_detector("mahalanobis", small_heads)
    other = gaussian.sample(200, seed=6).with_source(test.source)
    assert torch.equal(detector.score(test), detector.score(other))
    moved = test.with_source(test.source * 3)
    assert auroc(detector.score(test), detector.score(moved)) > 0.99


def test_knn_against_sorted_distances(gaussian: GaussianTuples, small_heads: Heads) -> None:
    bank, test = gaussian.sample(60, seed=5), gaussian.sample(9, seed=6)
    result = KnnDetector(small_heads, bank, neighbours=4).score(test)
    rows, references = small_heads.standardise(test)[0], small_heads.standardise(bank)[0]
    for row in range(9):
        expected = (references - rows[row]).norm(dim=1).sort().values[3]
        assert result[row].item() == pytest.approx(expected.item(), rel=1e-4)
    with pytest.raises(UsageError, match="at least 10"):
        make_detector("knn", small_heads)


def test_platonic_is_the_mean_of_scaled_members(gaussian: GaussianTuples, small_heads: Heads) -> None:
    clean, test = gaussian.sample(101, seed=5), gaussian.sample(7, seed=6)
    expected = torch.zeros(7, dtype=torch.float64)
    for member in members_of(small_heads):
        scores = COMPONENTS[member](small_heads, clean)
        ordered = sorted(scores.tolist())
        middle = ordered[50]
        deviation = sorted(abs(value - middle) for value in ordered)[50]
        expected += (
            (COMPONENTS[member](small_heads, test) - middle) / deviation / len(members_of(small_heads))
        )
    assert torch.allclose(PlatonicDetector(small_heads, clean).score(test), expected)


def test_unknown_name_lists_the_choices(small_heads: Heads) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'energy'.*platonic"):
        make_detector("enrgy", small_heads)


def test_tables_do_not_import_torch() -> None:
    code = "import sys, platodef_cli.defences, platodef_cli.heads; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
