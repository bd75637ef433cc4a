"""What hostile code in the process of an isolated encoder could do, tried on planted things of our own.

Every attempt runs in a fresh process with all rights given up and, where it failed, in one that gave up
nothing, to know whether it is possible here at all. Attempts go through libc, not through Python, whose audit
hooks would stop them first.
"""

import ctypes
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from platodef_cli.encoders.isolation.sandbox import child_environment, give_up_rights
from platodef_cli.encoders.isolation.syscalls import NUMBERS
from platodef_cli.temporary import TemporaryFolder

Plan = dict[str, Any]
_SECRET_NAME = "PLATODEF_SELFTEST_SECRET"
_SUCCESS = 42
_GAPS = "gaps"
_TIMEOUT_S = 60


@dataclass(frozen=True)
class Attempt:
    """What was tried.

    Attributes:
        name: Of the attempt.
        meaning: What an attacker would gain.
        outcome: Held: possible without isolation, impossible with it. Open: possible with it. Absent: not
            possible here even without isolation, so nothing was shown.
    """

    name: str
    meaning: str
    outcome: Literal["held", "open", "absent"]


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: Any) -> bool:
    known = NUMBERS.get(os.uname().machine)
    if known is None:
        return False
    # whole registers: what lies on the stack would keep the upper half of whatever was there
    full = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    answer: int = _libc().syscall(known[1][name], *full)
    return answer >= 0


def _open(path: str, flags: int) -> bool:
    descriptor: int = _libc().open(path.encode(), flags, 0o600)
    return descriptor >= 0


def _connect(family: int, rest: bytes) -> bool:
    libc = _libc()
    address = family.to_bytes(2, sys.byteorder) + rest
    descriptor: int = libc.socket(family, int(socket.SOCK_STREAM), 0)
    if descriptor < 0:
        return False
    failed: int = libc.connect(descriptor, ctypes.c_char_p(address), len(address))
    return not failed


def _read_file(plan: Plan) -> bool:
    return _open(plan["secret"], os.O_RDONLY)


def _list_folder(plan: Plan) -> bool:
    return _open(plan["folder"], os.O_RDONLY | os.O_DIRECTORY)


def _write_file(plan: Plan) -> bool:
    return _open(f"{plan['folder']}/new", os.O_CREAT | os.O_WRONLY)


def _change_file(plan: Plan) -> bool:
    return _open(plan["secret"], os.O_WRONLY)


def _read_environment(plan: Plan) -> bool:
    return _open(f"/proc/{plan['victim']}/environ", os.O_RDONLY)


def _tcp(plan: Plan) -> bool:
    return _connect(socket.AF_INET, int(plan["port"]).to_bytes(2, "big") + bytes([127, 0, 0, 1]) + bytes(8))


def _unix(plan: Plan) -> bool:
    return _connect(socket.AF_UNIX, str(plan["socket"]).encode() + b"\0")


def _abstract(plan: Plan) -> bool:
    return _connect(socket.AF_UNIX, b"\0" + str(plan["abstract"]).encode())


def _fork(plan: Plan) -> bool:
    child: int = _libc().fork()
    if child == 0:
        os._exit(0)
    return child > 0


def _outlive(plan: Plan) -> bool:
    libc = _libc()
    child: int = libc.fork()
    if child == 0:
        libc.setsid()
        os._exit(0)
    return child > 0


def _execute(plan: Plan) -> bool:
    # comes back only where it failed; the program ends with the code of a success
    arguments = (ctypes.c_char_p * 4)(b"sh", b"-c", f"exit {_SUCCESS}".encode(), None)
    _libc().execve(b"/bin/sh", arguments, None)
    return False


def _trace(plan: Plan) -> bool:
    return _call("ptrace", 16, plan["victim"], 0, 0)  # PTRACE_ATTACH


def _read_memory(plan: Plan) -> bool:
    buffer = ctypes.create_string_buffer(8)
    here = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
    there = (ctypes.c_size_t * 2)(plan["address"], 8)
    return _call("process_vm_readv", plan["victim"], here, 1, there, 1, 0)


def _signal(plan: Plan) -> bool:
    failed: int = _libc().kill(plan["victim"], int(signal.SIGURG))
    return not failed


def _mount(plan: Plan) -> bool:
    folder = str(plan["folder"]).encode()
    done = _call("mount", b"none", folder, b"tmpfs", 0, None)
    if done:
        _libc().umount2(folder, 2)
    return done


def _keys(plan: Plan) -> bool:
    return _call("keyctl", 0, -3, 1)  # the keyring of the session


def _bpf(plan: Plan) -> bool:
    one_entry = b"".join(number.to_bytes(4, sys.byteorder) for number in (2, 4, 4, 1)) + bytes(56)
    return _call("bpf", 0, ctypes.c_char_p(one_entry), len(one_entry))


def _io_uring(plan: Plan) -> bool:
    return _call("io_uring_setup", 1, ctypes.create_string_buffer(120))


