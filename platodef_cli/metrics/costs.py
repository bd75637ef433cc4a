"""What a step costs: processor seconds of this thread's process, and the memory that it adds at its peak."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

_RESET_PEAK = "/proc/self/clear_refs"
_STATUS = "/proc/self/status"
_highest = 0.0


@dataclass
class Cost:
    """Filled when :func:`measure_cost` ends.

    Attributes:
        seconds: Processor seconds of this process (on one thread: seconds on one core).
        memory_mb: Peak of resident memory above its level at the start, MB; 0 where the peak lies before.
    """

    seconds: float = 0.0
    memory_mb: float = 0.0

    def per_thousand(self, samples: int) -> "Cost":
        """Return the seconds scaled to 1000 samples; memory does not scale, because work is in blocks."""
        return Cost(self.seconds * 1000 / max(samples, 1), self.memory_mb)


@contextmanager
def measure_cost() -> Iterator[Cost]:
    """Measure a block; the cost is complete when the block ends."""
    global _highest
    cost = Cost()
    _highest = peak_ever()
    with suppress(OSError), open(_RESET_PEAK, "w") as file:
        file.write("5")
    before, start = _memory("VmRSS"), time.process_time()
    yield cost
    cost.seconds = time.process_time() - start
    cost.memory_mb = max(0.0, _memory("VmHWM") - before)


def peak_ever() -> float:
    """Return the peak of resident memory since the start, MB, which :func:`measure_cost` would have reset."""
    return max(_highest, _memory("VmHWM"))


def _memory(field: str) -> float:
    """Return a field of the process status in MB, or the peak ever where there is no such file."""
    with suppress(OSError), open(_STATUS) as file:
        for line in file:
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) / 1024
    return peak_of("RUSAGE_SELF")


def peak_of(whose: str) -> float:
    """Return the peak of resident memory that the system counted, MB; 0 where it counts none (Windows).

    Args:
        whose: ``RUSAGE_SELF`` or ``RUSAGE_CHILDREN``.
    """
    try:
        import resource
    except ImportError:
        return 0.0
    peak = resource.getrusage(getattr(resource, whose)).ru_maxrss
    # kilobytes on Linux, bytes on macOS
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def seconds_of_children() -> float:
    """Return the processor seconds of children that ended; 0 where the system counts none (Windows)."""
    try:
        import resource
    except ImportError:
        return 0.0
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
