"""The denoiser head: conditional EDM score matching (paper, Eq. 5, 6 and 14; Karras et al. 2022)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from platodef_cli.heads.backbone import (
    SPACE_STD,
    Backbone,
    BackboneConfig,
    ReferenceMemory,
    ReferenceTokens,
    projection,
)
from platodef_cli.heads.closed_form import ClosedForm, Group, pick, spread
from platodef_cli.heads.energy import OwnRow
from platodef_cli.heads.guidance import Packed, mixed_source, pack

FOURIER_CHANNELS = 128
FREQUENCIES = (0.25, 64.0)  # radians per unit of ln(sigma)/4: slower than the range, finer than its use


class Condition(NamedTuple):
    """What the denoiser needs to know of the references; computed once per image.

    Attributes:
        memory: Reference tokens, and their keys and values if the backbone is isolated; packed where many
            evaluations follow.
        mean: ``[B, D_s]`` posterior mean of the Gaussian start, or None.
        groups: Posteriors of the Gaussian start by rows; empty without it.
    """

    memory: ReferenceMemory | Packed
    mean: Tensor | None
    groups: list[Group]


class NoiseEmbedding(nn.Module):
    """Sinusoidal embedding of ``ln(sigma) / 4`` followed by a two-layer SiLU MLP."""

    frequencies: Tensor

    def __init__(self, width: int):
        super().__init__()
        low, high = (math.log(value) for value in FREQUENCIES)
        self.register_buffer(
            "frequencies", torch.linspace(low, high, FOURIER_CHANNELS // 2).exp(), persistent=False
        )
        self.mlp = nn.Sequential(nn.Linear(FOURIER_CHANNELS, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, sigma: Tensor) -> Tensor:
        """Return ``[B, W]`` for noise levels ``[B]``."""
        angles = (sigma.log() / 4).unsqueeze(1) * self.frequencies
        embedded: Tensor = self.mlp(torch.cat([angles.cos(), angles.sin()], dim=1))
        return embedded


class Denoiser(nn.Module):
    """``D(x; sigma, r) = c_skip x + c_out F(c_in x; c_noise, r)`` with sigma_data = 1.

    With a closed form the EDM coefficients become those of the Gaussian posterior ``N(mu(r), C)``:
    ``D = mu + C (C + sigma^2)^-1 (x - mu) + [C sigma^2 (C + sigma^2)^-1]^(1/2) F`` with F fed the
    whitened ``(C + sigma^2)^(-1/2) (x - mu)``. For mu = 0 and C = I these are the EDM coefficients, so
    the paper's denoiser is the special case without a closed form; either way a zero F is the optimum
    of its Gaussian. The last layer starts at zero.

    Args:
        source_dim: Length ``D_s``.
        reference_dims: Lengths ``D_m``.
        config: The backbone.
        closed_form: The Gaussian start, or None for the paper's head.
    """

    def __init__(
        self,
        source_dim: int,
        reference_dims: Sequence[int],
        config: BackboneConfig,
        *,
        closed_form: ClosedForm | None = None,
    ):
        super().__init__()
        self.closed_form = closed_form
        self.source_projection = projection(source_dim, config.width, normalise=False)
        self.source_space = nn.Parameter(torch.randn(config.width) * SPACE_STD)
        self.references = ReferenceTokens(reference_dims, config.width)
        self.noise = NoiseEmbedding(config.width)
        self.backbone = Backbone(config, len(reference_dims))
        self.readout = nn.Sequential(
            nn.Linear(config.width, config.width), nn.GELU(), nn.Linear(config.width, source_dim)
        )
        last = self.readout[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def condition(
        self, references: Sequence[Tensor], keep: Tensor | None = None, own: OwnRow | None = None
    ) -> Condition:
        """Do the work that depends on the references only.

        Args:
            references: Standardised references ``[B, D_m]`` each.
            keep: ``[B, M]`` of 0 and 1: which references count (all zero is the unconditional
                branch of classifier-free guidance); None keeps all.
            own: Leave-one-out data for rows that the ridge was fitted on (training only).
        """
        memory = self.backbone.remember(self.references(references, keep))
        if self.closed_form is None:
            return Condition(memory, None, [])
        lifted = self.closed_form.lift(references)
        groups = self.closed_form.groups(len(lifted), keep)
        means = []
        for rows, posterior in groups:
            mean = posterior.mean(pick(rows, lifted))
            means.append(mean if own is None else own.leave_out(mean, rows))
        return Condition(memory, spread(groups, means), groups)

    def fixed(self, references: Sequence[Tensor], kept: Sequence[bool]) -> Condition:
        """Do that work for many evaluations, and for one or both branches of classifier-free guidance.

        Args:
            references: Standardised references ``[B, D_m]`` each.
            kept: Whether a branch sees the references; rows of the condition are those of the first branch,
                then those of the second.
        """
        packed = pack(self.backbone, self.references(references, None), kept)
        if self.closed_form is None:
            return Condition(packed, None, [])
        lifted = self.closed_form.lift(references)
        groups: list[Group] = []
        for number, keeps in enumerate(kept):
            start, device = number * len(lifted), lifted.device
            rows = None if len(kept) == 1 else torch.arange(start, start + len(lifted), device=device)
            groups.append((rows, self.closed_form.posterior((keeps,) * len(references))))
        means = [posterior.mean(lifted) for _, posterior in groups]
        return Condition(packed, spread(groups, means), groups)

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Return the denoised source ``[B, D_s]``.

        Args:
            x: Noisy standardised sources ``[B, D_s]``.
            sigma: Noise levels, scalar or ``[B]``.
            condition: From :meth:`condition` or :meth:`fixed`, for the same B rows.
        """
        sigma = sigma.to(x).reshape(-1)  # one level for all rows is embedded once
        noise = sigma.square().unsqueeze(1).expand(len(x), 1)
        if condition.mean is None:
            residual = self.network(x * (1.0 + noise).rsqrt(), sigma, condition.memory)
            return x / (1.0 + noise) + (noise / (1.0 + noise)).sqrt() * residual
        offset = x - condition.mean
        inputs, skips = [], []
        for rows, posterior in condition.groups:
            total = posterior.values + pick(rows, noise)
            inputs.append(posterior.shaped(pick(rows, offset), total.rsqrt()))
            skips.append(posterior.shaped(pick(rows, offset), posterior.values / total))
        residual = self.network(spread(condition.groups, inputs), sigma, condition.memory)
        outputs = []
        for rows, posterior in condition.groups:
            scale = (posterior.values * pick(rows, noise) / (posterior.values + pick(rows, noise))).sqrt()
            outputs.append(posterior.shaped(pick(rows, residual), scale))
        return condition.mean + spread(condition.groups, skips) + spread(condition.groups, outputs)

    def network(self, inputs: Tensor, sigma: Tensor, memory: ReferenceMemory | Packed) -> Tensor:
        """Return ``F`` ``[B, D_s]`` for preconditioned inputs ``[B, D_s]`` and noise levels ``[B or 1]``."""
        token = self.source_projection(inputs) + self.source_space + self.noise(sigma)
        if isinstance(memory, Packed):
            mixed = mixed_source(self.backbone, token, memory)
        else:
            mixed = self.backbone(token, memory)[:, 0]
        residual: Tensor = self.readout(mixed)
        return residual


def denoising_loss(denoised: Tensor, clean: Tensor, sigma: Tensor) -> Tensor:
    """Return Eq. 14 per row ``[B]``: ``lambda(sigma)`` times the mean squared error per dimension."""
    weight = (1.0 + sigma.square()) / sigma.square()
    return weight * (denoised - clean).square().mean(dim=1)


def log_uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Return ``[count]`` noise levels, uniform in ``ln sigma`` between ``low`` and ``high``."""
    position = torch.rand(count, generator=generator)
    return (math.log(low) + position * (math.log(high) - math.log(low))).exp()
