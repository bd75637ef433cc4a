"""Purification by sampling the conditional diffusion."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from platodef_cli.defences.interface import Purifier
from platodef_cli.defences.samplers import LANGEVIN_INNER, DenoiseFunction, dpmpp, euler, heun, langevin
from platodef_cli.errors import UnknownNameError, UsageError
from platodef_cli.features.access import Access, ModelAccess
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.denoiser import Condition, Denoiser
from platodef_cli.heads.evaluate import gaussian_mean
from platodef_cli.heads.heads import SCORE_BLOCK, Heads
from platodef_cli.progress import SILENT, Progress


def guided(denoiser: Denoiser, references: Sequence[Tensor], guidance: float) -> DenoiseFunction:
    """Return ``(x, sigma) -> D_0 + w (D_c - D_0)`` for fixed references.

    The references are projected once. With w = 1 the unconditional branch would be multiplied by
    zero, and with w = 0 the conditional one, so only the other is evaluated; else both run as one batch.

    Args:
        denoiser: The denoiser head.
        references: Standardised references ``[B, D_m]`` each.
        guidance: w.
    """
    rows = len(references[0])
    kept = torch.ones(rows, len(references), dtype=torch.bool, device=references[0].device)
    if guidance in (0.0, 1.0):
        single = denoiser.condition(references, None if guidance == 1.0 else ~kept)
        return lambda x, sigma: denoiser(x, sigma, single)
    doubled = [torch.cat([values, values]) for values in references]
    both: Condition = denoiser.condition(doubled, torch.cat([kept, ~kept]))

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        conditional, unconditional = denoiser(torch.cat([x, x]), sigma, both).chunk(2)
        mixed: Tensor = unconditional + guidance * (conditional - unconditional)
        return mixed

    return denoise


def purify_flagged(
    purifier: Purifier, tuples: FeatureTuples, flagged: Tensor, *, generator: torch.Generator
) -> Tensor:
    """Return source features ``[N, D_s]`` float32 with the flagged rows purified and the others untouched.

    Args:
        purifier: Any purifier.
        tuples: N feature tuples.
        flagged: Boolean ``[N]``.
        generator: Source of randomness.

    Raises:
        UsageError: ``flagged`` is not a boolean mask with one entry per tuple.
    """
    if flagged.dtype != torch.bool or flagged.shape != (len(tuples),):
        raise UsageError(
            f"flagged must be a boolean mask of {len(tuples)} entries, "
            f"not {flagged.dtype} of shape {tuple(flagged.shape)}"
        )
    result = tuples.source.float().clone()
    if bool(flagged.any()):
        result[flagged] = purifier.purify(tuples.select(flagged), generator=generator)
    return result


STARTS = ("noise", "source")

OPERATORS = ("pool", "grey")


@dataclass(frozen=True)
class PurifyOptions:
    """Options of a purifier.

    Attributes:
        steps: Noise levels N of a sampler, at least 1.
        samples: Samples that ``average`` averages, at least 1.
        guidance: Classifier-free guidance scale w; 1 is off, 0 ignores the references.
        start: ``noise`` or ``source``.
        sigma_start: Noise level to start from, positive; None is the head's largest.
        rate: Adam's learning rate of ``dede``, in clean standard deviations per step, positive.
        operator: What ``zip`` keeps of the image: ``pool`` (4x4 averages) or ``grey``.
    """

    steps: int = 20
    samples: int = 8
    guidance: float = 1.0
    start: str = "noise"
    sigma_start: float | None = None
    rate: float = 0.05
    operator: str = "pool"

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        if self.steps < 1 or self.samples < 1:
            raise UsageError("steps and samples of a purifier must be at least 1")
        if not 0 <= self.guidance < float("inf"):
            raise UsageError(f"guidance must be a number of at least 0, not {self.guidance}")
        if self.start not in STARTS:
            raise UnknownNameError("start", self.start, STARTS)
        if self.sigma_start is not None and not 0 < self.sigma_start < float("inf"):
            raise UsageError(f"sigma_start must be a positive number, not {self.sigma_start}")
        if not 0 < self.rate < float("inf"):
            raise UsageError(f"rate must be a positive number, not {self.rate}")
        if self.operator not in OPERATORS:
            raise UnknownNameError("operator", self.operator, OPERATORS)


@dataclass(frozen=True)
class Given:
    """What purifiers get that look at more than features.

    Attributes:
        clean: Clean samples with images, to fit on.
        model: The suspect.
        seed: Seed of masks, networks and noise.
        diffusion: An image diffusion model for ``zip`` (``platodef_cli.defences.zip``); None
            trains a small one on the images of ``clean``.
        progress: Receives the steps.
    """

    clean: FeatureTuples
    model: ModelAccess
    seed: int = 0
    diffusion: Any = None
    progress: Progress = SILENT


class GaussianPurifier:
    """The closed form's conditional mean: ridge on random ReLU features of the references.

    Args:
        heads: Fitted heads.
        options: None of them applies.
    """

    name = "gaussian"
    needs = frozenset({Access.features, Access.references})
    description = "Closed-form conditional mean: regenerates the feature, loses what references do not know."
    evaluations = 0

    def __init__(self, heads: Heads, options: PurifyOptions):
        self._heads = heads

    def purify(self, tuples: FeatureTuples, *, generator: torch.Generator) -> Tensor:
        """Return purified source features ``[N, D_s]`` float32, de-standardised; nothing is random."""
        _, mean = gaussian_mean(self._heads, tuples)
        return self._heads.source_standardiser.invert(mean.cpu())


class MeanPurifier:
    """``D(0; sigma_max, r)``: at the largest noise level the denoiser is a regression on the references.

    Args:
        heads: Fitted heads.
        options: Only ``guidance`` applies; starting from the source would not change the mean.

    Raises:
        UsageError: ``start`` is ``source``.
    """

    name = "mean"
    needs = frozenset({Access.features, Access.references})
    description = (
        "Conditional mean of the denoiser: regenerates the feature, loses what references do not know."
    )
    evaluations = 1

    def __init__(self, heads: Heads, options: PurifyOptions):
        if options.start != "noise":
            raise UsageError("the mean purifier ignores the source; use start 'noise' or a sampler")
        self._heads, self._options = heads, options

    @torch.no_grad()
    def purify(self, tuples: FeatureTuples, *, generator: torch.Generator) -> Tensor:
        """Return purified source features ``[N, D_s]`` float32, de-standardised; nothing is random."""
        heads = self._heads
        source, references = heads.standardise(tuples)
        sigma = torch.tensor(heads.config.sigma_max)
        means = []
        for start in range(0, len(source), SCORE_BLOCK):
            part = slice(start, start + SCORE_BLOCK)
            rows = [values[part].to(heads.device) for values in references]
            denoise = guided(heads.denoiser, rows, self._options.guidance)
            means.append(denoise(torch.zeros_like(source[part]).to(heads.device), sigma).cpu())
        return heads.source_standardiser.invert(torch.cat(means) if means else source)


class RidgePurifier:
    """The ridge prediction, which is the posterior mean of jointly Gaussian features.

    Args:
        heads: Fitted heads.
        options: None of them applies.
    """

    name = "ridge"
    needs = frozenset({Access.features, Access.references})
    description = "Ridge prediction: regenerates the feature, loses what references do not know."
    evaluations = 0

    def __init__(self, heads: Heads, options: PurifyOptions):
        self._heads = heads

    def purify(self, tuples: FeatureTuples, *, generator: torch.Generator) -> Tensor:
        """Return purified source features ``[N, D_s]`` float32, de-standardised; nothing is random."""
        _, references = self._heads.standardise(tuples)
        mean = self._heads.ridge.posterior().mean(torch.cat(references, dim=1))
        return self._heads.source_standardiser.invert(mean)


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


class SampledPurifier:
    """Base of the purifiers that solve from a noise level down to 0.

    Args:
        heads: Fitted heads.
        options: Steps, guidance and start.
    """

    name = ""
    needs = frozenset({Access.features, Access.references})
    description = (
        "A sample of the denoiser: keeps the spread of clean features, costs accuracy against the mean."
    )
    samples = 1

    def __init__(self, heads: Heads, options: PurifyOptions):
        self._heads, self._options = heads, options
        config = heads.config
        start = config.sigma_max if options.sigma_start is None else options.sigma_start
        self._sigmas = karras_sigmas(options.steps, min(config.sigma_min, start / 2), start)

    @property
    def evaluations(self) -> int:
        """Network function evaluations per sample; guidance other than 0 and 1 needs two networks each."""
        branches = 1 if self._options.guidance in (0.0, 1.0) else 2
        return self.solver_evaluations(self._options.steps) * branches * self.samples

    def solver_evaluations(self, steps: int) -> int:
        """Return the evaluations of one solve with ``steps`` noise levels."""
        raise NotImplementedError

    def solve(
        self, denoise: DenoiseFunction, x: Tensor, source: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return ``x`` ``[B, D_s]`` carried from the first noise level to 0."""
        raise NotImplementedError

    @torch.no_grad()
    def purify(self, tuples: FeatureTuples, *, generator: torch.Generator) -> Tensor:
        """Return purified source features ``[N, D_s]`` float32, de-standardised."""
        heads = self._heads
        source, references = heads.standardise(tuples)
        results = []
        for first in range(0, len(source), SCORE_BLOCK):
            part = slice(first, first + SCORE_BLOCK)
            observed = source[part].to(heads.device)
            denoise = guided(
                heads.denoiser, [row[part].to(heads.device) for row in references], self._options.guidance
            )
            total = torch.zeros_like(observed)
            for _ in range(self.samples):
                noise = torch.randn(observed.shape, generator=generator).to(observed)
                begin = observed if self._options.start == "source" else torch.zeros_like(observed)
                x = begin + self._sigmas[0].to(observed) * noise
                total += self.solve(denoise, x, observed, generator)
            results.append((total / self.samples).cpu())
        return heads.source_standardiser.invert(torch.cat(results) if results else source)


