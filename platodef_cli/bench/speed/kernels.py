"""Contests about features: alignment against its dense definition, the linear probe against scikit-learn."""

import torch
from torch import Tensor

from platodef_cli.bench.speed.contest import Contest
from platodef_cli.metrics.alignment import cka, cknna
from platodef_cli.metrics.linear_probe import LinearProbe

_ALIGNED = {"small": (200, 32), "usual": (2500, 768), "real": (10_000, 768)}
_PROBED = {"small": (300, 16, 3), "usual": (6000, 256, 20), "real": (50_000, 768, 100)}
_K = 10


def dense_hsic(first: Tensor, second: Tensor) -> Tensor:
    """Return the unbiased HSIC of two kernels ``[N, N]`` (Song et al. 2012, equation 5), full matrices."""
    n = len(first)
    one, two = first.clone().fill_diagonal_(0), second.clone().fill_diagonal_(0)
    trace = (one * two.T).sum()
    totals = one.sum() * two.sum() / ((n - 1) * (n - 2))
    product = (one @ two).sum()
    return (trace + totals - 2 * product / (n - 2)) / (n * (n - 3))


def dense_cka(x: Tensor, y: Tensor) -> float:
    """Return unbiased linear CKA of unit features ``[N, D]`` by its definition."""
    k, l = x @ x.T, y @ y.T  # noqa: E741
    return float(dense_hsic(k, l) / (dense_hsic(k, k) * dense_hsic(l, l)).sqrt())


def dense_cknna(x: Tensor, y: Tensor, k: int = _K) -> float:
    """Return CKNNA by its definition (Huh et al. 2024): CKA on pairs that are neighbours in both spaces."""
    first, second = x @ x.T, y @ y.T

    def neighbours(kernel: Tensor) -> Tensor:
        _, nearest = kernel.clone().fill_diagonal_(-torch.inf).topk(k, dim=1)
        return torch.zeros_like(kernel).scatter_(1, nearest, 1.0)

    def similarity(one: Tensor, two: Tensor) -> Tensor:
        mask = neighbours(one) * neighbours(two)
        return dense_hsic(mask * one, mask * two)

    own = similarity(first, first) * similarity(second, second)
    return float(similarity(first, second) / (own.sqrt() + 1e-6))


def neighbours(size: str) -> Contest:
    """P1: CKNNA."""
    count, width = _ALIGNED[size]
    x, y = _spaces(count, width)
    return Contest(
        work=f"CKNNA, n = {count}, d = {width}, k = {_K}",
        peer="dense definition (platonic-rep)",
        goal=20,
        ours=lambda: cknna(x, y, _K, normalize=False, compat=True),
        theirs=lambda: dense_cknna(x, y),
        quality=lambda ours, theirs: f"difference {abs(ours - theirs):.1e}",
    )


def linear(size: str) -> Contest:
    """P2: unbiased CKA."""
    count, width = _ALIGNED[size]
    x, y = _spaces(count, width)
    return Contest(
        work=f"unbiased CKA, n = {count}, d = {width}",
        peer="dense definition (platonic-rep)",
        goal=60,
        ours=lambda: cka(x, y, normalize=False),
        theirs=lambda: dense_cka(x, y),
        quality=lambda ours, theirs: f"difference {abs(ours - theirs):.1e}",
    )


def probing(size: str) -> Contest:
    """P5: a linear classifier, on features whose principal components all have the same variance."""
    return _probing(size, falling=False)


def probing_falling(size: str) -> Contest:
    """P5: the same on features whose j-th principal component has a variance of 1 / j."""
    return _probing(size, falling=True)


def _probing(size: str, *, falling: bool) -> Contest:
    from sklearn.linear_model import LogisticRegression

    count, width, classes = _PROBED[size]
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(classes, width, generator=generator) * 1.3 * (8 / width) ** 0.5
    labels = torch.randint(0, classes, (count + count // 5,), generator=generator)
    features = centres[labels] + torch.randn(len(labels), width, generator=generator)
    if falling:
        spectrum = torch.arange(1, width + 1).rsqrt()
        features = features * spectrum @ torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
    x, y, held, truth = features[:count], labels[:count], features[count:], labels[count:]

    def theirs() -> float:
        model = LogisticRegression(max_iter=200).fit(x.numpy(), y.numpy())
        return float(model.score(held.numpy(), truth.numpy()))

    spectral = "falling" if falling else "flat"
    return Contest(
        work=f"linear probe, {count} x {width}, {classes} classes, {spectral} spectrum",
        peer="scikit-learn LogisticRegression",
        goal=10,
        ours=lambda: LinearProbe.fit(x, y).accuracy(held, truth),
        theirs=theirs,
        quality=lambda ours, peer: f"held-out accuracy {ours:.1%} against {peer:.1%}",
    )


def _spaces(count: int, width: int) -> tuple[Tensor, Tensor]:
    """Return unit features of two encoders that share a third of what they see."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    shared = normal(count, 24)
    spaces = (shared @ normal(24, width) + 4 * normal(count, width) for _ in range(2))
    first, second = (torch.nn.functional.normalize(space, dim=1) for space in spaces)
    return first, second
