"""What a child process gives up before it touches a suspect: files, network, processes, rights, memory."""

import ctypes
import os
import site
import struct
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

from platodef_cli.encoders.isolation.guard import fork_guarded
from platodef_cli.encoders.isolation.landlock import restrict
from platodef_cli.encoders.isolation.seccomp import filter_system_calls
from platodef_cli.encoders.isolation.system import has_sandbox, module, no_sandbox

resource, pwd = module("resource"), module("pwd")

_NAMESPACES = {
    "user": 0x10000000,
    "network": 0x40000000,
    "PID": 0x20000000,
    "mount": 0x00020000,
    "IPC": 0x08000000,
}
_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 4, 24, 38
_CAPABILITY_VERSION = 0x20080522
_LARGEST_FILE = 64 * 2**20
_OPEN_FILES = 512
_PROCESSES = 4096  # threads; counted in the user namespace only, where there is one
_SOCKET_EVENTS = ("socket.__new__", "socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto")
_PROGRAM_EVENTS = ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "pty.spawn")
ENVIRONMENT = (
    *("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TZ"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
)
"""Variables of the parent that the child sees; everything else (tokens, proxies, keys) is left out."""
_SYSTEM = (
    *("/usr", "/lib", "/lib64", "/lib32", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d"),
    *("/etc/localtime", "/etc/alternatives", "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat"),
    *("/proc/sys/vm", "/proc/sys/kernel", "/sys/devices/system", "/sys/fs/cgroup", "/sys/kernel/mm"),
    *("/dev/urandom", "/dev/random", "/dev/zero"),
)
_OF_GPUS = ("/proc/driver", "/proc/devices", "/proc/modules", "/sys", "/opt", "/etc")


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


def give_up_rights(
    lifeline: int | None = None,
    readable: Sequence[Path] | None = None,
    *,
    gpu: bool = False,
    bound: bool = False,
) -> tuple[str, ...]:
    """Cut this process off, as far as the kernel allows; call it before any thread exists.

    Layers, each one where the kernel has it: no new privileges, limits, namespaces without capabilities, a
    guard, Landlock, a filter of system calls, and Python's audit hooks.

    Args:
        lifeline: Descriptor whose other end only the parent holds. With it this call goes on in a new
            process, guarded by the old one.
        readable: Files and folders of the suspect; beside them only libraries can be read, and only the home
            can be written. None leaves files as they are.
        bound: The thread that started this process lives as long as its process does.
        gpu: A driver has to be reached, so the rules about its devices and system calls are weaker.

    Returns:
        What could not be cut off, for the report; empty when isolation is complete.
    """
    if not has_sandbox():
        # what is left: Python's own hooks, which name what was tried and stop what does not hide it
        sys.addaudithook(_refuse)
        return (no_sandbox(),)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, _LARGEST_FILE)
    _limit(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _prefer_to_be_killed()
    notes = list(_enter_namespaces(libc, guarded=lifeline is not None))
    if lifeline is not None:
        fork_guarded(lifeline, libc.prctl, bound=bound)
    _drop_capabilities(libc)
    if readable is not None:
        notes += restrict(*_paths(readable, gpu=gpu))
    if gpu:
        notes.append("the profile for GPUs is weaker: its driver's devices and system calls are allowed")
    failure = filter_system_calls(gpu=gpu)
    if failure:
        notes.append(f"system calls are not filtered ({failure})")
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    # The hooks stay although the layers below forbid more: they name what was tried.
    sys.addaudithook(_refuse)
    return tuple(notes)


def hide_memory() -> None:
    """Keep other processes of the user, a child above all, from reading this one's memory and environment."""
    if has_sandbox():
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def limit_memory(gigabytes: float) -> str | None:
    """Allow this process ``gigabytes`` of address space more than it has now.

    The libraries alone map several gigabytes, so only what comes after them is counted.

    Returns:
        Why there is no limit, or None.
    """
    if not has_sandbox() or resource is None:
        return "the memory limit does not apply on this system"
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + int(gigabytes * 2**30))
    return None


def _enter_namespaces(libc: ctypes.CDLL, *, guarded: bool) -> tuple[str, ...]:
    """Enter new namespaces, all of them or what is possible; return what is not."""
    names = [name for name in _NAMESPACES if guarded or name != "PID"]  # it needs a fork
    if not libc.unshare(sum(_NAMESPACES[name] for name in names)):
        _limit(resource.RLIMIT_NPROC, _PROCESSES)
        return ()
    reason = os.strerror(ctypes.get_errno())
    # root without user namespaces, as in many containers
    missing = [name for name in names if name == "user" or libc.unshare(_NAMESPACES[name])]
    if "network" not in missing:
        return ()
    return (f"network isolation is partial: no network namespace ({reason})",)


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """Give up what a new user namespace, or root, would be allowed to do."""
    for capability in range(64):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    libc.capset(ctypes.c_char_p(header), ctypes.c_char_p(bytes(24)))


def _paths(readable: Iterable[Path], *, gpu: bool) -> tuple[list[Path], list[Path]]:
    """Return what the child may read, and what it may write."""
    devices = sorted(Path("/dev").glob("nvidia*")) + [Path("/dev/dri"), Path("/dev/kfd")] if gpu else []
    system = [Path(name) for name in (*_SYSTEM, *(_OF_GPUS if gpu else ()))]
    home = Path(os.environ.get("TMPDIR", os.devnull))
    return [*readable, *system, *_libraries()], [home, Path(os.devnull), *devices]


def _libraries() -> list[Path]:
    """Return the folders that Python imports from, without those that hold a user's other files too."""
    prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    folders = {*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()}
    known = [Path(name).resolve() for name in (*prefixes, *folders)]
    own = Path(__file__).resolve().parents[3]
    home = Path(pwd.getpwuid(os.getuid()).pw_dir if pwd else Path.home()).resolve()
    others = [Path(name).resolve() for name in sys.path if name]
    # of a working tree, as an editable installation leaves it there, the package alone
    packages = [entry for entry in others if entry != own and not home.is_relative_to(entry)]
    return [*known, *packages, own / "platodef_cli"]


def _limit(kind: int, value: int) -> None:
    if resource is None:
        return
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
