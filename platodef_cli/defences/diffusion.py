"""Purifiers of the paper: a source feature that follows from what trusted references see in the image.

They need features of the suspect and of the references, and heads fitted on clean tuples. Three return a
conditional mean: ``gaussian`` and ``ridge`` in closed form, ``mean`` by the denoiser, where one was fitted.
The others draw from the conditional diffusion of the denoiser, one row per sampler
(:mod:`platodef_cli.defences.samplers`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from platodef_cli.defences.interface import PurifyOptions
from platodef_cli.defences.samplers import SAMPLERS, DenoiseFunction, Sampler, karras_sigmas
from platodef_cli.errors import UsageError
from platodef_cli.features.access import Access
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.denoiser import Denoiser
from platodef_cli.heads.evaluate import gaussian_mean
from platodef_cli.heads.heads import SCORE_BLOCK, Heads
from platodef_cli.heads.presets import A_PRESET


def guided(denoiser: Denoiser, references: Sequence[Tensor], guidance: float) -> DenoiseFunction:
    """Return ``(x, sigma) -> D_0 + w (D_c - D_0)`` for fixed references.

    The references are projected once. With w = 1 the unconditional branch would be multiplied by
    zero, and with w = 0 the conditional one, so only the other is evaluated; else both run as one batch.

    Args:
        denoiser: The denoiser head.
        references: Standardised references ``[B, D_m]`` each.
        guidance: w.
    """
    if guidance in (0.0, 1.0):
        single = denoiser.fixed(references, (guidance == 1.0,))
        return lambda x, sigma: denoiser(x, sigma, single)
    both = denoiser.fixed(references, (True, False))

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        conditional, unconditional = denoiser(torch.cat([x, x]), sigma, both).chunk(2)
        mixed: Tensor = unconditional + guidance * (conditional - unconditional)
        return mixed

    return denoise


class MeanPurifier:
    """``D(0; sigma_max, r)``: at the largest noise level the denoiser is a regression on the references.

    Heads without networks give the conditional mean of the closed form, from which the denoiser starts.

    Args:
        heads: Fitted heads.
        options: Only ``guidance`` applies; starting from the source would not change the mean.

    Raises:
        UsageError: ``start`` is ``source``, or guidance is asked of heads without a denoiser.
    """

    name = "mean"
    needs = frozenset({Access.features, Access.references})
    description = (
        "Conditional mean, by a denoiser if one is fitted: regenerates features, loses what references lack."
    )
    use_when = "The default: you have at least one reference encoder and no reason for another purifier."

    def __init__(self, heads: Heads, options: PurifyOptions):
        if options.start != "noise":
            raise UsageError("the mean purifier ignores the source; use start 'noise' or a sampler")
        if heads.denoiser is None and options.guidance != 1.0:
            raise UsageError(f"guidance steers a denoiser, which these heads lack; fit them with {A_PRESET}")
        self._heads, self._guidance = heads, options.guidance
        self.evaluations = int(heads.denoiser is not None)

    @torch.no_grad()
    def purify(self, tuples: FeatureTuples, *, generator: torch.Generator) -> Tensor:
        """Return purified source features ``[N, D_s]`` float32, de-standardised; nothing is random."""
        heads = self._heads
        if heads.denoiser is None:
            return heads.source_standardiser.invert(_gaussian(heads, tuples))
        source, references = heads.standardise(tuples)
        sigma = torch.tensor(heads.config.sigma_max)
        means = []
        for start in range(0, len(source), SCORE_BLOCK):
            part = slice(start, start + SCORE_BLOCK)
            rows = [values[part].to(heads.device) for values in references]
            denoise = guided(heads.denoiser, rows, self._guidance)
            means.append(denoise(torch.zeros_like(source[part]).to(heads.device), sigma).cpu())
        return heads.source_standardiser.invert(torch.cat(means) if means else source)


def _gaussian(heads: Heads, tuples: FeatureTuples) -> Tensor:
    """Return ridge on random ReLU features of the references, standardised ``[N, D_s]``."""
    return gaussian_mean(heads, tuples)[1].cpu()


def _ridge(heads: Heads, tuples: FeatureTuples) -> Tensor:
    """Return the posterior mean of jointly Gaussian features, standardised ``[N, D_s]``."""
    _, references = heads.standardise(tuples)
    return heads.ridge.posterior().mean(torch.cat(references, dim=1))


MEANS: Mapping[str, Callable[[Heads, FeatureTuples], Tensor]] = {"gaussian": _gaussian, "ridge": _ridge}


class ClosedFormPurifier:
    """One of :data:`MEANS` as a purifier; the two classes below are its rows.

    Args:
        heads: Fitted heads.
        options: None of them applies.
    """

    name: ClassVar[str]
    needs = frozenset({Access.features, Access.references})
    description: ClassVar[str]
    use_when: ClassVar[str]
    evaluations = 0

    def __init__(self, heads: Heads, options: PurifyOptions):
        self._heads = heads

    def purify(self, tuples: FeatureTuples, *, generator: torch.Generator) -> Tensor:
        """Return purified source features ``[N, D_s]`` float32, de-standardised; nothing is random."""
        return self._heads.source_standardiser.invert(MEANS[self.name](self._heads, tuples))


class GaussianPurifier(ClosedFormPurifier):
    """The closed form's conditional mean: ridge on random ReLU features of the references."""

    name = "gaussian"
    description = "Closed-form conditional mean: regenerates the feature, loses what references do not know."
    use_when = "You have references and want a purifier without a trained network, exact and fast."


