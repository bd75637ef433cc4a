"""How much of a machine a step of an audit uses: processor time of its processes, and when they had to wait.

Processor time over wall time tells nothing where a neighbour takes the processors. So the threads of this
process and its children are looked at now and then: one that runs, or waits for a processor only, is ready.
Where fewer threads are ready than there are processors, the audit waits for itself.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from platodef_cli.metrics.costs import seconds_of_children

_EVERY_S = 0.1
_READY = "R"


@dataclass
class Use:
    """Filled when :class:`Watching` ends.

    Attributes:
        processor_seconds: Of this process and its children.
        ready: Share of the processors that threads of them used or waited for, on average; None where the
            system does not tell, or the step was too short to look.
    """

    processor_seconds: float = 0.0
    ready: float | None = None


class Watching:
    """Watches this process and its children while a block runs; yields its :class:`Use`.

    Args:
        cores: Processors that they may use.
    """

    def __init__(self, cores: int):
        self._cores = cores
        self._use = Use()
        self._looks: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="utilisation", daemon=True)

    def __enter__(self) -> Use:
        self._started = _spent()
        self._thread.start()
        return self._use

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        self._use.processor_seconds = max(0.0, _spent() - self._started)
        if self._looks:
            self._use.ready = sum(self._looks) / len(self._looks)

    def _look(self) -> None:
        own = threading.get_native_id()
        while not self._over.wait(_EVERY_S):
            states = [state for pid in family() for tid, state in _threads(pid) if tid != own]
            if not states:
                return
            self._looks.append(min(1.0, states.count(_READY) / self._cores))


def family(pid: int | None = None) -> Iterator[int]:
    """Yield the numbers of a process (None: this one) and of all that it or its children started."""
    pid = os.getpid() if pid is None else pid
    yield pid
    children: list[str] = []
    for thread in _listed(f"/proc/{pid}/task"):
        with suppress(OSError), open(f"/proc/{pid}/task/{thread}/children") as file:
            children += file.read().split()
    for child in children:
        yield from family(int(child))


def _threads(pid: int) -> Iterator[tuple[int, str]]:
    """Yield number and state of every thread of a process."""
    for thread in _listed(f"/proc/{pid}/task"):
        fields = _stat(f"/proc/{pid}/task/{thread}/stat")
        if fields:
            yield int(thread), fields[0]


def _spent() -> float:
    """Return the processor seconds of this process, of its living descendants and of those that ended."""
    seconds = time.process_time() + seconds_of_children()
    for pid in family():
        fields = _stat(f"/proc/{pid}/stat") if pid != os.getpid() else []
        if fields:  # its own time and that of its children that ended; user and system
            seconds += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return seconds


def _stat(path: str) -> list[str]:
    """Return the fields of a ``stat`` from the state on; none where the process is gone."""
    with suppress(OSError), open(path) as file:
        return file.read().rpartition(")")[2].split()  # a name may hold anything, brackets too
    return []


def _listed(path: str) -> list[str]:
    with suppress(OSError):
        return os.listdir(path)
    return []
