"""Mismatched tuples for noise-contrastive estimation: who is paired with whom.

The features are fixed, so a tuple is named by one row number per space; a FIFO queue of row numbers
then holds exactly the features a queue of tensors would hold, without copying them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from platodef_cli.errors import UsageError


@dataclass(frozen=True)
class MismatchConfig:
    """What the mismatch sampler draws.

    Attributes:
        negatives: K, mismatched tuples per matched tuple.
        full: Weight of the kind where every space comes from another image, each from a different one.
        source: Weight of the kind where only the source comes from another image.
        partial: Weight of the kind where a random non-empty proper subset of references is replaced.
        neighbour: Weight of *hard* source-only mismatches, whose source is that of a near neighbour.
        collapsed: Weight of synthetic attacked sources: moved towards the mean of a few near sources.
        neighbours: How many nearest rows the neighbour and collapsed kinds choose from.
        queue: Rows that every per-space FIFO queue holds; until it is full, the mini-batch is used.
    """

    negatives: int = 2
    full: float = 1.0
    source: float = 2.0
    partial: float = 1.0
    neighbour: float = 0.0
    collapsed: float = 2.0
    neighbours: int = 16
    queue: int = 4096

    def __post_init__(self) -> None:
        """Refuse weights that leave nothing to draw."""
        weights = (self.full, self.source, self.partial, self.neighbour, self.collapsed)
        if self.negatives < 1 or min(weights) < 0 or sum(weights) <= 0:
            raise UsageError("a mismatch sampler needs at least 1 negative and a positive weight")
        if self.queue < 0 or self.neighbours < 1:
            raise UsageError("queue must be at least 0 and neighbours at least 1")


KINDS = ("full", "source", "partial", "neighbour", "collapsed")


@dataclass(frozen=True)
class Mismatches:
    """Mismatched tuples for B matched ones.

    Attributes:
        rows: ``[B, K, M + 1]`` int64: the row that each space is taken from, the source first.
        kinds: ``[B, K]`` int64: index into :data:`KINDS`. For ``collapsed`` the source's row names the
            centre that the own source is moved to, not the source itself.
    """

    rows: Tensor
    kinds: Tensor


class MismatchSampler:
    """Draws mismatched tuples; no replaced space ever keeps its own row.

    Args:
        config: The mixture.
        references: Number of references M (the partial kind needs two).
        neighbours: ``[N, n]`` nearest rows of every row, itself excluded, for the neighbour kind.
    """

    def __init__(self, config: MismatchConfig, references: int, neighbours: Tensor | None = None):
        self.config = config
        self.spaces = references + 1
        self.neighbours = neighbours
        weights = [getattr(config, kind) for kind in KINDS]
        if references < 2:
            weights[KINDS.index("partial")] = 0.0
        if neighbours is None:
            weights[KINDS.index("neighbour")] = 0.0
        if sum(weights) <= 0:
            raise UsageError("one reference has no proper subset: give another kind than partial a weight")
        self.weights = torch.tensor(weights, dtype=torch.float64)
        self.queue = torch.empty(0, dtype=torch.int64)

    def draw(self, rows: Tensor, generator: torch.Generator) -> Mismatches:
        """Return K mismatches for each of the matched ``rows`` ``[B]`` and push ``rows`` into the queue.

        Raises:
            UsageError: The batch is too small to give every space its own other image.
        """
        if len(rows) <= self.spaces:
            raise UsageError(f"a batch of {len(rows)} is too small to mismatch {self.spaces} spaces")
        batch, count = len(rows), self.config.negatives
        kinds = torch.multinomial(self.weights.expand(batch, -1), count, True, generator=generator)
        others = torch.stack([self._others(rows, generator) for _ in range(count)], dim=1)
        replaced = self._replaced(kinds, generator)
        result = torch.where(replaced, others, rows.reshape(-1, 1, 1).expand_as(others))
        if self.neighbours is not None:
            hard = kinds == KINDS.index("neighbour")
            column = torch.randint(self.neighbours.shape[1], hard.shape, generator=generator)
            result[..., 0] = torch.where(hard, self.neighbours[rows].gather(1, column), result[..., 0])
        self._push(rows)
        return Mismatches(result, kinds)

    def _others(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return ``[B, M + 1]`` rows, none equal to the own row nor to another space's row."""
        if len(self.queue) < max(self.config.queue, 1):
            return derange(rows, self.spaces, generator)
        places = torch.randint(len(self.queue), (len(rows), self.spaces), generator=generator)
        chosen = self.queue[places]
        while True:  # the queue may hold the own row from the epoch before: step on until all differ
            every = torch.cat([rows.unsqueeze(1), chosen], dim=1)
            same = (every.unsqueeze(2) == every.unsqueeze(1)).tril(diagonal=-1).any(dim=2)[:, 1:]
            if not bool(same.any()):
                return chosen
            step = torch.randint(1, len(self.queue), places.shape, generator=generator)
            places = torch.where(same, (places + step) % len(self.queue), places)
            chosen = self.queue[places]

    def _replaced(self, kinds: Tensor, generator: torch.Generator) -> Tensor:
        """Return ``[B, K, M + 1]`` bool: which spaces come from another image."""
        mask = torch.zeros(*kinds.shape, self.spaces, dtype=torch.bool)
        mask[..., 0] = kinds != KINDS.index("partial")
        mask[kinds == KINDS.index("full")] = True
        references = self.spaces - 1
        if references >= 2:
            # rank < size picks a uniformly random subset of uniformly random size 1..M-1
            rank = torch.rand(*kinds.shape, references, generator=generator).argsort(-1).argsort(-1)
            size = torch.randint(1, references, kinds.shape, generator=generator)
            subset = rank < size.unsqueeze(-1)
            partial = (kinds == KINDS.index("partial")).unsqueeze(-1)
            mask[..., 1:] = torch.where(partial, subset, mask[..., 1:])
        return mask

    def _push(self, rows: Tensor) -> None:
        if self.config.queue:
            self.queue = torch.cat([self.queue, rows])[-self.config.queue :]


def derange(rows: Tensor, spaces: int, generator: torch.Generator) -> Tensor:
    """Return ``[B, spaces]``: the batch's rows rearranged so that nobody meets itself or one row twice.

    Every space shifts one random cyclic order by its own distance, and the distances differ.

    Args:
        rows: ``[B]`` distinct row numbers, ``B > spaces``.
        spaces: Number of columns.
        generator: Source of randomness.
    """
    batch = len(rows)
    order = torch.randperm(batch, generator=generator)
    shifts = 1 + torch.randperm(batch - 1, generator=generator)[:spaces]
    result = torch.empty(batch, spaces, dtype=rows.dtype)
    for column, shift in enumerate(shifts.tolist()):
        result[order, column] = rows[order.roll(-shift)]
    return result


def nearest_rows(values: Tensor, count: int, *, block: int = 1024) -> Tensor:
    """Return ``[N, count]`` int64 nearest other rows of ``values`` ``[N, D]`` by cosine, nearest first."""
    unit = torch.nn.functional.normalize(values, dim=1)
    chunks = []
    for start in range(0, len(unit), block):
        similarity = unit[start : start + block] @ unit.T
        own = torch.arange(start, start + len(similarity))
        similarity[torch.arange(len(similarity)), own] = -torch.inf
        chunks.append(similarity.topk(min(count, len(unit) - 1), dim=1).indices)
    return torch.cat(chunks)