class RidgePurifier(ClosedFormPurifier):
    """The ridge prediction, which is the posterior mean of jointly Gaussian features."""

    name = "ridge"
    description = "Ridge prediction: regenerates the feature, loses what references do not know."
    use_when = "You want the cheapest purifier that uses references, as a baseline."


class SampledPurifier:
    """Draws from the conditional diffusion by one sampler; the classes below are its rows.

    Args:
        heads: Fitted heads.
        options: Steps, guidance and start; ``samples`` where they are averaged.

    Raises:
        NotApplicable: The heads have no denoiser.
    """

    name: ClassVar[str]
    needs = frozenset({Access.features, Access.references})
    description: ClassVar[str]
    use_when: ClassVar[str]
    sampler: ClassVar[Sampler]
    averages: ClassVar[bool] = False
    networks: ClassVar[bool] = True

    def __init__(self, heads: Heads, options: PurifyOptions):
        self._heads, self._options = heads, options
        _, self._denoiser = heads.networks
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
            denoise = guided(self._denoiser, rows, self._options.guidance)
            sample, sigmas = self.sampler.at(observed), self._sigmas.to(observed)
            total = torch.zeros_like(observed)
            for _ in range(self._samples):
                noise = torch.randn(observed.shape, generator=generator).to(observed)
                begin = observed if self._options.start == "source" else torch.zeros_like(observed)
                total += sample(denoise, begin + sigmas[0] * noise, sigmas, generator=generator)
            results.append((total / self._samples).cpu())
        return heads.source_standardiser.invert(torch.cat(results) if results else source)


ONE_SAMPLE = "A sample of the denoiser: keeps the spread of clean features, costs accuracy against the mean."


class HeunPurifier(SampledPurifier):
    """Heun's method, the paper's sampler: 20 steps, 39 evaluations."""

    name = "heun"
    description = ONE_SAMPLE
    use_when = "You want samples instead of a mean, drawn as in the paper."
    sampler = SAMPLERS["heun"]


class EulerPurifier(SampledPurifier):
    """Euler's method."""

    name = "euler"
    description = ONE_SAMPLE
    use_when = "You compare samplers and want the simplest one."
    sampler = SAMPLERS["euler"]


class DpmppPurifier(SampledPurifier):
    """DPM-Solver++(2M)."""

    name = "dpmpp"
    description = ONE_SAMPLE
    use_when = "You want samples instead of a mean, at half the evaluations of heun."
    sampler = SAMPLERS["dpmpp"]


class LangevinPurifier(SampledPurifier):
    """Annealed Langevin dynamics, anchored at the observed feature."""

    name = "langevin"
    description = ONE_SAMPLE
    use_when = "You compare samplers and want one that keeps near the observed feature, and near an attack."
    sampler = SAMPLERS["langevin"]


class AveragePurifier(SampledPurifier):
    """The mean of several samples by DPM-Solver++(2M)."""

    name = "average"
    description = "Mean of several samples of the denoiser: close to its conditional mean."
    use_when = "You want to check the one-step mean against samples, at many times its cost."
    sampler = SAMPLERS["dpmpp"]
    averages = True
