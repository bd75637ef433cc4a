"""What the battery says that it would have found is found that often, and what it could not find is named."""

from dataclasses import dataclass

import pytest
import torch

from platodef_cli.audit.policy.limits import Policy
from platodef_cli.audit.steps.battery import try_changes
from platodef_cli.audit.steps.power import attacked, smallest_share
from platodef_cli.audit.steps.scoring import Scored
from platodef_cli.audit.verdict.battery import judge_battery
from platodef_cli.audit.verdict.intervals import SampleSize
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.metrics.paired import PairedScores, paired_auroc_metric
from platodef_cli.search.resampling import variance_draws
from platodef_cli.search.statistics import CleanStatistics
from platodef_cli.triggers.battery import BatteryItem

DIMENSIONS, IMAGES = 24, 200
SAMPLE = SampleSize(IMAGES, IMAGES)


@dataclass(frozen=True)
class Change:
    name: str = "change"


class World:
    """Images, a suspect and a reference that see the same in them, and one change of the images.

    Args:
        seed: Of the images.
        strength: Share of every encoder's feature that the change itself replaces by one direction.
    """

    def __init__(self, seed, strength=0.0):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(*shape, generator=generator)

        views = torch.Generator().manual_seed(0)
        map_of = [torch.linalg.qr(torch.randn(DIMENSIONS, DIMENSIONS, generator=views)).Q for _ in range(2)]
        seen = draw(2 * IMAGES, DIMENSIONS)
        clean = [seen @ m + 0.3 * draw(2 * IMAGES, DIMENSIONS) for m in map_of]
        self.back = torch.linalg.lstsq(clean[1][IMAGES:], clean[0][IMAGES:]).solution
        self.statistics = {
            name: CleanStatistics.of(features[IMAGES:]) for name, features in zip("sr", clean, strict=True)
        }
        source, reference = (features[:IMAGES] for features in clean)
        moved = [(1 - strength) * features + 8 * strength for features in (source, reference)]
        self.features = {
            "clean": FeatureTuples(source, {"r": reference}),
            "change": FeatureTuples(moved[0], {"r": moved[1]}),
        }
        self.suspect, self.references, self.controls, self.deciding = "s", ("r",), ("r",), "residual"
        self.item = BatteryItem(Change(), "patch", "trigger")

    def tuples(self, rows, variant="clean"):
        return self.features[variant], torch.arange(IMAGES)

    samples = tuples

    def score(self, tuples, names=None):
        # detectors that look at images cannot score what was made on features
        assert names == (self.deciding,) or any(tuples is own for own in self.features.values())
        residual = (tuples.source - tuples.references["r"] @ self.back).norm(dim=1).double()
        return Scored({"residual": residual}, torch.zeros(len(residual), dtype=torch.bool))

    def against_themselves(self, scored, rows, positive):
        clean = self.score(self.features["clean"]).scores["residual"]
        pairs = PairedScores.of(clean, rows, scored.scores["residual"], rows)
        return {"residual": paired_auroc_metric(pairs, positive=positive)}

    def probe(self):
        return try_changes([self.item], self, self.statistics, self, None, Policy())[0]

    def plant(self, share, generator):
        """Send a share of the changed images to one of them, both at random."""
        changed = self.features["change"]
        source = changed.source.clone()
        order = torch.randperm(IMAGES, generator=generator)
        target = self.features["clean"].source[int(torch.randint(0, IMAGES, (1,), generator=generator))]
        source[order[: round(share * IMAGES)]] = target
        self.features["change"] = FeatureTuples(source, changed.references)


def outcome(probe):
    return [reason.outcome for reason in judge_battery([probe], Policy(), "residual", SAMPLE)[1]]


def test_an_attack_of_the_stated_success_is_found_with_the_stated_probability():
    rate = World(1).probe().detectable.value
    assert rate is not None
    assert 0.5 < rate < 1
    generator = torch.Generator().manual_seed(7)
    found, missed = 0, 0
    for seed in range(40):
        for share in (rate, rate - 0.25):
            world = World(100 + seed)
            world.plant(share, generator)
            accused = "fail" in outcome(world.probe())
            found += accused and share == rate
            missed += not accused and share != rate
    assert found >= 34  # 0.9 of 40 is 36; fewer than 34 has a probability of 0.1
    assert missed >= 30  # the smallest success rate, not just one that is large enough


def test_a_change_that_does_the_same_to_references_has_no_power_and_is_named():
    probe = World(2, strength=0.9).probe()
    assert probe.detectable.value is None
    (reason,) = judge_battery([probe], Policy(), "residual", SAMPLE)[1]
    assert (reason.id, reason.outcome) == ("battery-saturated", "inconclusive")
    assert "change" in reason.message


def test_a_pass_says_what_would_have_been_found():
    probe = World(3).probe()
    (reason,) = judge_battery([probe], Policy(), "residual", SAMPLE)[1]
    assert reason.outcome == "pass"
    assert f"an attack that sends {probe.detectable.value:.0%} of the images to one place" in reason.message


@pytest.mark.parametrize("least", [0.05, 0.5, 0.75, 1.0])
def test_the_smallest_share_is_found(least):
    assert smallest_share(lambda share: share >= least - 1e-9) == pytest.approx(least)


def test_no_share_is_enough():
    assert smallest_share(lambda share: False) is None


def test_images_of_a_weaker_attack_are_among_those_of_a_stronger_one():
    clean = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    changed = FeatureTuples(clean + 10, {"r": clean})
    weak, strong = (attacked(clean, changed, share)[0].source for share in (0.3, 0.6))
    hit = [(source != changed.source).any(dim=1) for source in (weak, strong)]
    assert [int(rows.sum()) for rows in hit] == [6, 12]
    assert bool((hit[0] & ~hit[1]).sum() == 0)


@pytest.mark.parametrize(("left", "found"), [(0.1, "fail"), (0.9, "pass")])
def test_features_that_gather_at_their_mean_accuse_though_no_direction_is_common(left, found):
    world = World(5)
    changed = world.features["change"]
    mean = world.statistics["s"].mean
    world.features["change"] = FeatureTuples(mean + left * (changed.source - mean), changed.references)
    probe = world.probe()
    assert probe.collapse.value < 0.1
    assert outcome(probe) == [found]


@pytest.mark.parametrize("count", [50, 400])
def test_the_interval_of_a_lost_variance_covers(count):
    generator = torch.Generator().manual_seed(11)
    scales = torch.linspace(0.5, 2, 16)
    truth, covered = float(scales.square().sum()), 0
    for _ in range(300):
        draws = variance_draws(torch.randn(count, 16, generator=generator) * scales)
        low, high = torch.quantile(draws, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        covered += low <= truth <= high
    assert 0.90 <= covered / 300 <= 0.98
