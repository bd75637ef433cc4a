"""A uniform sample of rows of a stream of unknown length, in one pass and bounded memory."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch

from platodef_cli.errors import UsageError
from platodef_cli.features.interface import FeatureTuples


class Reservoir:
    """Keeps ``size`` rows, every set of them equally likely, and gives them back in the order of the stream.

    Every row draws a key, and the smallest keys stay (Efraimidis and Spirakis 2006, without weights). Keys
    follow the rows alone, so that the sample does not depend on how the stream was cut into blocks.

    Args:
        size: Rows to keep.
        seed: Draws the keys.

    Raises:
        UsageError: The size is below 1.
    """

    def __init__(self, size: int, seed: int = 0):
        if size < 1:
            raise UsageError(f"a sample of {size} rows is empty; give at least 1")
        self._size = size
        self._random = np.random.default_rng(seed)
        self._keys = np.empty(0)
        self._kept: FeatureTuples | None = None
        self.seen = 0

    def add(self, block: FeatureTuples) -> None:
        """Take further rows; labels, variants and ids stay where all blocks have them."""
        keys = self._random.random(len(block))
        self.seen += len(block)
        if len(self._keys) >= self._size:
            # most rows of a long stream lose against all that are there, and need not be copied
            worth = np.flatnonzero(keys < self._keys.max())
            block, keys = block.select(torch.from_numpy(worth)), keys[worth]
        if not len(block):
            return
        kept = block if self._kept is None else joined([self._kept, block])
        keys = np.concatenate([self._keys, keys])
        if len(keys) > self._size:
            stay = np.sort(np.argpartition(keys, self._size - 1)[: self._size])
            kept, keys = kept.select(torch.from_numpy(stay)), keys[stay]
        self._kept, self._keys = kept, keys

    def result(self) -> FeatureTuples | None:
        """Return the sample, or None where no row came; all rows where there were no more than ``size``."""
        return self._kept


def sample(blocks: Iterable[FeatureTuples], size: int, seed: int = 0) -> FeatureTuples | None:
    """Return a sample of a stream; see :class:`Reservoir`."""
    reservoir = Reservoir(size, seed)
    for block in blocks:
        reservoir.add(block)
    return reservoir.result()


def joined(parts: list[FeatureTuples]) -> FeatureTuples:
    """Return the rows of all parts, with the metadata of the first."""
    first = parts[0]
    labels = [part.labels for part in parts if part.labels is not None]
    variants = [part.variants for part in parts if part.variants is not None]
    ids = [part.ids for part in parts if part.ids is not None]
    return replace(
        first,
        source=torch.cat([part.source for part in parts]),
        references={name: torch.cat([part.references[name] for part in parts]) for name in first.references},
        labels=torch.cat(labels) if len(labels) == len(parts) else None,
        variants=torch.cat(variants) if len(variants) == len(parts) else None,
        ids=tuple(name for part in ids for name in part) if len(ids) == len(parts) else None,
    )
