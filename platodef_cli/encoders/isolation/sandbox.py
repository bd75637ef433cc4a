"""What a child process gives up before it touches a suspect: network, core dumps, big files, other memory."""

import ctypes
import os
import resource
import sys
from pathlib import Path

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
_LARGEST_FILE = 64 * 2**20
_SOCKET_EVENTS = ("socket.__new__", "socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto")
_PROGRAM_EVENTS = ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "pty.spawn")
ENVIRONMENT = (
    *("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TZ"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
)
"""Variables of the parent that the child sees; everything else (tokens, proxies, keys) is left out."""


def child_environment(home: str) -> dict[str, str]:
    """Return the environment of a child whose home is the given empty folder."""
    environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    return environment | {
        "HOME": home,
        "TMPDIR": home,
        "HF_HOME": home,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DISABLE_SAFETENSORS_CONVERSION": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join(os.path.abspath(p) for p in sys.path if p),
    }


def give_up_rights() -> tuple[str, ...]:
    """Cut this process off, as far as the kernel allows; call it before any thread exists.

    Returns:
        What could not be cut off, for the report; empty when isolation is complete.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, _LARGEST_FILE)
    _prefer_to_be_killed()
    notes: tuple[str, ...] = ()
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) and libc.unshare(_CLONE_NEWNET):
        reason = os.strerror(ctypes.get_errno())
        notes = (
            f"network isolation is partial: no network namespace ({reason}); only Python sockets are blocked",
        )
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    # The hooks stay although a namespace has no network: they also stop Unix sockets and other programs.
    sys.addaudithook(_refuse)
    return notes


def limit_memory(gigabytes: float) -> None:
    """Allow this process ``gigabytes`` of address space more than it has now.

    The libraries alone map several gigabytes, so only what comes after them is counted.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + int(gigabytes * 2**30))


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _prefer_to_be_killed() -> None:
    """Let the kernel take this process, not its parent, when the machine runs out of memory."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:
        return


def _refuse(event: str, _: tuple[object, ...]) -> None:
    if event in _SOCKET_EVENTS or event in _PROGRAM_EVENTS:
        raise PermissionError(f"{event} is not allowed in an isolated encoder")
