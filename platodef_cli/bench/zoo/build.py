"""Builds a zoo: one process per core, parents before their descendants, finished encoders never again."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import torch
from filelock import FileLock, Timeout

from platodef_cli.bench.zoo.dataset import SHAPES, open_zoo_dataset
from platodef_cli.bench.zoo.entries import Embedded, Entry, Plant, Scratch
from platodef_cli.bench.zoo.making import BuildJob, entry_digest, finished, make
from platodef_cli.bench.zoo.manifest import Manifest, Planned, read_manifest, write_manifest
from platodef_cli.bench.zoo.recipe import expand, known_attacks, recipe
from platodef_cli.disk import holder_of
from platodef_cli.errors import IncompleteError, UsageError
from platodef_cli.progress import SILENT, Progress, Task


@dataclass(frozen=True)
class BuildConfig:
    """What to build.

    Attributes:
        recipe: A name of :data:`platodef_cli.bench.zoo.recipe.RECIPES`.
        output: Folder of the zoo.
        images: A labelled image source.
        seed: Of everything random.
        jobs: Processes; None: one per core.
        only: Shell patterns of names; with the parents that they need. Empty: everything.
        command: What the user typed, for the cards.
        device: ``cpu``, or a GPU, which trains longer.
    """

    recipe: str
    output: Path
    images: str = SHAPES
    seed: int = 0
    jobs: int | None = None
    only: tuple[str, ...] = ()
    command: str = ""
    device: str = "cpu"


@dataclass(frozen=True)
class Built:
    """What a build did.

    Attributes:
        planned: Encoders of the whole zoo.
        made: Name -> wall seconds of those that this call made.
        kept: Names of those that were finished before.
    """

    planned: int
    made: dict[str, float]
    kept: tuple[str, ...]


def build(config: BuildConfig, *, progress: Progress = SILENT) -> Built:
    """Build a zoo, or what is missing of it.

    Raises:
        UsageError: The images have no labels, the folder holds another zoo or another build works in it, no
            name matches ``only``, or there is no such device.
        IncompleteError: An encoder could not be made, or its process died.
    """
    _check_device(config.device)
    config.output.mkdir(parents=True, exist_ok=True)
    with _lock(config.output):
        return _build(config, progress)


def _build(config: BuildConfig, progress: Progress) -> Built:
    jobs, manifest = plan(config, progress)
    wanted = _wanted(jobs, config.only)
    # Only now: a command that asks for nothing that exists must leave the zoo as it is.
    write_manifest(config.output, manifest)
    with progress.step("checking finished encoders", len(wanted)) as task:
        kept = []
        for job in wanted:
            if finished(job):
                kept.append(job.entry.name)
            task.advance()
    todo = [job for job in wanted if job.entry.name not in kept]
    made: dict[str, float] = {}
    with progress.step("building the zoo", len(todo)) as task:
        if (config.jobs or _cores()) == 1 or len(todo) <= 1:
            for job in todo:
                _tell(task, made, job.entry.name, _timed(job, progress))
        else:
            _together(todo, min(config.jobs or _cores(), len(todo)), task, made)
    return Built(len(jobs), made, tuple(kept))


def plan(config: BuildConfig, progress: Progress = SILENT) -> tuple[list[BuildJob], Manifest]:
    """Decode the images, and return all jobs of the zoo in order and its manifest.

    Raises:
        UsageError: As :func:`build`.
    """
    zoo_recipe = recipe(config.recipe)
    if config.jobs is not None and config.jobs < 1:
        raise UsageError(f"{config.jobs} jobs cannot build anything; give at least 1")
    images = (
        config.images if config.images.startswith(("builtin:", "hf://")) else os.path.abspath(config.images)
    )
    before = read_manifest(config.output)
    mine = (zoo_recipe.name, images, config.seed, config.device)
    if before is not None and (before.recipe, before.images, before.seed, before.device) != mine:
        raise UsageError(
            f"{config.output} holds the zoo {before.recipe!r} of {before.images} with seed {before.seed}, "
            f"made on {before.device}; choose another folder"
        )
    dataset = open_zoo_dataset(
        images,
        train=zoo_recipe.train,
        held=zoo_recipe.held,
        seed=config.seed,
        cache=config.output / "cache",
        progress=progress,
    )
    entries = expand(zoo_recipe, known_attacks(), len(dataset.classes), config.seed)
    digests: dict[str, str] = {}
    jobs = []
    for entry in entries:
        parent = None if isinstance(entry, Scratch | Embedded) else digests[entry.parent]
        own = entry_digest(entry, zoo_recipe, images, config.seed, parent, config.device)
        digests[entry.name] = own
        jobs.append(
            BuildJob(
                entry,
                zoo_recipe,
                images,
                config.seed,
                config.output,
                config.command,
                own,
                device=config.device,
            )
        )
    manifest = Manifest(
        recipe=zoo_recipe.name,
        images=images,
        seed=config.seed,
        device=config.device,
        classes=dataset.classes,
        encoders=tuple(_planned(job) for job in jobs),
    )
    return jobs, manifest


def _check_device(device: str) -> None:
    """Refuse a device that is not there, before anything is changed."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"--device {device} cannot be used here: {reason}") from None


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Let one build work in a folder: two would delete each other's unfinished encoders."""
    lock = FileLock(folder / ".build.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UsageError(
            f"another build is at work in {folder} ({holder_of(folder / '.build.lock')}); wait for it or "
            "choose another folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _planned(job: BuildJob) -> Planned:
    truth: Literal["clean", "backdoored"] = "backdoored" if isinstance(job.entry, Plant) else "clean"
    return Planned(name=job.entry.name, truth=truth, digest=job.digest)


def _wanted(jobs: Sequence[BuildJob], only: Sequence[str]) -> list[BuildJob]:
    """Return the jobs whose names match, and their ancestors."""
    if not only:
        return list(jobs)
    names = {job.entry.name for job in jobs if any(fnmatchcase(job.entry.name, one) for one in only)}
    if not names:
        known = ", ".join(job.entry.name for job in jobs)
        raise UsageError(f"no encoder of this zoo matches {' or '.join(only)}; they are: {known}")
    for job in reversed(jobs):  # parents come before their descendants
        if job.entry.name in names and not isinstance(job.entry, Scratch | Embedded):
            names.add(job.entry.parent)
    return [job for job in jobs if job.entry.name in names]


def _cores() -> int:
    available: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return len(available(0)) if available else os.cpu_count() or 1


def _timed(job: BuildJob, progress: Progress = SILENT) -> float:
    started = time.perf_counter()
    make(job, progress)
    return time.perf_counter() - started


def _tell(task: Task, made: dict[str, float], name: str, seconds: float) -> None:
    made[name] = seconds
    task.advance(note=f"{name}, {seconds:.0f} s")


def _together(todo: Sequence[BuildJob], processes: int, task: Task, made: dict[str, float]) -> None:
    """Make encoders side by side, each as soon as its parent is finished."""
    waiting = list(todo)
    running: dict[Future[float], str] = {}
    with _pool(processes) as pool:
        while waiting or running:
            # Long ones first: every descendant waits for a clean encoder.
            unfinished = {job.entry.name for job in waiting} | set(running.values())
            for job in list(waiting):
                if len(running) < processes and _ready(job.entry, unfinished):
                    waiting.remove(job)
                    running[pool.submit(_timed, job)] = job.entry.name
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                name = running.pop(future)
                try:
                    _tell(task, made, name, future.result())
                except BrokenProcessPool:
                    raise IncompleteError(
                        f"the process that made {name} or another encoder died (out of memory?); "
                        "give --jobs 1, finished encoders are kept"
                    ) from None


def _ready(entry: Entry, unfinished: set[str]) -> bool:
    return isinstance(entry, Scratch | Embedded) or entry.parent not in unfinished


@contextmanager
def _pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of fresh processes; an interrupt ends them at once."""
    # Fresh: a forked one could hang in this process's thread pools.
    pool = ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("spawn"), initializer=_ignore_interrupts
    )
    try:
        yield pool
        pool.shutdown(wait=True)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise


def _ignore_interrupts() -> None:
    """Leave Ctrl-C to the parent, which ends this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
