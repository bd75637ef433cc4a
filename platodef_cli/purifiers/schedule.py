"""The EDM noise schedule (Karras et al. 2022, Eq. 5)."""

import torch
from torch import Tensor

from platodef_cli.errors import UsageError

RHO = 7.0


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float, *, rho: float = RHO) -> Tensor:
    """Return ``[steps + 1]`` decreasing noise levels from ``sigma_max`` to ``sigma_min``, then 0.

    Raises:
        UsageError: ``steps`` is below 1 or the levels are not ordered.
    """
    if steps < 1 or not 0 < sigma_min < sigma_max:
        raise UsageError(f"need steps >= 1 and 0 < {sigma_min} < {sigma_max}")
    position = torch.linspace(0, 1, steps, dtype=torch.float64)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    sigmas = (high + position * (low - high)) ** rho
    return torch.cat([sigmas, sigmas.new_zeros(1)]).float()
