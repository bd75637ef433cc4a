"""Runs the audits of a list: what an earlier run finished stays, what is wrong with one stops no other."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from platodef_cli.audit.policy.sources import effective_policy
from platodef_cli.audit.policy.waiver_file import read_waivers
from platodef_cli.disk import explaining, holder_of
from platodef_cli.errors import (
    EXIT_INCOMPLETE,
    IncompleteError,
    PlatodefError,
    RefusedError,
)
from platodef_cli.jobs.audits import (
    FINISHED,
    Place,
    Task,
    finished,
    forget,
    keep,
    mark_earlier,
    mark_reached,
    plan,
    read_record,
)
from platodef_cli.jobs.inputs import States
from platodef_cli.jobs.manifest import Manifest, Suspect
from platodef_cli.jobs.process import Ended, Processes
from platodef_cli.records.run import InputState

LOCKS = ".locks"
Tell = Callable[[Suspect, Ended, bool], None]
"""Told of every audit: (suspect, how it ended, whether an earlier run had finished it)."""


class Runner(Protocol):
    """Where audits run."""

    parallel: int
    """Audits at once."""

    def run(self, task: Task, place: Place) -> Ended:
        """Run one audit and leave its files in the place; called from several threads."""

    def stop(self) -> None:
        """End all that run; none starts any more."""


class LocalRunner:
    """Audits on this machine, each in a process of its own.

    Args:
        parallel: Audits at once; the cores are shared among them.
    """

    def __init__(self, parallel: int = 1):
        self.parallel = parallel
        cores = len(os.sched_getaffinity(0))
        given = "OMP_NUM_THREADS" in os.environ
        self._processes = Processes(None if parallel == 1 or given else max(1, cores // parallel))

    def run(self, task: Task, place: Place) -> Ended:
        """Run one audit in a process; see :class:`Runner`."""
        return self._processes.run(words_for(task, place), place.log(task.suspect.name))

    def stop(self) -> None:
        """End all that run."""
        self._processes.stop()


def words_for(task: Task, place: Place) -> list[str]:
    """Return the whole command line of an audit after ``platodef``."""
    outputs = place.outputs(task.suspect.name)
    files = [word for form, name in outputs.items() for word in ("-o", f"{form}={place.folder / name}")]
    # the model comes last and behind --, whatever its name begins with
    return [*task.words, "--quiet", "--progress", "off", *files, "--", task.model]


def check(manifest: Manifest) -> None:
    """Raise where the policy or the waivers are wrong, before anything is computed.

    Raises:
        UsageError: They cannot be read.
    """
    effective_policy(
        file=manifest.policy,
        overrides=manifest.set,
        rules=manifest.fail_if,
        environment=os.environ,
        folder=Path(),
    )
    if manifest.waivers is not None:
        read_waivers(manifest.waivers)


def run_all(
    manifest: Manifest,
    suspects: Sequence[Suspect],
    place: Place,
    runner: Runner,
    *,
    extra: Mapping[str, object],
    tell: Tell,
    warn: Callable[[str], None],
) -> dict[str, int]:
    """Audit suspects; return name -> exit code.

    What earlier runs left of suspects that this one did not get to, or could not look at, stays and is marked
    (:data:`~platodef_cli.records.run.UNREACHED`), so that no table takes it for an answer of this run.

    Where several audits run at once, the first that gets as far as an answer runs alone: it leaves what is
    common, the features of the references, in the cache for the others.

    Args:
        manifest: The list that they are from.
        suspects: Those to audit.
        place: Where results go; the folder is made.
        runner: Where they run.
        extra: Keywords of an audit that hold for all.
        tell: Called with each as it ends.
        warn: Told what the user should know.

    Raises:
        IncompleteError: The folder cannot be written.
        KeyboardInterrupt: The run was interrupted; what had finished is kept.
    """
    with explaining(f"cannot write to {place.folder}", IncompleteError):
        (place.folder / LOCKS).mkdir(parents=True, exist_ok=True)
    mark_earlier(suspects, place)
    states = States(_known(suspects, place))
    codes: dict[str, int] = {}
    left = list(suspects)
    pool = ThreadPoolExecutor(runner.parallel, "audit")
    running: dict[Future[tuple[Ended, bool]], Suspect] = {}
    warm = runner.parallel == 1
    try:
        while left or running:
            while left and len(running) < (runner.parallel if warm else 1):
                suspect = left.pop(0)
                running[pool.submit(_one, manifest, suspect, place, runner, extra, states, warn)] = suspect
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                suspect = running.pop(future)
                ended, before = future.result()
                if ended.interrupted:
                    raise KeyboardInterrupt
                warm = warm or (
                    ended.code in FINISHED and ended.code != RefusedError.exit_code and not before
                )
                codes[suspect.name] = ended.code
                tell(suspect, ended, before)
    finally:
        runner.stop()
        pool.shutdown(wait=True, cancel_futures=True)
    return codes


def _known(suspects: Sequence[Suspect], place: Place) -> Sequence[InputState]:
    """Return what the first earlier run that left a record saw of the common inputs."""
    for suspect in suspects:
        record = read_record(place.record(suspect.name))
        if record is not None:
            return record.inputs
    return ()


def _one(
    manifest: Manifest,
    suspect: Suspect,
    place: Place,
    runner: Runner,
    extra: Mapping[str, object],
    states: States,
    warn: Callable[[str], None],
) -> tuple[Ended, bool]:
    """Audit one suspect unless an earlier run did; return how it ended, and whether that was before."""
    lock = place.folder / LOCKS / f"{suspect.name}.lock"
    try:
        with FileLock(lock, timeout=0):
            task = plan(manifest, suspect, place, extra, states)
            if task.note:
                warn(f"{suspect.name}: {task.note}")
            record = finished(task, place)
            if record is not None:
                mark_reached(task, place)
                return Ended(record.exit_code, record.summary, record.seconds), True
            forget(task, place)
            mark_reached(task, place)
            ended = runner.run(task, place)
            keep(task, place, ended)
            mark_reached(task, place)  # another run may have begun since, and have marked what it saw
            return ended, False
    except Timeout:
        return Ended(
            EXIT_INCOMPLETE,
            f"ERROR (3): another run is at work on it ({holder_of(lock)}); wait for that one",
            0.0,
        ), False
    except PlatodefError as error:
        return Ended(error.exit_code, f"({error.exit_code}): {error}", 0.0), False
    except OSError as error:
        return Ended(
            EXIT_INCOMPLETE, f"ERROR (3): {error.strerror or error}: {error.filename or ''}", 0.0
        ), False
