"""The two kernels behind alignment: full linear ones (CKA) and nearest-neighbour ones (CKNNA).

A fitted space answers ``own()``, ``cross(other)`` and ``null(other, orders)``, all of them the unbiased
HSIC of Song et al. 2012 (equation 5)::

    [ tr(K L) + (1'K1)(1'L1) / ((n-1)(n-2)) - 2 (1'K L 1) / (n-2) ] / (n (n-3))

with zero diagonals, from sums that need no ``N x N`` matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_ROWS = 4096  # rows per block of a moment
_BLOCK = 2**24  # similarities per block of a neighbour search
_FLAT = 1e-7  # a spread below this share of the mean square is rounding
_TAIL = 1e-6  # share of the squared spectrum that the null of CKA leaves out


def unbiased_hsic(n: int, trace: float, first_total: float, second_total: float, product: float) -> float:
    """Put the four sums of the formula together; ``trace`` is tr(KL), ``product`` is 1'KL1."""
    total = first_total * second_total / ((n - 1) * (n - 2))
    return (trace + total - 2 * product / (n - 2)) / (n * (n - 3))


@dataclass(frozen=True)
class LinearKernel:
    """``K = X X'`` with a zero diagonal, of centred features.

    Centring changes nothing (unbiased HSIC ignores constants added to rows and columns of K) but
    keeps the sums from cancelling.

    Attributes:
        x: float32 ``[N, D]``, centred.
        squares: ``[N]``, the diagonal that is left out.
        sums: ``[N]``, row sums of K.
        flat: The space is constant.
    """

    x: Tensor
    squares: Floats
    sums: Floats
    flat: bool

    @classmethod
    def of(cls, features: Tensor) -> "LinearKernel":
        """Fit float32 ``[N, D]``."""
        wide = features.double()
        power = float(torch.linalg.vector_norm(wide)) ** 2
        wide -= wide.mean(dim=0)
        squares = torch.linalg.vector_norm(wide, dim=1).square()
        sums = wide @ wide.sum(dim=0) - squares
        flat = float(squares.sum()) <= _FLAT**2 * power
        return cls(wide.float(), squares.numpy(), sums.numpy(), flat)

    def own(self) -> float:
        """Return HSIC(K, K), 0 for a constant space."""
        return 0.0 if self.flat else self.cross(self)

    def cross(self, other: "LinearKernel", order: Integers | None = None) -> float:
        """Return HSIC(K, L); ``order`` re-pairs image i with image ``order[i]`` of ``other``."""
        n = len(self.x)
        moment = torch.zeros(self.x.shape[1], other.x.shape[1], dtype=torch.float64)
        for start in range(0, n, _ROWS):
            rows = slice(start, start + _ROWS)
            partner = other.x[rows] if order is None else other.x[torch.from_numpy(order[rows])]
            moment += (self.x[rows].T @ partner).double()
        squares = other.squares if order is None else other.squares[order]
        sums = other.sums if order is None else other.sums[order]
        return unbiased_hsic(
            n,
            float(moment.square().sum()) - float(self.squares @ squares),
            float(self.sums.sum()),
            float(other.sums.sum()),
            float(self.sums @ sums),
        )

    def null(self, other: "LinearKernel", orders: Sequence[Integers]) -> list[float]:
        """Return HSIC(K, L) for every order, on the principal axes only.

        The axes hold all but 1e-6 of the squared spectrum, which is what the spread of the null is
        proportional to; so it is kept to about 1e-3 at a fraction of the time.
        """
        first, second = self._principal(), other._principal()
        return [first.cross(second, order) for order in orders]

    def _principal(self) -> "LinearKernel":
        if self.flat:
            return self
        wide = self.x.double()
        values, vectors = torch.linalg.eigh(wide.T @ wide)
        left_out = values.clamp_min(0).square().cumsum(0) / values.square().sum()
        return LinearKernel.of((wide @ vectors[:, left_out > _TAIL]).float())


