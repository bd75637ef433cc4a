"""Alignment of feature spaces: unbiased linear CKA and CKNNA, with permutation nulls.

Both need nothing of size ``N x N``. Features are scaled to unit length first, as in the paper's
reference (Huh, Cheung, Wang and Isola, "The Platonic Representation Hypothesis", 2024), whose
definitions are followed. The chance level depends on N and k: read a value beside its null, and
never compare values of different N or k.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from platodef_cli.errors import InconclusiveError, UsageError
from platodef_cli.metrics.kernels import Integers, LinearKernel, NeighbourKernel
from platodef_cli.metrics.products import all_finite
from platodef_cli.progress import SILENT, Progress
from platodef_cli.records import ALIGNMENT_SHARE, AlignmentRecord, Interval, Metric

Measure = Literal["cka", "cknna"]
K = 10
_LEAST_HALVES = 4
_LEAST = 4  # the unbiased estimator divides by n - 3
_COMPAT_EPSILON = 1e-6


def cka(first: Tensor, second: Tensor, *, normalize: bool = True) -> float:
    """Return unbiased linear CKA in O(N D²) time and O(D²) memory.

    ``HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))`` with the unbiased estimator of Song et al. 2012
    (equation 5) and linear kernels. It can be slightly negative; it is 0 where a space is constant.

    Args:
        first: ``[N, D1]``.
        second: ``[N, D2]`` of the same N images.
        normalize: Scale every feature to unit length.

    Raises:
        UsageError: Shapes do not match or values are not finite.
        InconclusiveError: There are fewer than 4 images.
    """
    a, b = (LinearKernel.of(space) for space in _prepare([first, second], normalize))
    return _ratio(a.cross(b), a.own(), b.own())


def cknna(
    first: Tensor, second: Tensor, k: int = K, *, normalize: bool = True, compat: bool = False
) -> float:
    """Return CKNNA: CKA restricted to the pairs that are k-nearest neighbours in both spaces.

    The neighbours have the largest inner products, without the image itself. Time O(N² D) in blocks,
    memory O(N k). As in the reference, swapping the spaces can change the value a little: the mask of
    shared neighbours is not symmetric.

    Args:
        first: ``[N, D1]``.
        second: ``[N, D2]`` of the same N images.
        k: Number of neighbours, 2 to N - 1.
        normalize: Scale every feature to unit length.
        compat: Add 1e-6 to the denominator as the reference implementation does, which biases the
            value down as N grows.

    Raises:
        UsageError: Shapes do not match, values are not finite, or k is out of range.
        InconclusiveError: There are fewer than 4 images.
    """
    prepared = _prepare([first, second], normalize)
    _check_k(k, len(first))
    a, b = (NeighbourKernel.of(space, k) for space in prepared)
    return _ratio(a.cross(b), a.own(), b.own(), _COMPAT_EPSILON if compat else 0.0)


def alignment_records(
    spaces: Mapping[str, Tensor],
    *,
    measures: Sequence[Measure] = ("cka", "cknna"),
    k: int = K,
    permutations: int = 100,
    seed: int = 0,
    compat: bool = False,
    progress: Progress = SILENT,
) -> tuple[AlignmentRecord, ...]:
    """Return every measure for every pair of spaces, with its permutation null.

    The null pairs the images of one space with random ones of the other; neighbours and moments are
    computed once per space and only re-indexed. ``p_value`` is ``(1 + #{null >= value}) / (1 +
    permutations)``. Values of different N or k must not be compared.

    Args:
        spaces: Name -> ``[N, D]`` features of the same N images.
        measures: What to compute.
        k: Neighbours of CKNNA.
        permutations: Size of the null.
        seed: Of the permutations; all pairs and measures share them.
        compat: See :func:`cknna`.
        progress: Told the number of finished pairs.

    Raises:
        UsageError: Shapes do not match, values are not finite, or k is out of range.
        InconclusiveError: There are fewer than 4 images.
    """
    if permutations < 1:
        raise UsageError(f"the permutation null needs at least 1 permutation, got {permutations}")
    prepared = dict(zip(spaces, _prepare(list(spaces.values()), normalize=True), strict=True))
    n = len(next(iter(prepared.values())))
    if "cknna" in measures:
        _check_k(k, n)
    generator = np.random.default_rng(seed)
    orders: list[Integers] = [generator.permutation(n) for _ in range(permutations)]
    pairs = list(combinations(prepared, 2))
    records = []
    with progress.step("measuring alignment", len(measures) * len(pairs)) as task:
        for measure in measures:
            # Kernels of one kind only meet each other.
            kernels: dict[str, Any] = {
                name: LinearKernel.of(space) if measure == "cka" else NeighbourKernel.of(space, k)
                for name, space in prepared.items()
            }
            own = {name: kernel.own() for name, kernel in kernels.items()}
            epsilon = _COMPAT_EPSILON if compat and measure == "cknna" else 0.0
            for a, b in pairs:
                value = _ratio(kernels[a].cross(kernels[b]), own[a], own[b], epsilon)
                crossed = kernels[a].null(kernels[b], orders)
                null = [_ratio(cross, own[a], own[b], epsilon) for cross in crossed]
                records.append(_record(a, b, measure, value, null, n, k))
                task.advance()
    return tuple(records)


def alignment_share(
    source: Tensor,
    references: Sequence[Tensor],
    *,
    k: int = K,
    draws: int = 40,
    seed: int = 0,
    level: float = 0.95,
) -> Metric | None:
    """Return how well an encoder agrees with its best reference, as a share of the references' own agreement.

    It is the largest CKNNA of the encoder with a reference over the largest of two references. What a chance
    level or a number of images does to CKNNA, it does to both. The interval is normal, with the spread of the
    share among random halves of the images, each with half the neighbours: a half differs from the whole as
    much as a sample differs from its population.

    Args:
        source: Features of the encoder, ``[N, D]``.
        references: Features of the references, each ``[N, D_m]``.
        k: Number of neighbours.
        draws: Halves.
        seed: Draws the halves.
        level: Confidence level.

    Returns:
        The share, or None where there are fewer than two references or fewer than 8 images.
    """
    n = len(source)
    if len(references) < 2 or n < _LEAST_HALVES * 2:
        return None
    spaces = _prepare([source, *references], normalize=True)
    value = _share(spaces, min(k, n - 1))
    generator = np.random.default_rng(seed)
    few = min(k, n // 2 - 1)
    halves = []
    for _ in range(draws):
        rows = generator.permutation(n)[: n // 2]
        halves.append(_share([space[rows] for space in spaces], few))
    half = NormalDist().inv_cdf((1 + level) / 2) * float(np.std(halves, ddof=1))
    return Metric(
        name=ALIGNMENT_SHARE,
        value=value,
        interval=Interval(low=value - half, high=value + half, level=level),
        direction="lower is more suspicious",
        n_positive=n,
        unit="fraction",
    )


def _share(spaces: Sequence[Any], k: int) -> float:
    kernels = [NeighbourKernel.of(space, k) for space in spaces]
    own = [kernel.own() for kernel in kernels]
    best = {0: 0.0, 1: 0.0}
    for a, b in combinations(range(len(kernels)), 2):
        value = _ratio(kernels[a].cross(kernels[b]), own[a], own[b])
        best[min(a, 1)] = max(best[min(a, 1)], value)
    return best[0] / best[1] if best[1] > 0 else 0.0


def _record(
    first: str, second: str, measure: Measure, value: float, null: Sequence[float], n: int, k: int
) -> AlignmentRecord:
    return AlignmentRecord(
        first=first,
        second=second,
        measure=measure,
        value=value,
        null_mean=float(np.mean(null)),
        null_high=max(null),
        p_value=(1 + sum(other >= value for other in null)) / (1 + len(null)),
        n=n,
        k=k if measure == "cknna" else None,
    )


def _ratio(cross: float, first: float, second: float, epsilon: float = 0.0) -> float:
    """Return ``cross / sqrt(first second)``, 0 where a space has no structure of its own."""
    if first <= 0 or second <= 0:
        return 0.0
    # The roots are taken apart so that tiny spaces do not underflow.
    return float(cross / (first**0.5 * second**0.5 + epsilon))


def _prepare(spaces: Sequence[Tensor], normalize: bool) -> list[Tensor]:
    if not spaces:
        raise UsageError("alignment needs feature spaces, got none")
    n = len(spaces[0])
    for space in spaces:
        if space.ndim != 2 or len(space) != n:
            raise UsageError(
                f"alignment needs features [N, D] of the same images, got {[list(s.shape) for s in spaces]}"
            )
        if not all_finite(space):
            raise UsageError("alignment needs finite features; some are NaN or infinite")
    if n < _LEAST:
        raise InconclusiveError(f"alignment needs at least {_LEAST} images, got {n}")
    return [_unit(space.detach().cpu()) if normalize else space.detach().cpu().float() for space in spaces]


def _unit(space: Tensor) -> Tensor:
    """Scale rows to unit length; float64 norms neither overflow nor underflow."""
    norms = torch.linalg.vector_norm(space, dim=1, keepdim=True, dtype=torch.float64)
    unit: Tensor = space / norms.clamp_min(1e-300)
    return unit.float()


def _check_k(k: int, n: int) -> None:
    if not 2 <= k < n:
        raise UsageError(f"CKNNA with k = {k} needs more than k images and k of at least 2, got {n} images")
