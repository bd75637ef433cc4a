"""The parts of the planted attacks against slow or exact references."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from platodef_cli.bench.attacks import PLANTED, make_attack
from platodef_cli.bench.attacks.composites import CorruptEncoder, NoisyAlignment
from platodef_cli.bench.attacks.drupe import sliced_wasserstein
from platodef_cli.bench.attacks.interface import PlantData, Victim
from platodef_cli.bench.attacks.post_training import distance, endless
from platodef_cli.errors import UnknownNameError, UsageError
from platodef_cli.triggers.stored import load_trigger, save_trigger
from tests.unit.bench.attacks.tiny import TINY, generator, images


@pytest.mark.parametrize("name", PLANTED.names())
def test_planting_keeps_its_contract(name, victim, data, tmp_path):
    """f0 stays as it was, BatchNorm keeps its statistics, the same seed gives the same bytes."""
    attack = make_attack(name)
    before = {key: value.clone() for key, value in victim.module.state_dict().items()}
    planted = attack.plant(victim, data, target=2, seed=5, budget=TINY)
    again = attack.plant(victim, data, target=2, seed=5, budget=TINY)
    other = attack.plant(victim, data, target=2, seed=6, budget=TINY)
    for key, value in victim.module.state_dict().items():
        assert torch.equal(value, before[key])
        assert torch.equal(planted.module.state_dict()[key], again.module.state_dict()[key])
        if "running" in key:
            assert torch.equal(planted.module.state_dict()[key], value)
    assert victim.module.training
    assert not planted.module.training
    assert not any(weight.requires_grad for weight in planted.module.parameters())
    weight = planted.module.state_dict()["4.weight"]
    assert not torch.equal(weight, before["4.weight"])
    assert not torch.equal(weight, other.module.state_dict()["4.weight"])
    assert (planted.attack, planted.target) == (name, 2) == (attack.name, 2)
    assert len(planted.log) == TINY.epochs
    assert all(np.isfinite(value) for entry in planted.log for value in entry.values())
    assert planted.parameters["seed"] == 5
    assert planted.parameters["budget_epochs"] == 2
    assert {field.name for field in dataclasses.fields(attack)} < set(planted.parameters)
    assert attack.paper
    save_trigger(planted.trigger, tmp_path)
    pixels = images(0, 4)
    assert torch.equal(
        load_trigger(tmp_path)(pixels, torch.arange(4)), again.trigger(pixels, torch.arange(4))
    )
    fixed = attack.trigger(5)
    assert fixed is None or fixed.name == planted.trigger.name


@pytest.mark.parametrize("name", ["clip-backdoor", "bad-clip"])
def test_image_text_attacks_need_text(name, victim, data):
    attack = make_attack(name)
    for other, given, target, message in (
        (dataclasses.replace(victim, prompts=None), data, 2, "give class-prompt vectors"),
        (victim, PlantData(data.images, data.target_images), 2, "give class-prompt vectors"),
        (victim, data, 5, "target 5"),
        (victim, PlantData(data.images, data.target_images, data.labels + 1), 2, "labels must be rows"),
    ):
        with pytest.raises(UsageError, match=message):
            attack.plant(other, given, target=target, seed=0, budget=TINY)


def test_wrong_data_and_budgets_are_refused(data):
    with pytest.raises(UsageError, match="uint8"):
        PlantData(data.images.float(), data.target_images)
    with pytest.raises(UsageError, match="N > 0"):
        PlantData(data.images[:0], data.target_images)
    with pytest.raises(UsageError, match="differ in size"):
        PlantData(data.images, data.target_images[..., :16])
    with pytest.raises(UsageError, match="give one each"):
        PlantData(data.images, data.target_images, torch.zeros(3))
    with pytest.raises(UsageError, match="positive"):
        dataclasses.replace(TINY, epochs=0)
    with pytest.raises(UnknownNameError, match="did you mean 'drupe'"):
        make_attack("drup")
    with pytest.raises(UsageError, match="no class-prompt vectors"):
        Victim(nn.Identity()).logits(torch.zeros(1, 4))


def test_distance_is_zero_for_equal_features_and_grows_with_angle_and_length():
    one = torch.tensor([[3.0, 4.0]])
    assert float(distance(one, one)) == pytest.approx(0, abs=1e-6)
    assert float(distance(one, torch.tensor([[-4.0, 3.0]]))) == pytest.approx(1, abs=1e-6)
    assert float(distance(torch.e * one, one)) == pytest.approx(0.1, abs=1e-5)
    assert float(distance(torch.e * one, one, length=0)) == pytest.approx(0, abs=1e-6)


def test_endless_batches_are_epochs_of_every_row():
    drawn = list(endless(10, 4, 6, generator()))
    assert [len(rows) for rows in drawn] == [4, 4, 2, 4, 4, 2]
    assert sorted(torch.cat(drawn[:3]).tolist()) == list(range(10))
    assert not torch.equal(torch.cat(drawn[:3]), torch.cat(drawn[3:]))


def test_sliced_wasserstein_in_one_dimension_is_the_exact_distance():
    one, other = (
        torch.randn(40, 1, generator=generator(1)),
        torch.randn(40, 1, generator=generator(2)) * 2 + 1,
    )
    # the optimal plan of equal samples is a permutation; all of them, by an independent solver
    costs = (one - other.T).square().numpy()
    rows, columns = linear_sum_assignment(costs)
    exact = float(np.sqrt(costs[rows, columns].mean()))
    assert float(sliced_wasserstein(one, other, 5, generator())) == pytest.approx(exact, rel=1e-4)
    assert float(sliced_wasserstein(one, one, 5, generator())) < 1e-5


@pytest.mark.parametrize("attack", [CorruptEncoder(), NoisyAlignment()], ids=lambda attack: attack.name)
def test_composites_hold_the_patch_and_the_reference(attack):
    """Over many draws: every layout, the patch whole and in the inner part of its half."""
    pixels = torch.full((8, 3, 32, 32), 60, dtype=torch.uint8)
    references = images(3, 8)
    patch = attack.trigger(1).picture(pixels)
    seen, random = set(), generator()
    for _ in range(40):
        made = attack.compose(pixels, references, 1, random)
        height, width = made.side
        seen.add((tuple(made.canvas.shape[-2:]), made.triggered))
        for row in range(8):
            y, x = made.corner[row].tolist()
            assert torch.equal(made.canvas[row, :, y : y + height, x : x + width], patch)
            inside = made.corner[row] - torch.tensor(made.triggered)
            assert (inside >= 0).all()
            assert (inside + torch.tensor(made.side) <= 32).all()
            if attack.name == "corrupt-encoder":
                assert (inside >= 8).all()
                assert (inside + torch.tensor(made.side) <= 24).all()
        y, x = made.target
        assert torch.equal(made.canvas[..., y : y + 32, x : x + 32][0, :, :, 8:24], references[0, :, :, 8:24])
    layouts = {((32, 64), (0, 0)), ((32, 64), (0, 32)), ((64, 32), (0, 0)), ((64, 32), (32, 0))}
    assert seen == (layouts if attack.name == "noisy-alignment" else {e for e in layouts if e[0] == (32, 64)})


@pytest.mark.parametrize("attack", [CorruptEncoder(), NoisyAlignment()], ids=lambda attack: attack.name)
def test_views_of_the_triggered_half_show_the_whole_patch(attack):
    """A white patch on black keeps its area, scaled by the window."""
    pixels = torch.zeros(64, 3, 32, 32, dtype=torch.uint8)
    made = attack.compose(pixels, pixels, 1, generator())
    made.canvas.zero_()
    height, width = made.side
    for row, (y, x) in enumerate(made.corner.tolist()):
        made.canvas[row, :, y : y + height, x : x + width] = 255
    view = made.trigger_view(0.75, generator(1)).float() / 255
    area = view[:, 0].sum((1, 2)) / (height * width)
    assert area.min() > 0.95
    assert area.max() < 1.05 / 0.75**2
    assert area.std() > 0.05
    assert made.target_view(0.75, generator(1)).shape == pixels.shape
