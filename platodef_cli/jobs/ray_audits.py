"""Runs audits on a Ray cluster: a process each, on whatever node has room; reports come back through Ray."""

import os
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from platodef_cli.disk import write_atomically
from platodef_cli.errors import EXIT_INCOMPLETE, EXIT_INTERRUPTED
from platodef_cli.jobs.audits import Place, Task
from platodef_cli.jobs.many import words_for
from platodef_cli.jobs.process import Ended, Processes
from platodef_cli.jobs.ray_cluster import cluster
from platodef_cli.temporary import TemporaryFolder

_FORWARDED = ("PLATODEF_", "HF_HUB_OFFLINE", "OMP_NUM_THREADS")
"""How the names of variables begin that the audits get from here; tokens stay where they are."""
_RETRIES = 3


def _audit(task: Task, formats: tuple[str, ...], folder: str, variables: Mapping[str, str]) -> Any:
    """Run in a worker: audit, and return how it ended, the files that it wrote, and its log."""
    with TemporaryFolder("audit") as temporary:
        place = Place(temporary, formats)
        log = place.log(task.suspect.name)
        ended = Processes(variables=variables, folder=folder).run(words_for(task, place), log)
        names = [*place.outputs(task.suspect.name).values(), log.name]
        files = {
            name: (place.folder / name).read_bytes() for name in names if (place.folder / name).is_file()
        }
        return ended, files


class RayRunner:
    """Audits on a cluster.

    Args:
        address: Of the cluster; None starts one here.
        parallel: Audits at once; 1 leaves it to the number of processors of the cluster.
        cpus: Processors of an audit.
        gpus: GPUs of an audit.
    """

    def __init__(self, address: str | None, parallel: int = 1, *, cpus: float = 1.0, gpus: float = 0.0):
        self._stack = ExitStack()
        self._ray = self._stack.enter_context(cluster(address))
        have = int(self._ray.cluster_resources().get("CPU", 1.0) / cpus)
        self.parallel = max(1, min(256, have if parallel == 1 else parallel))
        self._call = self._ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=_RETRIES)(_audit)
        self._running: set[Any] = set()
        self._lock = threading.Lock()
        self._stopped = False
        self._variables = {n: value for n, value in os.environ.items() if n.startswith(_FORWARDED)}

    def run(self, task: Task, place: Place) -> Ended:
        """Run one audit somewhere; see :class:`platodef_cli.jobs.many.Runner`."""
        with self._lock:
            if self._stopped:
                return Ended(EXIT_INTERRUPTED, "interrupted before it began", 0.0, interrupted=True)
            awaited = self._call.remote(task, place.formats, str(Path.cwd()), self._variables)
            self._running.add(awaited)
        try:
            ended, files = self._ray.get(awaited)
        except self._ray.exceptions.RayError as error:
            text = f"ERROR (3): its node was lost ({' '.join(str(error).split())[-200:]})"
            return Ended(EXIT_INCOMPLETE, text, 0.0, interrupted=self._stopped)
        finally:
            with self._lock:
                self._running.discard(awaited)
        for name, data in files.items():
            write_atomically(place.folder / Path(name).name, data)
        result: Ended = ended
        return result

    def stop(self) -> None:
        """End all that run, and leave the cluster."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for awaited in running:
            self._ray.cancel(awaited, force=True)
        self._stack.close()