def _page_faults(plan: Plan) -> bool:
    return _call("userfaultfd", 1)


ATTEMPTS: dict[str, tuple[str, Callable[[Plan], bool]]] = {
    "read-file": ("reads a file of the user", _read_file),
    "list-folder": ("lists a folder of the user", _list_folder),
    "write-file": ("writes among the files of the user", _write_file),
    "change-file": ("changes a file of the user", _change_file),
    "read-environment": ("reads tokens from another process's environment", _read_environment),
    "read-memory": ("reads another process's memory", _read_memory),
    "trace": ("takes over another process", _trace),
    "signal": ("sends signals to another process", _signal),
    "tcp": ("connects to a network address", _tcp),
    "unix-socket": ("talks to a local service", _unix),
    "abstract-socket": ("talks to a local service by its abstract name", _abstract),
    "fork": ("starts another process", _fork),
    "outlive": ("leaves a process behind", _outlive),
    "execute": ("starts a program", _execute),
    "mount": ("mounts a file system", _mount),
    "keys": ("reaches the keys that the kernel holds", _keys),
    "bpf": ("loads a program into the kernel", _bpf),
    "io-uring": ("goes round the filter of system calls", _io_uring),
    "userfaultfd": ("stops the kernel in a page fault", _page_faults),
}
"""Name -> what an attacker would gain, and the attempt: true where it succeeds."""


def isolation_gaps() -> tuple[str, ...]:
    """Return what the process of a suspect cannot give up on this machine; empty where isolation is complete.

    Raises:
        OSError: No process can be started.
        subprocess.SubprocessError: It failed, or took too long.
    """
    done = _run(_GAPS, {}, isolated=True)
    done.check_returncode()
    return tuple(json.loads(done.stdout))


def run_selftest() -> tuple[tuple[Attempt, ...], tuple[str, ...]]:
    """Try everything, and return what held and what isolation itself says that it lacks.

    Raises:
        OSError: No process can be started.
    """
    with _planted() as plan:
        attempts = []
        for name, (meaning, _) in ATTEMPTS.items():
            outcome: Literal["held", "open", "absent"] = "absent"
            if _succeeded(name, plan, isolated=True):
                outcome = "open"
            elif _succeeded(name, plan, isolated=False):
                outcome = "held"
            attempts.append(Attempt(name, meaning, outcome))
    return tuple(attempts), isolation_gaps()


@contextmanager
def _planted() -> Iterator[Plan]:
    """Make the things that are attacked: files, services, and a process with a secret."""
    abstract = f"platodef-{secrets.token_hex(8)}"
    with TemporaryFolder("selftest") as place:
        folder, secret = str(place), place / "secret"
        secret.write_text("planted")
        with (
            socket.create_server(("127.0.0.1", 0)) as tcp,
            _listening(f"{folder}/socket"),
            _listening(f"\0{abstract}"),
            subprocess.Popen(
                [sys.executable, "-I", "-c", _VICTIM],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, _SECRET_NAME: "planted"},
            ) as victim,
        ):
            assert victim.stdin is not None
            assert victim.stdout is not None
            try:
                yield {
                    "folder": folder,
                    "secret": str(secret),
                    "socket": f"{folder}/socket",
                    "abstract": abstract,
                    "port": tcp.getsockname()[1],
                    "victim": victim.pid,
                    "address": int(victim.stdout.readline()),
                }
            finally:
                victim.kill()


_VICTIM = (
    "import ctypes, sys; kept = ctypes.create_string_buffer(b'planted!'); "
    "print(ctypes.addressof(kept), flush=True); sys.stdin.read()"
)


@contextmanager
def _listening(address: str) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen(8)
        yield


def _run(name: str, plan: Plan, *, isolated: bool) -> "subprocess.CompletedProcess[str]":
    """Run one attempt in a process of its own, in a home of its own."""
    with TemporaryFolder("child") as place:
        home = str(place)
        lifeline, kept = os.pipe()
        try:
            words = [name, str(lifeline) if isolated else "", json.dumps(plan)]
            return subprocess.run(
                [sys.executable, "-P", "-m", __name__, *words],
                capture_output=True,
                text=True,
                check=False,
                pass_fds=(lifeline,),
                cwd=home,
                env=child_environment(home),
                start_new_session=True,
                timeout=_TIMEOUT_S,
            )
        finally:
            os.close(lifeline)
            os.close(kept)


def _succeeded(name: str, plan: Plan, *, isolated: bool) -> bool:
    return _run(name, plan, isolated=isolated).returncode == _SUCCESS


def main(name: str, lifeline: str, plan: str) -> int:
    """Try one thing, and tell by the exit code whether it succeeded."""
    gaps = give_up_rights(int(lifeline), []) if lifeline else ()
    if name == _GAPS:
        print(json.dumps(gaps))
        return 0
    # threads, which torch needs, work in every case
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    return _SUCCESS if ATTEMPTS[name][1](json.loads(plan)) else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
