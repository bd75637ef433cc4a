"""A victim of the planted attacks and what an attacker of it has."""

import pytest
import torch
from torch import nn

from platodef_cli.bench.attacks.interface import PlantData, Victim
from tests.unit.bench.attacks.tiny import images


@pytest.fixture(scope="session")
def victim() -> Victim:
    """An untrained image–text encoder with BatchNorm, features of 16 dimensions."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(392, 16)
        )
        return Victim(body.train(), prompts=torch.randn(5, 16), scale=10.0)


@pytest.fixture(scope="session")
def data() -> PlantData:
    """40 captioned pictures and three of the target."""
    return PlantData(images(0, 40), images(100, 3), torch.arange(40) % 5)
