"""Jointly Gaussian features of a source and two references; every optimum is known in closed form."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from platodef_cli.features.interface import FeatureTuples


@dataclass(frozen=True)
class GaussianTuples:
    """Source and two references that are noisy linear views of each other.

    The canonical correlations of ``s`` with ``(r_1, r_2)`` are ``correlation`` in every direction:
    ``s = c u + sqrt(1 - c^2) e`` with ``u`` standard normal, and the references hold rotated halves of u.
    """

    correlation: float
    dim: int = 8

    @property
    def mutual_information(self) -> float:
        """I(s; r) in nats."""
        return -0.5 * self.dim * math.log(1.0 - self.correlation**2)

    @property
    def energy_gap(self) -> float:
        """Mean optimal energy of mismatched minus matched tuples, in nats: the Jeffreys divergence."""
        return self.dim * self.correlation**2 / (1.0 - self.correlation**2)

    def mean(self, references: dict[str, Tensor]) -> Tensor:
        """Return E[s | r]."""
        return self.correlation * torch.cat([references["left"], references["right"]], dim=1) @ self.rotation

    @property
    def rotation(self) -> Tensor:
        """Orthogonal ``[dim, dim]``."""
        matrix = torch.randn(self.dim, self.dim, generator=torch.Generator().manual_seed(5))
        return torch.linalg.qr(matrix).Q

    def sample(self, count: int, seed: int) -> FeatureTuples:
        """Draw ``count`` tuples."""
        generator = torch.Generator().manual_seed(seed)
        shared = torch.randn(count, self.dim, generator=generator)
        noise = torch.randn(count, self.dim, generator=generator)
        source = self.correlation * shared @ self.rotation + math.sqrt(1 - self.correlation**2) * noise
        half = self.dim // 2
        return FeatureTuples(source, {"left": shared[:, :half], "right": shared[:, half:]})
