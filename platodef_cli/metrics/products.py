"""Passes over the rows of a matrix, in blocks; of its product with itself half is enough."""

from collections.abc import Iterator

import torch
from torch import Tensor

_ROWS = 4096  # per block, summed in float64
_PANEL = 256  # columns; narrower ones compute less twice, but a product of them is slower


def row_blocks(count: int, size: int = _ROWS) -> Iterator[slice]:
    """Yield slices of at most ``size`` rows that cover ``count`` rows."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def all_finite(values: Tensor) -> bool:
    """Return whether no value is NaN or infinite.

    Either makes the sum so; where only the sum is, the values are looked at one by one.
    """
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


def add_gram(total: Tensor, block: Tensor) -> None:
    """Add ``block' block`` of float32 ``[n, D]`` to the upper panels of float64 ``[D, D]`` ``total``.

    What lies below the panels of the diagonal is left alone; :func:`mirrored` fills it in at the end.
    """
    for panel in row_blocks(block.shape[1], _PANEL):
        rest = slice(panel.start, None)
        total[panel, rest] += block[:, panel].T @ block[:, rest]


def mirrored(total: Tensor) -> Tensor:
    """Return the symmetric ``[D, D]`` whose upper panels :func:`add_gram` summed."""
    upper = total.triu()
    return upper + upper.triu(1).T


def gram(x: Tensor) -> Tensor:
    """Return ``x' x`` ``[D, D]`` in float64, from float32 products of blocks of rows of ``x`` ``[N, D]``."""
    total = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for rows in row_blocks(len(x)):
        add_gram(total, x[rows])
    return mirrored(total)


def gram_power(x: Tensor) -> float:
    """Return the squared Frobenius norm of ``x' x``, float32 ``[N, D]``.

    It is that of ``x x'`` as well: the smaller of the two is computed.
    """
    total = gram(x if x.shape[1] <= len(x) else x.T)
    return float(total.square().sum())
