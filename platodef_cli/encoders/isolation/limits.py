"""How long an isolated encoder may take where the user sets no limit, and whether a signal stopped it."""

from pathlib import Path

_BASE_S = 900.0
_PER_GB_S = 300.0
_PER_IMAGE_S = 20.0
_PER_IMAGE_AND_GB_S = 40.0
_STOPPED = ("T", "t")


def time_limit(weights: int, images: int) -> float:
    """Return the longest time for one call, seconds: far more than an old and busy machine needs.

    It ends the wait for a process that hangs, so it may be long, but it has an end.

    Args:
        weights: Bytes of the weights.
        images: How many the call is about; 0 for one that loads.
    """
    size = weights / 2**30
    return _BASE_S + _PER_GB_S * size + images * (_PER_IMAGE_S + _PER_IMAGE_AND_GB_S * size)


def is_stopped(pid: int) -> bool:
    """Return whether a signal stopped a process or one of its children; False where nobody can tell."""
    return any(_state(one) in _STOPPED for one in (pid, *_children(pid)))


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (OSError, ValueError):
        return []


def _state(pid: int) -> str:
    try:
        # the name before it is in brackets and may hold anything
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
