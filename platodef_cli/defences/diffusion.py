"""Purifiers of the paper: a source feature that follows from what trusted references see in the image.

They need features of the suspect and of the references, and heads fitted on clean tuples. Three return a
conditional mean (``mean`` by the denoiser, ``gaussian`` and ``ridge`` in closed form); the others draw
from the conditional diffusion of the denoiser, one row per sampler (:mod:`platodef_cli.defences.samplers`).
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from platodef_cli.defences.interface import PurifyOptions, from_row
from platodef_cli.defences.samplers import SAMPLERS, DenoiseFunction, Sampler, karras_sigmas
from platodef_cli.errors import UsageError
from platodef_cli.features.access import Access
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.denoiser import Condition, Denoiser
from platodef_cli.heads.evaluate import gaussian_mean
from platodef_cli.heads.heads import SCORE_BLOCK, Heads


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
        self._heads, self._guidance = heads, options.guidance

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
            denoise = guided(heads.denoiser, rows, self._guidance)
            means.append(denoise(torch.zeros_like(source[part]).to(heads.device), sigma).cpu())
        return heads.source_standardiser.invert(torch.cat(means) if means else source)


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


class SampledPurifier:
    """Draws from the conditional diffusion by one sampler; every row below is one.

    Args:
        heads: Fitted heads.
        options: Steps, guidance and start; ``samples`` where they are averaged.
    """

    name: ClassVar[str]
    needs = frozenset({Access.features, Access.references})
    description: ClassVar[str]
    sampler: ClassVar[Sampler]
    averages: ClassVar[bool] = False

    def __init__(self, heads: Heads, options: PurifyOptions):
        self._heads, self._options = heads, options
        self._samples = options.samples if self.averages else 1
        config = heads.config
        start = config.sigma_max if options.sigma_start is None else options.sigma_start
        self._sigmas = karras_sigmas(options.steps, min(config.sigma_min, start / 2), start)

    @property
    def evaluations(self) -> int:
        """Network function evaluations per sample; guidance other than 0 and 1 needs two networks each."""
        branches = 1 if self._options.guidance in (0.0, 1.0) else 2
        return self.sampler.evaluations(self._options.steps) * branches * self._samples

    @torch.no_grad()
    def purify(self, tuples: FeatureTuples, *, generator: torch.Generator) -> Tensor:
        """Return purified source features ``[N, D_s]`` float32, de-standardised."""
        heads = self._heads
        source, references = heads.standardise(tuples)
        results = []
        for first in range(0, len(source), SCORE_BLOCK):
            part = slice(first, first + SCORE_BLOCK)
            observed = source[part].to(heads.device)
            rows = [values[part].to(heads.device) for values in references]
            denoise = guided(heads.denoiser, rows, self._options.guidance)
            sample, sigmas = self.sampler.at(observed), self._sigmas.to(observed)
            total = torch.zeros_like(observed)
            for _ in range(self._samples):
                noise = torch.randn(observed.shape, generator=generator).to(observed)
                begin = observed if self._options.start == "source" else torch.zeros_like(observed)
                total += sample(denoise, begin + sigmas[0] * noise, sigmas, generator=generator)
            results.append((total / self._samples).cpu())
        return heads.source_standardiser.invert(torch.cat(results) if results else source)


ONE_SAMPLE = "A sample of the denoiser: keeps the spread of clean features, costs accuracy against the mean."

# heun is the paper's sampler: 20 steps, 39 evaluations
HeunPurifier = from_row(SampledPurifier, "heun", ONE_SAMPLE, sampler=SAMPLERS["heun"])
EulerPurifier = from_row(SampledPurifier, "euler", ONE_SAMPLE, sampler=SAMPLERS["euler"])
DpmppPurifier = from_row(SampledPurifier, "dpmpp", ONE_SAMPLE, sampler=SAMPLERS["dpmpp"])
LangevinPurifier = from_row(SampledPurifier, "langevin", ONE_SAMPLE, sampler=SAMPLERS["langevin"])
AveragePurifier = from_row(
    SampledPurifier,
    "average",
    "Mean of several samples of the denoiser: close to its conditional mean.",
    sampler=SAMPLERS["dpmpp"],
    averages=True,
)
