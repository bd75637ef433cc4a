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

from platodef_cli.metrics.products import gram_power, row_blocks

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_BLOCK = 2**22  # similarities per block of a neighbour search
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
        return 0.0 if self.flat else self._hsic(gram_power(self.x), self, self.squares, self.sums)

    def cross(self, other: "LinearKernel", order: Integers | None = None) -> float:
        """Return HSIC(K, L); ``order`` re-pairs image i with image ``order[i]`` of ``other``."""
        moment = torch.zeros(self.x.shape[1], other.x.shape[1], dtype=torch.float64)
        for rows in row_blocks(len(self.x)):
            partner = other.x[rows] if order is None else other.x[torch.from_numpy(order[rows])]
            moment += self.x[rows].T @ partner
        squares = other.squares if order is None else other.squares[order]
        sums = other.sums if order is None else other.sums[order]
        return self._hsic(float(moment.square().sum()), other, squares, sums)

    def _hsic(self, power: float, other: "LinearKernel", squares: Floats, sums: Floats) -> float:
        """Put HSIC together from the squared norm of ``X' Y`` and the sums of the re-paired other kernel."""
        return unbiased_hsic(
            len(self.x),
            power - float(self.squares @ squares),
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
    for start in range(0, n, size):
        stop = min(start + size, n)
        block = features[start:stop] @ features[start:].T
        block.fill_diagonal_(-torch.inf)
        rows, later = slice(start, stop), slice(stop, n)
        _merge(best[rows], index[rows], block, start)
        if stop < n:
            _merge(best[later], index[later], block[:, stop - start :].T, start)
    return best, index


def _merge(best: Tensor, index: Tensor, block: Tensor, offset: int) -> None:
    """Put what is larger in ``block`` ``[R, C]`` into the k largest values so far, in place.

    Sorting every row costs as much as multiplying it. Only what beats the k-th value so far can be among the
    k largest, and after a few blocks that is next to nothing.

    Args:
        best: ``[R, k]``, descending.
        index: ``[R, k]``, their columns.
        block: Similarities with the columns from ``offset`` on.
        offset: See there.
    """
    k = best.shape[1]
    least = best[:, -1]
    if bool(least.isneginf().any()):
        values, places = block.topk(min(k, block.shape[1]), dim=1)
    else:
        values, places = _beating(block, least)
    values, places = torch.cat([best, values], 1), torch.cat([index, places + offset], 1)
    top, chosen = values.topk(k, dim=1)
    best.copy_(top)
    index.copy_(places.gather(1, chosen))


def _beating(block: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values of every row of ``block`` ``[R, C]`` above ``least`` ``[R]``, and their columns.

    Both are ``[R, most]``, padded with minus infinity and 0; a row has them in the order of its columns.
    """
    if block.is_contiguous():
        rows, columns = (block > least[:, None]).nonzero(as_tuple=True)
    else:  # a transposed one is looked through in the order of memory
        columns, rows = (block.T > least).nonzero(as_tuple=True)
        rows, order = rows.sort(stable=True)
        columns = columns[order]
    counts = torch.bincount(rows, minlength=len(block))
    within = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
    most = int(counts.max())
    values = block.new_full((len(block), most), -torch.inf)
    places = torch.zeros((len(block), most), dtype=torch.int64)
    values[rows, within] = block[rows, columns]
    places[rows, within] = columns
    return values, places
