"""How much memory is free, so that an audit says what is too much before the kernel ends it."""

from pathlib import Path

from platodef_cli.errors import OutOfMemoryError

LEAST = 2**29
"""Bytes below which no further encoder is opened."""
_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def free_memory() -> int | None:
    """Return the bytes that can be allocated, on this machine and in this container; None if nobody tells."""
    found = [value for value in (_of_machine(), _of_container()) if value is not None]
    return min(found, default=None)


def check_room(opened: int, wanted: int) -> None:
    """Refuse to go on opening encoders where memory is nearly used up.

    Args:
        opened: Encoders so far.
        wanted: Encoders in all.

    Raises:
        OutOfMemoryError: Less than ``LEAST`` is free.
    """
    free = free_memory()
    if free is not None and free < LEAST and opened < wanted:
        raise OutOfMemoryError(
            f"{free / 2**30:.1f} GB of memory are free after {opened} of {wanted} encoders; give fewer or "
            "smaller references, or use a machine with more memory"
        )


def _of_machine() -> int | None:
    try:
        lines = _MEMINFO.read_text().splitlines()
        (line,) = [line for line in lines if line.startswith("MemAvailable:")]
        return 1024 * int(line.split()[1])
    except (OSError, ValueError, IndexError):
        return None


def _of_container() -> int | None:
    try:
        most = int((_CGROUP / "memory.max").read_text())  # "max" where there is no limit
        used = int((_CGROUP / "memory.current").read_text())
        lines = (_CGROUP / "memory.stat").read_text().splitlines()
        # files that were read and can be read again
        spare = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
        return max(0, most - used + spare)
    except (OSError, ValueError, IndexError):
        return None
