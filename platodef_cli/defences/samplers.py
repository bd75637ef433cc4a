"""Samplers of a denoiser: the probability-flow ODE dx/dsigma = (x - D(x; sigma)) / sigma, and Langevin.

Every sampler has the signature ``(denoiser, x, sigmas, *, generator) -> x``: ``denoiser(x, sigma)``
returns ``D`` ``[B, D_s]`` for noisy ``x`` ``[B, D_s]`` at the scalar ``sigma``; ``sigmas`` decreases
and ends with 0; ``x`` starts at noise level ``sigmas[0]``. :data:`SAMPLERS` lists them with their costs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from platodef_cli.errors import UsageError

DenoiseFunction = Callable[[Tensor, Tensor], Tensor]
RHO = 7.0  # of the schedule; EDM, Section 3
LANGEVIN_INNER = 5  # steps per noise level
LANGEVIN_STEP = 0.8  # step size in units of the noise variance; smaller steps stay behind the annealing
ANCHOR_STD = 3.0  # of the anchor, in standardised units: keeps about 3 % of a shift at variance 0.3


class SampleFunction(Protocol):
    """Carries ``x`` ``[B, D_s]`` from the noise level ``sigmas[0]`` down to 0."""

    def __call__(
        self,
        denoiser: DenoiseFunction,
        x: Tensor,
        sigmas: Tensor,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return a sample ``[B, D_s]``."""


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float, *, rho: float = RHO) -> Tensor:
    """Return ``[steps + 1]`` decreasing noise levels from ``sigma_max`` to ``sigma_min``, then 0.

    The schedule of EDM (Karras et al. 2022, Eq. 5).

    Raises:
        UsageError: ``steps`` is below 1 or the levels are not ordered.
    """
    if steps < 1 or not 0 < sigma_min < sigma_max:
        raise UsageError(f"need steps >= 1 and 0 < {sigma_min} < {sigma_max}")
    position = torch.linspace(0, 1, steps, dtype=torch.float64)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    sigmas = (high + position * (low - high)) ** rho
    return torch.cat([sigmas, sigmas.new_zeros(1)]).float()


def euler(
    denoiser: DenoiseFunction, x: Tensor, sigmas: Tensor, *, generator: torch.Generator | None = None
) -> Tensor:
    """Return the end of the flow by Euler's method; N evaluations for N + 1 ``sigmas``."""
    for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        slope = (x - denoiser(x, sigma)) / sigma
        x = x + (following - sigma) * slope
    return x


def heun(
    denoiser: DenoiseFunction, x: Tensor, sigmas: Tensor, *, generator: torch.Generator | None = None
) -> Tensor:
    """Return the end of the flow by Heun's method (EDM, Algorithm 1); 2N - 1 evaluations."""
    for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        slope = (x - denoiser(x, sigma)) / sigma
        guess = x + (following - sigma) * slope
        if following > 0:  # at 0 the slope is undefined, and Euler's step lands on D itself
            corrected = (guess - denoiser(guess, following)) / following
            guess = x + (following - sigma) * 0.5 * (slope + corrected)
        x = guess
    return x


def dpmpp(
    denoiser: DenoiseFunction, x: Tensor, sigmas: Tensor, *, generator: torch.Generator | None = None
) -> Tensor:
    """Return the end of the flow by DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2); N evaluations."""
    previous: Tensor | None = None
    previous_width = torch.zeros(())
    for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
        denoised = denoiser(x, sigma)
        if following == 0:
            return denoised
        width = (sigma / following).log()  # step in half log-SNR, lambda = -ln sigma
        direction = denoised
        if previous is not None:
            ratio = width / previous_width
            direction = (1 + ratio / 2) * denoised - (ratio / 2) * previous
        # exp(-width) = following / sigma
        x = (following / sigma) * x - torch.expm1(-width) * direction
        previous, previous_width = denoised, width
    return x


def langevin(
    denoiser: DenoiseFunction,
    x: Tensor,
    sigmas: Tensor,
    *,
    generator: torch.Generator | None = None,
    anchor: Tensor | None = None,
) -> Tensor:
    """Return samples of annealed Langevin dynamics (Song & Ermon 2019); N inner loops and one evaluation.

    At every noise level the score ``(D - x) / sigma^2`` drives :data:`LANGEVIN_INNER` noisy steps;
    ``anchor`` ``[B, D_s]`` adds the score of ``N(anchor, ANCHOR_STD^2)``. The last step is ``D``.
    """
    for sigma in sigmas[:-1]:
        size = LANGEVIN_STEP * sigma.square()
        for _ in range(LANGEVIN_INNER):
            score = (denoiser(x, sigma) - x) / sigma.square()
            if anchor is not None:
                # the anchor is a prior on the clean feature, seen through the noise of this level
                score = score + (anchor - x) / (ANCHOR_STD**2 + sigma.square())
            noise = torch.randn(x.shape, generator=generator).to(x)
            x = x + size * score + (2 * size).sqrt() * noise
    return denoiser(x, sigmas[-2])


@dataclass(frozen=True)
class Sampler:
    """A row of :data:`SAMPLERS`.

    Attributes:
        function: The sampler, a :class:`SampleFunction`.
        evaluations: Noise levels N -> evaluations of the denoiser in one solve.
        anchored: ``function`` also takes the observed source, as ``anchor``.
    """

    function: Callable[..., Tensor]
    evaluations: Callable[[int], int]
    anchored: bool = False

    def at(self, observed: Tensor) -> SampleFunction:
        """Return the sampler for observed standardised sources ``[B, D_s]``, bound where it is anchored."""
        return partial(self.function, anchor=observed) if self.anchored else self.function


SAMPLERS = {
    "euler": Sampler(euler, lambda steps: steps),
    "heun": Sampler(heun, lambda steps: 2 * steps - 1),
    "dpmpp": Sampler(dpmpp, lambda steps: steps),
    "langevin": Sampler(langevin, lambda steps: LANGEVIN_INNER * steps + 1, anchored=True),
}
