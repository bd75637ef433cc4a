"""Time left over a whole audit: its plan, corrected by the pace of what runs."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from platodef_cli.audit.plan.plan import Plan
from platodef_cli.audit.steps.search import search_title
from platodef_cli.features.extract import EXTRACTING
from platodef_cli.progress import Task, TaskContext

_SPACING = 1.0  # seconds between two looks at the pace
_LOOKS = 60
_TIMED: Mapping[str, str] = {
    "extract": "features",
    "heads": "heads",
    "align": "heads",
    "battery": "heads",
    "search": "search",
    "measure": "measure",
}
"""Step of an audit -> its phase in the plan."""
_ORDER = ("features", "heads", "search", "measure")


class Countdown:
    """Knows how long an audit still takes; several threads may report to it.

    Args:
        plan: What was estimated.
        clock: Tells seconds.
    """

    def __init__(self, plan: Plan, clock: Callable[[], float] = time.monotonic):
        self._clock, self._lock = clock, threading.Lock()
        seconds = {phase.name: phase.seconds for phase in plan.phases if phase.certain}
        self._phases = {name: seconds.get(name, 0.0) for name in _ORDER}
        self._phases["search"] += seconds.get("references", 0.0) + seconds.get("controls", 0.0)
        self._phases["measure"] += seconds.get("base", 0.0)
        self._extracting = {"features": self._phases["features"], "measure": seconds.get("base")}
        self._expected: dict[str, float] = {}
        suspect = plan.encoders[0].work.name if plan.encoders else ""
        self._expected[search_title(suspect)] = seconds.get("search", 0.0)
        self._now = ""
        self._entered = clock()
        self._steps: list[_Pace] = []

    def enter(self, name: str) -> None:
        """Note that a step of the audit (``extract``, ``heads``, ...) begins."""
        phase = _TIMED.get(name, "")
        with self._lock:
            if phase and phase != self._now:
                self._now, self._entered = phase, self._clock()

    def left(self) -> float:
        """Return the seconds that the audit still takes."""
        with self._lock:
            now = self._clock()
            later = _ORDER[_ORDER.index(self._now) + 1 :] if self._now else _ORDER
            rest = sum(self._phases[name] for name in later)
            own = [step.left(now) for step in self._steps]
            known = [seconds for seconds in own if seconds is not None]
            if known:
                return rest + max(known)
            planned = self._phases.get(self._now, 0.0)
            return rest + max(0.0, planned - (now - self._entered))

    def watching(self, step: Callable[..., TaskContext]) -> Callable[..., TaskContext]:
        """Return what opens a step and looks at its pace."""

        @contextmanager
        def watched(title: str, total: int | None = None) -> Iterator[Task]:
            with step(title, total) as task:
                timed = title == EXTRACTING or title.startswith(search_title(""))
                if not total or not timed:
                    yield task
                    return
                known = self._extracting.get(self._now) if title == EXTRACTING else self._expected.get(title)
                pace = _Pace(task, total, known, self._clock)
                with self._lock:
                    self._steps.append(pace)
                try:
                    yield pace
                finally:
                    with self._lock:
                        self._steps.remove(pace)

        return watched


class _Pace:
    """A task whose pace is looked at; implements :class:`Task`."""

    def __init__(self, task: Task, total: int, expected: float | None, clock: Callable[[], float]):
        self._task, self._total, self._expected, self._clock = task, total, expected, clock
        self._started = clock()
        self._done = 0
        # what a cache gives in the first moment says nothing about the rest
        self._seen: deque[tuple[float, int]] = deque(maxlen=_LOOKS)

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        """Count, and pass on."""
        self._task.advance(amount, note=note)
        self._done += amount
        now = self._clock()
        if now - (self._seen[-1][0] if self._seen else self._started) >= _SPACING:
            self._seen.append((now, self._done))

    def left(self, now: float) -> float | None:
        """Return the seconds that the rest takes: by the pace of the last looks, or as was expected."""
        if len(self._seen) > 1:
            (then, before), (last, done) = self._seen[0], self._seen[-1]
            if done > before:
                pace = (last - then) / (done - before)
                return max(0.0, (self._total - done) * pace - (now - last))
        return None if self._expected is None else max(0.0, self._expected - (now - self._started))