class HeunPurifier(SampledPurifier):
    """A sample by Heun's method, the paper's default (20 steps, 39 evaluations)."""

    name = "heun"

    def solver_evaluations(self, steps: int) -> int:
        """Return ``2N - 1``."""
        return 2 * steps - 1

    def solve(
        self, denoise: DenoiseFunction, x: Tensor, source: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Run :func:`platodef_cli.defences.samplers.heun`."""
        return heun(denoise, x, self._sigmas.to(x), generator=generator)


class EulerPurifier(SampledPurifier):
    """A sample by Euler's method."""

    name = "euler"

    def solver_evaluations(self, steps: int) -> int:
        """Return ``N``."""
        return steps

    def solve(
        self, denoise: DenoiseFunction, x: Tensor, source: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Run :func:`platodef_cli.defences.samplers.euler`."""
        return euler(denoise, x, self._sigmas.to(x), generator=generator)


class DpmppPurifier(EulerPurifier):
    """A sample by DPM-Solver++(2M)."""

    name = "dpmpp"

    def solve(
        self, denoise: DenoiseFunction, x: Tensor, source: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Run :func:`platodef_cli.defences.samplers.dpmpp`."""
        return dpmpp(denoise, x, self._sigmas.to(x), generator=generator)


class AveragePurifier(DpmppPurifier):
    """The mean of several DPM-Solver++ samples: an estimate of the posterior mean, not a sample of it."""

    name = "average"
    description = "Mean of several samples of the denoiser: close to its conditional mean."

    def __init__(self, heads: Heads, options: PurifyOptions):
        super().__init__(heads, options)
        self.samples = options.samples


class LangevinPurifier(SampledPurifier):
    """A sample of annealed Langevin dynamics, anchored to the observed source."""

    name = "langevin"

    def solver_evaluations(self, steps: int) -> int:
        """Return the inner steps of all levels and the last denoising."""
        return LANGEVIN_INNER * steps + 1

    def solve(
        self, denoise: DenoiseFunction, x: Tensor, source: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Run :func:`platodef_cli.defences.samplers.langevin`."""
        return langevin(denoise, x, self._sigmas.to(x), generator=generator, anchor=source)
