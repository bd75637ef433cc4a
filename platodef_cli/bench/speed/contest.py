"""Two ways to do the same work, measured in turn: processor time, so that neighbours do not count."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from platodef_cli.metrics.costs import Cost, measure_cost
from platodef_cli.records import Record


@dataclass(frozen=True)
class Contest:
    """One row of the page, ready to run.

    Attributes:
        work: What is computed, with its sizes.
        peer: What it is compared with.
        goal: Least ratio of the times, peer / ours.
        ours: Does the work.
        theirs: Does the same work as the peer does.
        quality: Results of both -> how alike or how good they are, in words.
        prepare: Runs before each run of ours, and is not measured.
        kept: What has to stay open while it runs.
    """

    work: str
    peer: str
    goal: float
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    quality: Callable[[Any, Any], str]
    prepare: Callable[[], None] = lambda: None
    kept: AbstractContextManager[object] = nullcontext()


class SpeedRow(Record):
    """What was measured of one contest."""

    name: str
    work: str
    peer: str
    goal: float
    ratio: float
    lowest: float
    highest: float
    seconds: float
    peer_seconds: float
    memory_mb: float
    peer_memory_mb: float
    quality: str
    repeats: int

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        return self.ratio >= self.goal


class SpeedResult(Record):
    """Everything that one run of the benchmark measured."""

    tool_version: str
    size: str
    machine: str
    libraries: dict[str, str]
    rows: tuple[SpeedRow, ...]


def run(name: str, contest: Contest, repeats: int) -> SpeedRow:
    """Measure a contest on one thread: once to warm up, then in turn, A B A B.

    Ratios are those of neighbouring runs; the median of them counts. Memory is what a run adds at its peak to
    the memory that the process already holds.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1), contest.kept:
            contest.prepare()
            contest.ours()
            results = (None, contest.theirs())
            mine: list[Cost] = []
            other: list[Cost] = []
            for _ in range(repeats):
                contest.prepare()
                with measure_cost() as cost:
                    own = contest.ours()
                mine.append(cost)
                with measure_cost() as cost:
                    results = (own, contest.theirs())
                other.append(cost)
            quality = contest.quality(*results)
    finally:
        torch.set_num_threads(threads)
    ratios = [theirs.seconds / max(ours.seconds, 1e-9) for ours, theirs in zip(mine, other, strict=True)]
    return SpeedRow(
        name=name,
        work=contest.work,
        peer=contest.peer,
        goal=contest.goal,
        ratio=median(ratios),
        lowest=min(ratios),
        highest=max(ratios),
        seconds=median(cost.seconds for cost in mine),
        peer_seconds=median(cost.seconds for cost in other),
        memory_mb=max(cost.memory_mb for cost in mine),
        peer_memory_mb=max(cost.memory_mb for cost in other),
        quality=quality,
        repeats=repeats,
    )
