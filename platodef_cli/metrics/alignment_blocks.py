"""Alignment of more images than fit into memory, or than neighbours can be searched among: by blocks.

A value depends on the number of images, so that blocks of one size are measured, each with all of its pairs,
and averaged; never a part of one block against another.
"""

from collections.abc import Sequence

import torch

from platodef_cli.errors import UsageError
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.metrics.alignment import alignment_records
from platodef_cli.progress import SILENT, Progress
from platodef_cli.records import AlignmentRecord


def blockwise_records(
    tuples: FeatureTuples,
    rows: int,
    *,
    k: int,
    permutations: int,
    seed: int,
    progress: Progress = SILENT,
) -> tuple[tuple[AlignmentRecord, ...], int, float]:
    """Return the mean alignment of random blocks of ``rows`` rows.

    Args:
        tuples: N rows; where there are no more than ``rows``, they are the one block, in their order.
        rows: Of a block.
        k: Neighbours of CKNNA.
        permutations: Size of the null of every block.
        seed: Deals the rows out, and draws the permutations.
        progress: Receives the steps.

    Returns:
        The records (means of values and of null means, the largest of ``null_high`` and of the p-values;
        ``n`` is the number of rows of a block), the number of blocks, and the largest difference of a value
        between two blocks.

    Raises:
        UsageError: Blocks have too few rows.
    """
    if rows <= k:
        raise UsageError(f"blocks of {rows} rows are too small for k={k}")
    if len(tuples) <= rows:
        blocks = [tuples]
    else:
        order = torch.randperm(len(tuples), generator=torch.Generator().manual_seed(seed))
        whole = len(tuples) // rows
        blocks = [tuples.select(order[n * rows : (n + 1) * rows].sort().values) for n in range(whole)]
    found = [
        alignment_records(
            {"source": block.source, **block.references},
            k=k,
            permutations=permutations,
            seed=seed,
            progress=progress,
        )
        for block in blocks
    ]
    pairs = list(zip(*found, strict=True))
    spread = max((max(r.value for r in same) - min(r.value for r in same) for same in pairs), default=0.0)
    return tuple(_mean(same) for same in pairs), len(blocks), spread


def _mean(same: Sequence[AlignmentRecord]) -> AlignmentRecord:
    if len(same) == 1:
        return same[0]
    return same[0].model_copy(
        update={
            "value": sum(record.value for record in same) / len(same),
            "null_mean": sum(record.null_mean for record in same) / len(same),
            "null_high": max(record.null_high for record in same),
            "p_value": max(record.p_value for record in same),
        }
    )
