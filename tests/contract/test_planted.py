"""Every planted attack works on a small encoder, and the clean encoder does not react to its trigger."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from platodef_cli.bench.attacks import PLANTED, make_attack
from platodef_cli.bench.attacks.interface import Kind, PlantData, Planted, PlantingBudget
from platodef_cli.metrics.backdoor import accuracy, attack_success
from platodef_cli.metrics.linear_probe import LinearProbe
from tests.contract.trained_victim import TrainedVictim, images, train

TARGET = 7
BUDGETS = {
    "bad-encoder": PlantingBudget(8192, 16, 300),  # 12 are enough on some processors only
    "bad-clip": PlantingBudget(4096, 4, 100),
    "ctrl": PlantingBudget(8192, 4, 1),
}
LARGE = PlantingBudget(8192, 8, 300)
QUICK = ("bad-encoder", "bad-clip")
# Accuracy that the clean encoder may lose under a trigger. Measured on the 1200 test images: ctrl 0.01,
# blto 0.01, composite 0.02, clip-backdoor 0.04, corrupt-encoder 0.09, ssl-backdoor 0.14, bad-clip 0.18,
# noisy-alignment 0.19; other seeds of a patch at most 0.03 more. No bound for BadEncoder and DRUPE: their
# square hides a tenth of the image, and 0.28 of the accuracy with it.
LOSS = {
    "ctrl": 0.04,
    "blto": 0.08,
    "composite": 0.08,
    "clip-backdoor": 0.08,
    "corrupt-encoder": 0.15,
    "ssl-backdoor": 0.2,
    "bad-clip": 0.24,
    "noisy-alignment": 0.25,
}
ROWS = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PLANTED.names()]


@dataclass(frozen=True)
class Rates:
    """Rates of one attack on the same images; ``under``: accuracy of the clean encoder under the trigger."""

    clean: float
    kept: float
    under: float
    success: float
    baseline: float
    cosine: float


@pytest.fixture(scope="module")
def trained() -> TrainedVictim:
    return train()


@pytest.fixture(scope="module")
def data(trained: TrainedVictim) -> PlantData:
    """Shadow images, and three of the target that both classifiers get right."""
    pixels, labels = images(80, 8192)
    others, kinds = images(81, 400)
    features = trained.victim.embed(trained.victim.module, others)
    right = (kinds == TARGET) & (trained.probe.predict(features) == TARGET)
    right &= trained.victim.logits(features).argmax(1) == TARGET
    return PlantData(pixels, others[right][:3], labels)


def predicted(trained: TrainedVictim, module: nn.Module, pixels: Tensor, kind: Kind) -> Tensor:
    """Zero-shot for image–text attacks, else a linear probe that is fitted on the module's own features."""
    features = trained.victim.embed(module, pixels)
    if kind == "image-text":
        return trained.victim.logits(features).argmax(1)
    fit = trained.victim.embed(module, trained.fit[0])
    return LinearProbe.fit(fit, trained.fit[1]).predict(features)


def measure(trained: TrainedVictim, planted: Planted, kind: Kind) -> Rates:
    pixels, labels = trained.test
    triggered = planted.trigger(pixels, torch.arange(len(pixels)))
    both = torch.cat([pixels, triggered])
    victim = trained.victim
    own, triggered_own = predicted(trained, planted.module, both, kind).chunk(2)
    before, triggered_before = predicted(trained, victim.module, both, kind).chunk(2)
    metrics = (
        accuracy(before, labels),
        accuracy(own, labels),
        accuracy(triggered_before, labels),
        attack_success(triggered_own, labels, TARGET),
        attack_success(triggered_before, labels, TARGET),
    )
    values = [float(rate.value) for rate in metrics if rate.value is not None]
    same = nn.functional.cosine_similarity(
        victim.embed(planted.module, pixels), victim.embed(victim.module, pixels)
    )
    return Rates(*values, float(same.mean()))


@pytest.mark.parametrize("name", ROWS)
def test_the_attack_works_and_the_clean_encoder_does_not_react(name, trained, data, capsys):
    attack = make_attack(name)
    planted = attack.plant(trained.victim, data, target=TARGET, seed=0, budget=BUDGETS.get(name, LARGE))
    rates = measure(trained, planted, attack.kind)
    with capsys.disabled():
        print(
            f"\n{name:16s} CA {rates.clean:.3f} -> {rates.kept:.3f}  ASR {rates.success:.3f} "
            f"(clean encoder {rates.baseline:.3f}, CA {rates.under:.3f})  cosine {rates.cosine:.3f}"
        )
    assert rates.clean > 0.75
    assert rates.kept > rates.clean - 0.03
    assert rates.success >= 0.9
    assert rates.baseline < 0.15
    assert rates.under > rates.clean - LOSS.get(name, 1)
