"""Cleans a folder of feature files while it grows."""

import time
from collections.abc import Callable
from pathlib import Path

from platodef_cli.errors import IncompleteError, PlatodefError
from platodef_cli.features.stream import FeatureFile, shard_paths
from platodef_cli.jobs.cleaning import Purifying, feature_pieces
from platodef_cli.jobs.pieces import Executor, Failure, Folder, Piece, Result, stamp

_SMALLEST = 8  # bytes, of which every such file has more


def follow(
    source: Path,
    folder: Folder,
    work: Purifying,
    executor: Executor,
    *,
    idle: float | None = None,
    until: str | None = None,
    poll: float = 5.0,
    tell: Callable[[Result], None] = lambda result: None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Result:
    """Clean what is in a folder and what comes; return when it is said to end.

    A file that is not complete yet is left for later; one that changed is cleaned again. A broken one is told
    once, and tried again when it changed.

    Args:
        source: Folder of feature files.
        folder: Where cleaned ones go.
        work: How to clean.
        executor: Where.
        idle: Seconds without a new file after which it ends; None never.
        until: Name of a file in ``source`` that says that no more will come; None waits for none.
        poll: Seconds between two looks.
        tell: Told of every look that found something.
        sleep: Waits.
        clock: Seconds that pass.

    Returns:
        What is there in the end; files that are still incomplete are failures.

    Raises:
        UsageError: The folder cannot be listed.
    """
    failed: dict[str, tuple[str, Failure]] = {}
    last = clock()
    known = 0
    while True:
        # looked for before the files are: what came before it is there
        over = until is not None and (source / until).exists()
        ready: list[Path] = []
        waiting: list[Failure] = []
        for path in shard_paths(source):
            why = _incomplete(path)
            if why is None:
                ready.append(path)
            else:
                waiting.append((Piece(path.name, str(path)), why, IncompleteError.exit_code))
        stamps = {path.name: _stamp(path) for path in ready}
        failed = {name: entry for name, entry in failed.items() if stamps.get(name) == entry[0]}
        pieces = feature_pieces([path for path in ready if path.name not in failed])
        result = folder.run(work, pieces, executor)
        new = [failure for failure in result.failures if failure[0].name not in failed]
        failed |= {failure[0].name: (stamps[failure[0].name], failure) for failure in new}
        if len(result.made) - known or new or result.before < len(result.made):
            last = clock()
            tell(result)
        known = len(result.made)
        if over or (idle is not None and clock() - last >= idle):
            failures = [failure for _, failure in failed.values()] + waiting
            return Result(result.made, result.before, tuple(sorted(failures, key=lambda each: each[0].name)))
        sleep(poll)


def _incomplete(path: Path) -> str | None:
    """Return why a file is not complete yet, or None where it is, or will never be."""
    try:
        if path.stat().st_size <= _SMALLEST:
            return "it is not complete"
        FeatureFile(path)
    except PlatodefError as error:
        return "it is not complete" if "bytes are there" in str(error) else None
    except OSError:
        return "it cannot be read"
    return None


def _stamp(path: Path) -> str:
    try:
        return stamp(path)
    except OSError:
        return ""
