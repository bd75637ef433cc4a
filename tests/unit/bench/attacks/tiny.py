"""What the tests of the planted attacks share: a tiny budget, pictures, and seeds."""

import numpy as np
import torch

from platodef_cli.bench.attacks.interface import PlantingBudget
from platodef_cli.images.shapes import render

TINY = PlantingBudget(images=24, epochs=2, trigger_steps=2, batch_size=16)


def images(start: int, count: int) -> torch.Tensor:
    """Pictures of the embedded shapes, uint8 ``[count, 3, 32, 32]``."""
    return torch.from_numpy(render(9, np.arange(start, start + count))[0])


def generator(seed: int = 0) -> torch.Generator:
    """A fresh source of random numbers."""
    return torch.Generator().manual_seed(seed)