@dataclass(frozen=True)
class NeighbourKernel:
    """``K = X X'`` on the k nearest neighbours of every image, 0 elsewhere.

    Attributes:
        n: Number of images.
        keys: int64 ``[N k]``, ``i N + j`` for every neighbour j of i, ascending.
        values: ``[N k]``, ``K_ij``.
        flat: The space is constant.
    """

    n: int
    keys: Integers
    values: Floats
    flat: bool

    @classmethod
    def of(cls, features: Tensor, k: int) -> "NeighbourKernel":
        """Search the k largest inner products of float32 ``[N, D]``, without the image itself."""
        n = len(features)
        best, index = _search(features, k)
        index, order = index.sort(dim=1)
        keys = (torch.arange(n)[:, None] * n + index).reshape(-1).numpy()
        values = best.gather(1, order).reshape(-1).double().numpy()
        power = float(features.double().square().mean())
        spread = float(features.double().var(dim=0, correction=0).mean())
        return cls(n, keys, values, spread <= _FLAT**2 * power)

    def own(self) -> float:
        """Return HSIC of the neighbour kernel with itself, 0 for a constant space."""
        return 0.0 if self.flat else self._hsic(self.keys, self.values, self.values)

    def cross(self, other: "NeighbourKernel", order: Integers | None = None) -> float:
        """Return HSIC on the pairs that are neighbours in both spaces."""
        keys, values = (other.keys, other.values) if order is None else other._reordered(order)
        place = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        shared = self.keys[place] == keys
        mine = place[shared]
        sequence = np.argsort(mine)
        return self._hsic(self.keys[mine][sequence], self.values[mine][sequence], values[shared][sequence])

    def null(self, other: "NeighbourKernel", orders: Sequence[Integers]) -> list[float]:
        """Return :meth:`cross` for every order; no neighbour is searched again."""
        return [self.cross(other, order) for order in orders]

    def _reordered(self, order: Integers) -> tuple[Integers, Floats]:
        """Return keys (in no order) and values after image ``order[i]`` has become image i."""
        inverse = np.empty_like(order)
        inverse[order] = np.arange(self.n)
        rows, columns = np.divmod(self.keys, self.n)
        return inverse[rows] * self.n + inverse[columns], self.values

    def _hsic(self, keys: Integers, first: Floats, second: Floats) -> float:
        """Return HSIC of two sparse kernels on the same ascending ``keys``; they need not be symmetric."""
        if not len(keys):
            return 0.0
        rows, columns = np.divmod(keys, self.n)
        mirrored = columns * self.n + rows
        place = np.searchsorted(keys, mirrored).clip(max=len(keys) - 1)
        mutual = keys[place] == mirrored
        column_sums = np.bincount(columns, first, self.n)
        row_sums = np.bincount(rows, second, self.n)
        return unbiased_hsic(
            self.n,
            float(first[mutual] @ second[place[mutual]]),
            float(first.sum()),
            float(second.sum()),
            float(column_sums @ row_sums),
        )


def _search(features: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest inner products ``[N, k]`` of every row with the others, and their indices.

    Similarity is symmetric, so only blocks on and above the diagonal are multiplied; each serves its
    rows and, transposed, its columns.
    """
    n = len(features)
    size = max(1, _BLOCK // n)
    best = torch.full((n, k), -torch.inf)
    index = torch.zeros((n, k), dtype=torch.int64)

    def merge(rows: slice, block: Tensor, offset: int) -> None:
        values, places = block.topk(min(k, block.shape[1]), dim=1)
        values, places = torch.cat([best[rows], values], 1), torch.cat([index[rows], places + offset], 1)
        best[rows], chosen = values.topk(k, dim=1)
        index[rows] = places.gather(1, chosen)

    for start in range(0, n, size):
        stop = min(start + size, n)
        block = features[start:stop] @ features[start:].T
        block.fill_diagonal_(-torch.inf)
        merge(slice(start, stop), block, start)
        if stop < n:
            merge(slice(stop, n), block[:, stop - start :].T, start)
    return best, index
