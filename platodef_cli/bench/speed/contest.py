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

LONG_S = 60.0
"""A peer that takes longer than this once is run :data:`FEW` times at most, the first time included."""
FEW = 3
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
        note: What bounds the ratio and what was tried, for a page on which the goal is missed.
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
    note: str = ""


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
    note: str = Field("", description="what bounds the ratio, and what was tried")

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

    Args:
        name: Of the row.
        contest: What is measured.
        repeats: Measured runs of each side; :data:`FEW` at most where the peer takes :data:`LONG_S`, and
            then the first one counts.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1), contest.kept:
            contest.prepare()
            first = _first(contest.ours), _first(contest.theirs)
            mine, other = [first[0][0]], [first[1][0]]
            results = first[0][1], first[1][1]
            if other[0].seconds > LONG_S:
                repeats = min(repeats, FEW)
            else:  # it warmed up only
                mine, other = [], []
            while len(mine) < repeats:
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
        memory_mb=first[0][0].memory_mb,
        peer_memory_mb=first[1][0].memory_mb,
        quality=quality,
        profile=profile,
        note=contest.note,
        repeats=repeats,
    )


def _first(compute: Callable[[], Any]) -> tuple[Cost, Any]:
    """Return what the first run costs, whose memory is not yet held by an allocator, and its result."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)
    with measure_cost() as cost:
        result = compute()
    return cost, result


def _profile(compute: Callable[[], Any]) -> str:
    """Return the operators that take most of the time of one run, with their shares."""
    with profiler.profile(use_kineto=False) as found:
        compute()
    averages = found.key_averages()
    total = sum(entry.self_cpu_time_total for entry in averages) or 1
    top = sorted(averages, key=lambda entry: -entry.self_cpu_time_total)[:_OPERATORS]
    return ", ".join(f"{entry.key} {entry.self_cpu_time_total / total:.0%}" for entry in top)
