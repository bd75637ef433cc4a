"""Two ways to do the same work, measured in turn: processor time, so that neighbours do not count."""

import ctypes
import gc
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from pydantic import Field
from threadpoolctl import threadpool_limits
from torch.autograd import profiler

from platodef_cli.metrics.costs import Cost, measure_cost
from platodef_cli.records import Record

_OPERATORS = 4  # of a profile


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
        profiled: What a profile is made of; ours where None. A profile sees one thread.
    """

    work: str
    peer: str
    goal: float
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    quality: Callable[[Any, Any], str]
    prepare: Callable[[], None] = lambda: None
    kept: AbstractContextManager[object] = nullcontext()
    profiled: Callable[[], Any] | None = None


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
    profile: str = Field("", description="where our time goes, where the goal is missed")

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

    Ratios are those of neighbouring runs; the median of them counts. Memory is what the first run of each
    side adds at its peak, after what was freed before went back to the system.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1), contest.kept:
            contest.prepare()
            memory = [_peak(contest.ours), _peak(contest.theirs)]
            results: tuple[Any, Any] = (None, None)
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
            ratios = [b.seconds / max(a.seconds, 1e-9) for a, b in zip(mine, other, strict=True)]
            profile = ""
            if median(ratios) < contest.goal:
                contest.prepare()
                profile = _profile(contest.profiled or contest.ours)
    finally:
        torch.set_num_threads(threads)
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
        memory_mb=memory[0],
        peer_memory_mb=memory[1],
        quality=quality,
        profile=profile,
        repeats=repeats,
    )


def _peak(compute: Callable[[], Any]) -> float:
    """Return the MB that a run adds at its peak."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)
    with measure_cost() as cost:
        compute()
    return cost.memory_mb


def _profile(compute: Callable[[], Any]) -> str:
    """Return the operators that take most of the time of one run, with their shares."""
    with profiler.profile(use_kineto=False) as found:
        compute()
    averages = found.key_averages()
    total = sum(entry.self_cpu_time_total for entry in averages) or 1
    top = sorted(averages, key=lambda entry: -entry.self_cpu_time_total)[:_OPERATORS]
    return ", ".join(f"{entry.key} {entry.self_cpu_time_total / total:.0%}" for entry in top)
