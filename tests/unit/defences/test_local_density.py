"""DetectCLIP's scores against loops over sorted distances, and the flaw of a batch that judges itself."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from platodef_cli.defences import make_detector
from platodef_cli.defences.interface import Setup
from platodef_cli.defences.local_density import nearest
from platodef_cli.defences.lof import LofDetector
from platodef_cli.errors import NotApplicable, UsageError
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.evaluate import auroc
from platodef_cli.heads.heads import Heads
from tests.gaussian_tuples import GaussianTuples

K = 16


def sorted_distances(point: np.ndarray, rows: np.ndarray) -> list[tuple[float, int]]:
    result = [(float(np.sqrt(((row - point) ** 2).sum())), number) for number, row in enumerate(rows)]
    return sorted(result)[:K]


def lid(distances: list[tuple[float, int]]) -> float:
    reach = distances[-1][0]
    return -1.0 / (sum(math.log(distance / reach) for distance, _ in distances) / K)


def slow(name: str, point: np.ndarray, rows: np.ndarray, own: list[list[tuple[float, int]]]) -> float:
    mine = sorted_distances(point, rows)
    reach = mine[-1][0]
    if name == "kdist":
        return reach
    if name == "lid":
        return lid(mine)
    total = 0.0
    for _, neighbour in mine:
        ratio = reach / own[neighbour][-1][0]
        total += ratio if name == "slof" else lid(own[neighbour]) * math.log(ratio)
    return total / K


@pytest.mark.parametrize("name", ["dao", "slof", "kdist", "lid"])
def test_scores_against_loops(name: str, gaussian: GaussianTuples, small_heads: Heads) -> None:
    bank, test = gaussian.sample(50, seed=5), gaussian.sample(6, seed=6)
    result = make_detector(name, small_heads, bank).score(test)
    rows = small_heads.standardise_source(bank).double().numpy()
    points = small_heads.standardise_source(test).double().numpy()
    without = [
        [(d, n if n < i else n + 1) for d, n in sorted_distances(rows[i], np.delete(rows, i, axis=0))]
        for i in range(len(rows))
    ]
    for number, point in enumerate(points):
        assert result[number].item() == pytest.approx(slow(name, point, rows, without), rel=1e-6)


def test_lof_against_its_definition(gaussian: GaussianTuples, small_heads: Heads) -> None:
    bank, test = gaussian.sample(40, seed=5), gaussian.sample(4, seed=6)
    result = LofDetector(small_heads, bank).score(test)
    rows = small_heads.standardise_source(bank).double()
    points = small_heads.standardise_source(test).double()
    k = 20

    own = torch.cdist(rows, rows).fill_diagonal_(torch.inf)
    reach = own.kthvalue(k, dim=1).values

    def density(distances: Tensor) -> float:
        order = distances.argsort()[:k]
        return 1.0 / float(torch.maximum(distances[order], reach[order]).mean())

    densities = torch.tensor([density(own[i]) for i in range(len(rows))], dtype=torch.float64)
    for number, point in enumerate(points):
        distances = (rows - point).norm(dim=1)
        order = distances.argsort()[:k]
        expected = float(densities[order].mean()) / density(distances)
        assert result[number].item() == pytest.approx(expected, rel=1e-6)


def test_a_batch_full_of_poisons_fools_its_own_reference_and_not_a_clean_bank(small_heads: Heads) -> None:
    """512 clean and 512 alike poisons: as published the poisons are the densest part of the batch."""
    generator = torch.Generator().manual_seed(0)
    bank, clean = (FeatureTuples(torch.randn(512, 8, generator=generator), {}) for _ in range(2))
    # one target feature, and what little the trigger's surroundings still move it along one direction
    direction = torch.randn(1, 8, generator=generator)
    poison = 4.0 + 0.02 * torch.randn(512, 1, generator=generator) * direction
    batch = FeatureTuples(torch.cat([clean.source, poison]), {})
    areas = {}
    for mode in ("default", "published"):
        scores = make_detector("kdist", small_heads, bank, mode=mode).score(batch)
        areas["kdist", mode] = auroc(scores[:512], scores[512:])
        scores = make_detector("dao", small_heads, bank, mode=mode).score(batch)
        areas["dao", mode] = auroc(scores[:512], scores[512:])
    assert areas["dao", "default"] > 0.99
    assert areas["kdist", "default"] > 0.99
    assert areas["dao", "published"] < 0.5
    assert areas["kdist", "published"] < 0.05


def test_duplicates_and_small_references_are_handled(small_heads: Heads) -> None:
    same = torch.ones(40, 8)
    result = nearest(same, same, K, own=True)
    assert bool(torch.isfinite(result.dimension).all())
    assert int((result.index == torch.arange(40)[:, None]).sum()) == 0
    with pytest.raises(UsageError, match="give at least 17"):
        make_detector("dao", small_heads, mode="published").score(FeatureTuples(torch.randn(10, 8), {}))
    with pytest.raises(UsageError, match="bank of at least 17"):
        make_detector("dao", small_heads, FeatureTuples(torch.randn(10, 8), {}))


def test_clipscore_is_the_negated_cosine_and_published_ties_below_zero(small_heads: Heads) -> None:
    image = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    text = torch.tensor([[2.0, 0.0], [1.0, 1.0], [-3.0, 0.0]])
    tuples = FeatureTuples(image, {"text": text})
    result = make_detector("clipscore", small_heads).score(tuples)
    assert result.tolist() == pytest.approx([-2.5, -2.5 / math.sqrt(2), 2.5])
    assert make_detector("clipscore", small_heads, mode="published").score(tuples)[2] == 0
    with pytest.raises(NotApplicable, match="own space"):
        make_detector("clipscore", small_heads).score(FeatureTuples(image, {"text": torch.zeros(3, 5)}))


def test_forests_follow_their_seed(gaussian: GaussianTuples, small_heads: Heads) -> None:
    bank, test = gaussian.sample(60, seed=5), gaussian.sample(9, seed=6)
    first, same, other = (
        make_detector("iforest", small_heads, bank, seed=seed).score(test) for seed in (0, 0, 1)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_mahalanobis_as_published_against_numpy(gaussian: GaussianTuples, small_heads: Heads) -> None:
    bank, test = gaussian.sample(60, seed=5), gaussian.sample(5, seed=6)
    result = make_detector("mahalanobis", small_heads, bank, mode="published").score(test)
    rows = small_heads.standardise_source(bank).double().numpy()
    centred = small_heads.standardise_source(test).double().numpy() - rows.mean(axis=0)
    precision = np.linalg.inv(np.cov(rows.T))
    assert result.tolist() == pytest.approx([float(row @ precision @ row) for row in centred], rel=1e-5)


def test_setup_defaults_are_the_default_mode() -> None:
    assert Setup().mode == "default"
