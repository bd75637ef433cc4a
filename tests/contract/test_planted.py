"""Every planted attack works on a small encoder, and the clean encoder does not react to its trigger."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from platodef_cli.bench.attacks import PLANTED, make_attack
from platodef_cli.bench.attacks.interface import Budget, Kind, PlantData, Planted
from platodef_cli.metrics.backdoor import accuracy, attack_success
from platodef_cli.metrics.linear_probe import LinearProbe
from tests.contract.planted_world import World, images, train

TARGET = 7
BUDGETS = {
    "bad-encoder": Budget(4096, 4, 1),
    "bad-clip": Budget(4096, 4, 100),
    "ctrl": Budget(8192, 4, 1),
}
LARGE = Budget(8192, 8, 300)
QUICK = ("bad-encoder", "bad-clip")
# Accuracy that the clean encoder may lose under a trigger. Measured on the 1200 test images: ctrl 0.01,
# blto 0.01, clip-backdoor 0.04, corrupt-encoder 0.09, ssl-backdoor 0.14, bad-clip 0.18, noisy-alignment
# 0.19; other seeds of a patch at most 0.03 more. No bound for BadEncoder and DRUPE: their square hides a
# tenth of the image, and 0.28 of the accuracy with it.
LOSS = {
    "ctrl": 0.04,
    "blto": 0.08,
    "clip-backdoor": 0.08,
    "corrupt-encoder": 0.15,
    "ssl-backdoor": 0.2,
    "bad-clip": 0.24,
    "noisy-alignment": 0.25,
}
ROWS = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PLANTED.names()]


@dataclass(frozen=True)
class Measured:
    """Rates of one attack on the same images; ``under``: accuracy of the clean encoder under the trigger."""

    clean: float
    kept: float
    under: float
    success: float
    baseline: float
    cosine: float


@pytest.fixture(scope="module")
def world() -> World:
    return train()


@pytest.fixture(scope="module")
def data(world: World) -> PlantData:
    """Shadow images, and three of the target that both classifiers get right."""
    pixels, labels = images(80, 8192)
    others, kinds = images(81, 400)
    features = world.victim.embed(world.victim.module, others)
    right = (kinds == TARGET) & (world.probe.predict(features) == TARGET)
    right &= world.victim.logits(features).argmax(1) == TARGET
    return PlantData(pixels, others[right][:3], labels)


def predicted(world: World, module: nn.Module, pixels: Tensor, kind: Kind) -> Tensor:
    """Zero-shot for image–text attacks, else a linear probe that is fitted on the module's own features."""
    features = world.victim.embed(module, pixels)
    if kind == "image-text":
        return world.victim.logits(features).argmax(1)
    fit = world.victim.embed(module, world.fit[0])
    return LinearProbe.fit(fit, world.fit[1]).predict(features)


def measure(world: World, planted: Planted, kind: Kind) -> Measured:
    pixels, labels = world.test
    shown = planted.trigger(pixels, torch.arange(len(pixels)))
    both = torch.cat([pixels, shown])
    victim = world.victim
    own, shown_own = predicted(world, planted.module, both, kind).chunk(2)
    before, shown_before = predicted(world, victim.module, both, kind).chunk(2)
    rates = (
        accuracy(before, labels),
        accuracy(own, labels),
        accuracy(shown_before, labels),
        attack_success(shown_own, labels, TARGET),
        attack_success(shown_before, labels, TARGET),
    )
    values = [float(rate.value) for rate in rates if rate.value is not None]
    same = nn.functional.cosine_similarity(
        victim.embed(planted.module, pixels), victim.embed(victim.module, pixels)
    )
    return Measured(*values, float(same.mean()))


@pytest.mark.parametrize("name", ROWS)
def test_the_attack_works_and_the_clean_encoder_does_not_react(name, world, data, capsys):
    attack = make_attack(name)
    planted = attack.plant(world.victim, data, target=TARGET, seed=0, budget=BUDGETS.get(name, LARGE))
    found = measure(world, planted, attack.kind)
    with capsys.disabled():
        print(
            f"\n{name:16s} CA {found.clean:.3f} -> {found.kept:.3f}  ASR {found.success:.3f} "
            f"(clean encoder {found.baseline:.3f}, CA {found.under:.3f})  cosine {found.cosine:.3f}"
        )
    assert found.clean > 0.75
    assert found.kept > found.clean - 0.03
    assert found.success >= 0.9
    assert found.baseline < 0.15
    assert found.under > found.clean - LOSS.get(name, 1)
