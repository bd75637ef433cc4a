"""Counter-based random numbers: the same on every machine, in any order, for any batch size."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the finaliser of SplitMix64 (Steele et al. 2014), a bijection of 64-bit words."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def uniform(seed: int, keys: NDArray[Any], count: int, start: int = 0) -> NDArray[np.float32]:
    """Return float32 ``[B, count]`` in [0, 1): numbers ``start..start+count`` of each key.

    Args:
        seed: The stream, 0 to 2**63 - 1.
        keys: Integers ``[B]``, one per row; a row depends on its own key only.
        count: Numbers per row.
        start: First number, so that different uses of one key do not share numbers.
    """
    words = keys.astype(np.uint64)
    rows = _mix(_mix(np.asarray([seed], np.uint64) + _GOLDEN) + words * _GOLDEN)
    counter = np.arange(start + 1, start + count + 1, dtype=np.uint64) * _GOLDEN
    values = _mix(rows[:, None] + counter)
    return (values >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
