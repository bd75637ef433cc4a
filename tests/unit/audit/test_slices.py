"""Groups of the user's own images: what only the suspect sees otherwise is found."""

import pytest
import torch

from platodef_cli.audit.steps.slices import LEAST, RATE, Alarms, cluster, judge_slices

IMAGES = 400
NAMES = [f"image-{row}" for row in range(IMAGES)]


def groups_of(seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        "suspect": torch.randint(0, 16, (IMAGES,), generator=generator),
        "references": torch.randint(0, 16, (IMAGES,), generator=generator),
    }


def chance(seed, rate=0.05):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(IMAGES, generator=generator) < rate


def test_alike_images_that_only_the_suspect_sees_otherwise_are_found():
    groups, alarms = groups_of(1), chance(2)
    alarms |= groups["references"] == 3
    worst = judge_slices(groups, Alarms(alarms, {"a": chance(3), "b": chance(4)}), NAMES)[0]
    assert worst.departs
    assert (worst.space, worst.flagged.value) == ("references", 1.0)
    assert worst.elsewhere < 0.15
    assert set(worst.images) <= {NAMES[row] for row in (groups["references"] == 3).nonzero().flatten()}


def test_images_that_are_hard_for_a_reference_too_accuse_nobody():
    groups, alarms = groups_of(1), chance(2)
    hard = groups["references"] == 3
    found = judge_slices(groups, Alarms(alarms | hard, {"a": chance(3) | hard, "b": chance(4)}), NAMES)
    assert not any(entry.departs for entry in found)


def test_the_rate_of_false_discoveries_holds_where_nothing_is_there():
    runs = [
        judge_slices(groups_of(seed), Alarms(chance(seed + 1000), {"a": chance(seed + 2000)}), NAMES)
        for seed in range(200)
    ]
    # a whole run is false if it discovers anything, so that the rate is the share of such runs
    assert sum(any(entry.departs for entry in found) for found in runs) / 200 <= RATE


def test_an_encoder_that_is_wrong_everywhere_has_no_slice():
    everywhere = torch.ones(IMAGES, dtype=torch.bool)
    found = judge_slices(groups_of(1), Alarms(everywhere, {"a": chance(3)}), NAMES)
    assert not any(entry.departs for entry in found)


def test_small_groups_are_left_out():
    groups = {"suspect": torch.zeros(IMAGES, dtype=torch.int64)}
    groups["suspect"][: LEAST - 1] = 1
    found = judge_slices(groups, Alarms(groups["suspect"] == 1, {"a": chance(3)}), NAMES)
    assert [entry.count for entry in found] == [IMAGES - LEAST + 1]


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_clusters_are_those_of_the_features(scale):
    generator = torch.Generator().manual_seed(5)
    centres = scale * torch.randn(4, 6, generator=generator)
    truth = torch.arange(100) % 4
    rows = centres[truth] + 0.01 * torch.randn(100, 6, generator=generator)
    numbers = cluster([rows], seed=0)
    pairs = {(int(a), int(b)) for a, b in zip(truth, numbers, strict=True)}
    assert len(pairs) == 4
    assert torch.equal(numbers, cluster([rows], seed=0))
