"""Makes pieces on a Ray cluster: actors that keep what they loaded, and are replaced when they are lost."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from platodef_cli.errors import IncompleteError, PlatodefError, RefusedError, UsageError
from platodef_cli.jobs.pieces import Failure, Live, Made, Outcome, Piece, Work, make
from platodef_cli.jobs.ray_cluster import cluster

ATTEMPTS = 5
"""Times that a piece is given to an actor before it counts as the reason that actors die."""
PATIENCE_S = 300.0
"""How long nothing may run and no actor come up before the cluster counts as unable."""
_POLL_S = 5.0
_KINDS = {kind.exit_code: kind for kind in (IncompleteError, RefusedError, UsageError)}


class _Maker:
    """Lives in an actor."""

    def __init__(self) -> None:
        self._live: Live | None = None

    def start(self, work: Work) -> tuple[int, str] | None:
        """Load what the work needs; return exit code and message where that fails."""
        try:
            self._live = work.start()
        except PlatodefError as error:
            return error.exit_code, str(error)
        return None

    def make(self, piece: Piece, folder: str) -> Outcome:
        """Make one piece."""
        assert self._live is not None
        return make(self._live, piece, Path(folder))


class RayPieces:
    """An executor on a Ray cluster.

    Args:
        address: Of the cluster; None starts one here.
        actors: Number of actors; None takes as many as the cluster has processors (or GPUs).
        cpus: Processors of an actor.
        gpus: GPUs of an actor.
        changed: Called with the actors after every piece; tests kill some.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        actors: int | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
        changed: Callable[[Sequence[Any]], None] = lambda actors: None,
    ):
        self._address, self._actors, self._cpus, self._gpus = address, actors, cpus, gpus
        self._changed = changed

    def run(self, work: Work, pieces: Sequence[Piece], folder: Path) -> Iterator[Outcome]:
        """Make the pieces; see :class:`~platodef_cli.jobs.pieces.Executor`.

        The folder has to be one that all nodes see. A piece whose actor or node is lost goes to another one.

        Raises:
            UsageError: The folder is not seen by all nodes, or ray is not installed.
            PlatodefError: The work cannot start.
            IncompleteError: No node takes an actor.
        """
        if not pieces:
            return
        with cluster(self._address) as ray:
            yield from _Run(ray, self, work, pieces, folder.absolute()).outcomes()

    def close(self) -> None:
        """Nothing is held between runs."""

    def actor(self, ray: Any) -> Any:
        """Return a new actor."""
        kind = ray.remote(num_cpus=self._cpus, num_gpus=self._gpus, max_restarts=0, max_task_retries=0)
        return kind(_Maker).remote()

    def count(self, ray: Any, pieces: int) -> int:
        """Return how many actors to use."""
        have = ray.cluster_resources()
        most = have.get("CPU", 1.0) / self._cpus if self._cpus else pieces
        if self._gpus:
            most = min(most, have.get("GPU", 0.0) / self._gpus)
        return max(1, min(pieces, self._actors or int(most)))

    def changed(self, actors: Sequence[Any]) -> None:
        """Tell of the actors that are at work."""
        self._changed(actors)


class _Run:
    """One run: which actor makes which piece."""

    def __init__(self, ray: Any, executor: RayPieces, work: Work, pieces: Sequence[Piece], folder: Path):
        self._ray, self._executor, self._folder = ray, executor, folder
        self._work = ray.put(work)
        self._left = deque(pieces)
        self._tries: Counter[str] = Counter()
        self._busy: dict[Any, tuple[Any, Piece | None]] = {}  # what is awaited -> (actor, piece or its start)
        self._idle: list[Any] = []
        for _ in range(executor.count(ray, len(pieces))):
            self._begin()

    def outcomes(self) -> Iterator[Outcome]:
        """Yield how each piece ended."""
        last = time.monotonic()
        try:
            while self._left or any(piece is not None for _, piece in self._busy.values()):
                self._give()
                done, _ = self._ray.wait(list(self._busy), num_returns=1, timeout=_POLL_S)
                working = any(piece is not None for _, piece in self._busy.values())
                last = time.monotonic() if done or working else last
                if time.monotonic() - last > PATIENCE_S:
                    raise IncompleteError("no node of the Ray cluster takes an actor; look at `ray status`")
                for awaited in done:
                    outcome = self._take(awaited)
                    if outcome is not None:
                        yield outcome
                        self._executor.changed([actor for actor, _ in self._busy.values()])
        finally:
            for actor in [*self._idle, *(actor for actor, _ in self._busy.values())]:
                self._ray.kill(actor)

    def _begin(self) -> None:
        actor = self._executor.actor(self._ray)
        self._busy[actor.start.remote(self._work)] = (actor, None)

    def _give(self) -> None:
        while self._idle and self._left:
            actor, piece = self._idle.pop(), self._left.popleft()
            self._tries[piece.name] += 1
            self._busy[actor.make.remote(piece, str(self._folder))] = (actor, piece)

    def _take(self, awaited: Any) -> Outcome | None:
        """Return what an actor made, or None where it started, or was lost."""
        actor, piece = self._busy.pop(awaited)
        try:
            result = self._ray.get(awaited)
        except self._ray.exceptions.RayTaskError as error:
            if piece is None:
                raise IncompleteError(f"an actor cannot start: {_line(error)}") from None
            self._idle.append(actor)
            return piece, _line(error), IncompleteError.exit_code
        except self._ray.exceptions.RayError as error:
            return self._lost(piece, error)
        if piece is None and result is not None:
            code, message = result
            raise _KINDS.get(code, IncompleteError)(message)
        self._idle.append(actor)
        if isinstance(result, Made) and not (self._folder / result.name).is_file():
            raise UsageError(
                f"{result.name} is not in {self._folder} but on the machine that made it; give -o a folder "
                "that all nodes see"
            )
        return None if piece is None else result

    def _lost(self, piece: Piece | None, error: Exception) -> Failure | None:
        """Put a piece back whose actor is gone, and begin another actor."""
        failure: Failure | None = None
        if piece is not None and self._tries[piece.name] >= ATTEMPTS:
            why = f"{ATTEMPTS} actors were lost with it, the last one: {_line(error)}"
            failure = (piece, why, IncompleteError.exit_code)
        elif piece is not None:
            self._left.appendleft(piece)
        if self._left:
            self._begin()
        return failure


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[-200:]
