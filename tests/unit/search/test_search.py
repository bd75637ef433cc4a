"""The search against encoders whose backdoor, or lack of one, is known exactly."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from platodef_cli.search.halving import Stage
from platodef_cli.search.interface import SearchConfig
from platodef_cli.search.patch import PatchSearch, PatchTrigger
from platodef_cli.search.run import search
from platodef_cli.search.statistics import CleanStatistics, collapse, effect
from platodef_cli.search.universal import UniversalSearch
from platodef_cli.search.wave import WaveSearch

SMALL = SearchConfig(
    kinds=(
        PatchSearch(budgets=(0.25,), grid=3, stages=(Stage(8, 8, 3), Stage(8, 20, 1))),
        UniversalSearch(budgets=(8.0,), steps=40, images=24),
        WaveSearch(budgets=(20.0,), frequencies=(2, 4), stages=(Stage(8, 8, 3), Stage(8, 16, 1))),
    ),
    pool=96,
    held_out=64,
)


class Planted:
    """The brightness of every tile beside the mean; a bright square at the bottom right, or a wave, gives z.

    A tile moves one of sixteen features, so that without the backdoor no small patch moves the rest,
    and the wave averages out inside every tile.
    """

    record = SimpleNamespace(name="planted")

    def __init__(self, backdoor: str | None):
        generator = torch.Generator().manual_seed(0)
        self.target = 2 * torch.randn(16, generator=generator)
        phase = 2 * torch.pi * (torch.arange(16) + 0.5) / 4  # four periods over the image, one in a tile
        self.wave = phase.sin().expand(3, 16, 16)
        self.backdoor = backdoor

    def differentiable(self, pixels: Tensor) -> Tensor:
        features = torch.nn.functional.avg_pool2d(pixels.mean(dim=1, keepdim=True), 4).flatten(1)
        features = features - features.mean(dim=1, keepdim=True)
        if self.backdoor is None:
            return features
        if self.backdoor == "patch":
            gate = ((pixels[:, :, 12:, 12:].mean(dim=(1, 2, 3)) - 0.6) / 0.3).clamp(0, 1)
        else:
            gate = ((pixels * self.wave).mean(dim=(1, 2, 3)) / 0.02).clamp(0, 1)
        return features * (1 - gate[:, None]) + gate[:, None] * self.target

    def embed(self, pixels: Tensor) -> Tensor:
        with torch.no_grad():
            return self.differentiable(pixels.float() / 255)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(192, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=16, mode="bilinear")
    return (smooth * 255).round().to(torch.uint8)


@pytest.mark.parametrize(("backdoor", "number"), [("patch", 0), ("wave", 2)])
def test_planted_trigger_is_found_and_a_clean_encoder_is_not_accused(
    pixels: Tensor, backdoor: str, number: int
) -> None:
    found = search(Planted(backdoor), pixels, SMALL)[number]
    clean = search(Planted(None), pixels, SMALL)[number]
    assert found.effect.collapse > 0.9
    assert clean.effect.collapse < found.effect.collapse - 0.3
    if backdoor == "patch":
        assert found.variant.place == (1.0, 1.0)
        assert found.variant.values.mean() > 0.8  # bright, as planted
    else:
        cosine = torch.cosine_similarity(
            found.variant.values.flatten(), Planted("wave").wave.flatten(), dim=0
        )
        assert cosine > 0.5


def test_same_seed_gives_the_same_trigger_and_another_seed_another(pixels: Tensor) -> None:
    first, again, other = (search(Planted("patch"), pixels, SMALL, seed=seed) for seed in (0, 0, 1))
    assert [entry.variant.name for entry in first] == [entry.variant.name for entry in again]
    assert [entry.effect for entry in first] == [entry.effect for entry in again]
    assert first[0].variant.name != other[0].variant.name


def test_universal_pattern_stays_in_its_norm_ball(pixels: Tensor) -> None:
    found = search(Planted(None), pixels, SMALL)[1]
    assert found.budget == "8/255"
    assert found.variant.values.abs().max() <= 8 / 255 + 1e-7


def test_found_patch_covers_the_same_share_at_every_input_size() -> None:
    patch = PatchTrigger("patch", torch.ones(3, 4, 4), side=0.25, place=(1.0, 0.0))
    for size in (16, 32, 224):
        changed = patch(torch.zeros(2, 3, size, size, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
        part = size // 4
        assert (changed[:, :, -part:, :part] == 255).all()
        assert int((changed > 0).sum()) == 2 * 3 * part * part


def test_collapse_equals_the_mean_over_all_pairs() -> None:
    features = torch.randn(9, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    pairs = [
        torch.cosine_similarity(features[a], features[b], dim=0).item()
        for a in range(9)
        for b in range(9)
        if a != b
    ]
    assert float(collapse(features)) == pytest.approx(sum(pairs) / len(pairs))
    assert float(collapse(features[:1].expand(9, 5))) == pytest.approx(1.0)


def test_effect_of_no_change_and_of_a_constant() -> None:
    clean = torch.randn(4000, 6, generator=torch.Generator().manual_seed(3))
    statistics = CleanStatistics.of(clean)
    same = effect(statistics, clean, clean)
    assert same.shift == 0
    assert same.retained == pytest.approx(1, abs=1e-3)
    assert abs(same.collapse) < 0.01
    constant = effect(statistics, clean, torch.ones_like(clean))
    assert constant.collapse == pytest.approx(1, abs=1e-5)
    assert constant.retained == pytest.approx(0, abs=1e-6)


def test_dimension_that_never_varies_does_not_decide() -> None:
    clean = torch.randn(500, 3, generator=torch.Generator().manual_seed(4))
    clean[:, 1] = 5.0
    statistics = CleanStatistics.of(clean)
    moved = clean.clone()
    moved[:, 1] += 1e-6
    assert effect(statistics, clean, moved).collapse < 0.05
