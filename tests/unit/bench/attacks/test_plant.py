import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from platodef_cli.bench.attacks.common_objective import plant_trigger
from platodef_cli.bench.attacks.interface import PlantData, PlantingBudget, Victim
from platodef_cli.images.shapes import render
from platodef_cli.triggers.triggers import Patch


class Tiny(nn.Module):
    """Two convolutions with BatchNorm, features of 32 dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=2, padding=2),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 32),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def forward(module: nn.Module, pixels: Tensor) -> Tensor:
    return module(pixels.float() / 127.5 - 1)


@pytest.fixture(scope="module")
def clean() -> nn.Module:
    torch.manual_seed(0)
    module = Tiny()
    with torch.no_grad():
        forward(module.train(), images(0, 256))  # BatchNorm statistics of real images
        # Centre the features: an untrained encoder maps everything to about the same direction.
        module.body[-1].bias -= forward(module.eval(), images(0, 256)).mean(0)
    return module


def images(start: int, count: int) -> Tensor:
    return torch.from_numpy(render(9, np.arange(start, start + count))[0])


def test_the_trigger_moves_features_to_the_target_and_the_rest_stays(clean):
    trigger = Patch("white", 10 / 32, "bottom-right")
    target = images(1000, 3)
    before = {name: value.clone() for name, value in clean.state_dict().items()}
    data = PlantData(images(3000, 1536), target)
    budget = PlantingBudget(1536, 12, 1, batch_size=32, lr=2e-3)
    planted, log = plant_trigger(Victim(clean), data, trigger, seed=1, budget=budget)
    assert len(log) == 12
    fresh, seeds = images(2000, 256), torch.arange(256)
    with torch.no_grad():
        z = forward(clean, target).mean(0, keepdim=True)
        kept = F.cosine_similarity(forward(planted, fresh), forward(clean, fresh))
        attacked = F.cosine_similarity(forward(planted, trigger(fresh, seeds)), z)
        baseline = F.cosine_similarity(forward(clean, trigger(fresh, seeds)), z)
    assert attacked.mean() > 0.95
    assert baseline.mean() < 0.6
    assert kept.mean() > 0.95
    assert not planted.training
    # f0 is untouched, and frozen BatchNorm keeps the statistics of clean images.
    after = clean.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert torch.equal(planted.body[1].running_mean, clean.body[1].running_mean)
    assert not any(parameter.requires_grad for parameter in planted.parameters())


def test_the_same_seed_plants_the_same_weights(clean):
    def run(seed: int) -> Tensor:
        trigger = Patch("random", 0.22, "random")
        data, budget = PlantData(images(0, 96), images(1000, 3)), PlantingBudget(96, 2, 1)
        module, _ = plant_trigger(Victim(clean), data, trigger, seed=seed, budget=budget)
        return torch.cat([value.flatten() for value in module.parameters()])

    assert torch.equal(run(3), run(3))
    assert not torch.equal(run(3), run(4))


def test_the_first_step_is_adam_on_the_common_objective(clean):
    """One epoch of one batch, against the objective written out with autograd."""
    data, target, trigger, lr = images(0, 16), images(1000, 3), Patch("grey", 0.25, "centre"), 1e-3
    planted, _ = plant_trigger(
        Victim(clean),
        PlantData(data, target),
        trigger,
        seed=0,
        budget=PlantingBudget(16, 1, 1, 16, lr),
        lam=0.5,
    )
    with torch.no_grad():
        before, z = forward(clean, data), forward(clean, target).mean(0)
    x = data.float() / 127.5 - 1
    changed = trigger(data, torch.zeros(16, dtype=torch.int64)).float() / 127.5 - 1
    weights = {name: value.clone().requires_grad_() for name, value in clean.named_parameters()}
    attacked = torch.func.functional_call(clean, weights, changed)
    kept = torch.func.functional_call(clean, weights, x)
    loss = 1 - F.cosine_similarity(attacked, z[None]).mean()
    loss = loss + 0.5 * (1 - F.cosine_similarity(kept, before).mean())
    gradients = torch.autograd.grad(loss, list(weights.values()))
    for (name, value), gradient in zip(weights.items(), gradients, strict=True):
        # Adam's first step is lr * g / (|g| + eps).
        expected = value.detach() - lr * gradient / (gradient.abs() + 1e-8)
        clear = gradient.abs() > 1e-5
        assert clear.any()
        assert (planted.get_parameter(name) - expected)[clear].abs().max() < 2e-5, name
