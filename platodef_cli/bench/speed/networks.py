"""Contests about heads: purification against its plain loop, scores against autocast and scikit-learn."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from platodef_cli.bench.speed.contest import Contest
from platodef_cli.defences.diffusion import guided
from platodef_cli.defences.samplers import heun, karras_sigmas
from platodef_cli.heads.backbone import BackboneConfig
from platodef_cli.heads.denoiser import Denoiser
from platodef_cli.heads.energy import EnergyHead
from platodef_cli.heads.evaluate import auroc
from platodef_cli.heads.ridge import fit_ridge

# features, dimension, width, depth, steps
_PURIFIED = {"small": (4, 16, 16, 1, 3), "usual": (16, 768, 512, 8, 5), "real": (64, 768, 512, 8, 20)}
_SCORED = {"small": (16, 16), "usual": (1024, 768), "real": (4096, 768)}
_RIDGE = {"small": (200, 8, 200), "usual": (3000, 256, 3000), "real": (20_000, 768, 4096)}
_GUIDANCE = 2.0


def purifying(size: str) -> Contest:
    """P3: the same network, references projected once, both branches in one batch."""
    return _purifying(size, isolated=False)


def purifying_isolated(size: str) -> Contest:
    """P3: a network whose references do not look at the source, so that their keys are computed once."""
    return _purifying(size, isolated=True)


def _purifying(size: str, *, isolated: bool) -> Contest:
    count, dim, width, depth, steps = _PURIFIED[size]
    generator = torch.Generator().manual_seed(0)
    references = [torch.randn(count, dim, generator=generator) for _ in range(2)]
    start = torch.randn(count, dim, generator=generator) * 20
    sigmas = karras_sigmas(steps, 0.02, 20.0)
    plain = _denoiser(dim, width, depth, isolated=False)
    ours = _denoiser(dim, width, depth, isolated=isolated)

    @torch.no_grad()
    def fast() -> Tensor:
        return heun(guided(ours, references, _GUIDANCE), start, sigmas)

    @torch.no_grad()
    def naive() -> Tensor:
        return heun(plain_guidance(plain, references, _GUIDANCE), start, sigmas)

    def quality(first: Tensor, second: Tensor) -> str:
        if isolated:
            return "another architecture, trained that way"
        return f"largest difference {float((first - second).abs().max()):.0e}"

    kind = "isolated references" if isolated else "the same network"
    return Contest(
        work=f"purify {count} features, {width} x {depth}, {steps}-step Heun with guidance, {kind}",
        peer="plain loop: two passes, references every evaluation",
        goal=2.5 if isolated else 1.3,
        ours=fast,
        theirs=naive,
        quality=quality,
    )


def plain_guidance(
    denoiser: Denoiser, references: Sequence[Tensor], guidance: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return classifier-free guidance as papers write it: every evaluation looks at everything, twice."""
    kept = torch.ones(len(references[0]), len(references), dtype=torch.bool)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        unconditional: Tensor = denoiser(x, sigma, denoiser.condition(references, ~kept))
        conditional: Tensor = denoiser(x, sigma, denoiser.condition(references, kept))
        return unconditional + guidance * (conditional - unconditional)

    return denoise


def scoring(size: str) -> Contest:
    """P4: the energy, as platodef computes it, against the module under autocast."""
    count, dim = _SCORED[size]
    generator = torch.Generator().manual_seed(0)
    source, *references = (torch.randn(count, dim, generator=generator) for _ in range(3))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = EnergyHead(dim, [dim, dim], BackboneConfig(), negatives=16).eval().requires_grad_(False)

    @torch.no_grad()
    def ours() -> Tensor:
        return head.energy(source, references)

    @torch.no_grad()
    def theirs() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return head.energy(source, references).float()

    return Contest(
        work=f"energy of {count} tuples of {dim}-d features, network of the size tiny",
        peer="the module under bfloat16 autocast",
        goal=2,
        ours=ours,
        theirs=theirs,
        quality=lambda a, b: f"largest difference {float((a - b).abs().max()):.1e} (peer rounds)",
    )


def ridge_score(size: str) -> Contest:
    """P4: the whitened residual of a ridge regression on the references, against its plain square."""
    return _ridge_score(size, whitened=False)


def whitened_ridge_score(size: str) -> Contest:
    """P4: the same against a residual that is whitened too: the same score."""
    return _ridge_score(size, whitened=True)


def _ridge_score(size: str, *, whitened: bool) -> Contest:
    from sklearn.covariance import EmpiricalCovariance
    from sklearn.linear_model import Ridge

    fitted, dim, count = _RIDGE[size]
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(fitted + count, 16, generator=generator)

    def space() -> Tensor:
        noise = torch.randn(fitted + count, dim, generator=generator)
        return shared @ torch.randn(16, dim, generator=generator) / 4 + noise

    source, *references = (space() for _ in range(3))
    ridge = fit_ridge(source[:fitted], [values[:fitted] for values in references])
    joined = torch.cat(references, dim=1)
    wrong = torch.randperm(count, generator=generator) + fitted
    model: Any = Ridge(alpha=float(fitted)).fit(joined[:fitted].numpy(), source[:fitted].numpy())
    held, given = source[fitted:], joined[fitted:]
    rest = source[:fitted].numpy() - model.predict(joined[:fitted].numpy())
    covariance = EmpiricalCovariance(assume_centered=True).fit(rest)

    def ours() -> Tensor:
        return ridge.mahalanobis(held, given)

    def peer(rows: Tensor) -> Tensor:
        residual = held.numpy() - model.predict(rows.numpy())
        if whitened:
            return torch.from_numpy(covariance.mahalanobis(residual))
        return torch.from_numpy(residual).square().sum(dim=1)

    def quality(first: Tensor, second: Tensor) -> str:
        own, other = auroc(first, ridge.mahalanobis(held, joined[wrong])), auroc(second, peer(joined[wrong]))
        return f"AUROC of mismatched tuples {own:.3f} against {other:.3f}"

    ridge.posterior()  # both are fitted before they are timed
    return Contest(
        work=f"ridge score of {count} tuples of {dim}-d features, two references",
        peer="scikit-learn Ridge, "
        + ("EmpiricalCovariance.mahalanobis of the residual" if whitened else "squared residual"),
        goal=2,
        ours=ours,
        theirs=lambda: peer(given),
        quality=quality,
        note=""
        if whitened
        else "Ours also whitens the residual, half as many multiplications again: 0.67 at equal rates.",
    )


def _denoiser(dim: int, width: int, depth: int, *, isolated: bool) -> Denoiser:
    """Return a network with random weights; its last layer is not zero, as that of a fresh one is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BackboneConfig(width=width, depth=depth, heads=max(1, width // 64), isolated=isolated)
        denoiser = Denoiser(dim, [dim, dim], config).eval().requires_grad_(False)
        for parameter in denoiser.readout.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    return denoiser
