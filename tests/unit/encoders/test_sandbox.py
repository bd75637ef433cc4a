"""What a child process gives up, tried in real processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from platodef_cli.encoders.isolation import landlock
from platodef_cli.encoders.isolation.sandbox import child_environment
from platodef_cli.encoders.isolation.seccomp import filter_system_calls
from platodef_cli.encoders.isolation.selftest import isolation_gaps, run_selftest

ROOT = Path(__file__).parents[3]
needs_linux_layers = pytest.mark.skipif(
    bool(isolation_gaps()), reason=f"this machine cannot isolate completely: {'; '.join(isolation_gaps())}"
)
PRELUDE = (
    "from platodef_cli.encoders.isolation.sandbox import give_up_rights, limit_memory\n"
    "notes = give_up_rights()\n"
)


def run(code: str) -> str:
    """Run code after giving up all rights; return what it prints."""
    command = [sys.executable, "-c", PRELUDE + code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def attempt(code: str) -> str:
    """Return the name of the error that a statement raises."""
    return run(f"try:\n    {code}\nexcept BaseException as error:\n    print(type(error).__name__)\n")


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.socket()",
        "import socket; socket.socket(socket.AF_UNIX)",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import socket; socket.getaddrinfo('localhost', 80)",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.system('true')",
        "import os; os.execv('/bin/true', ['true'])",
        "import os; os.posix_spawn('/bin/true', ['true'], {})",
    ],
)
def test_sockets_and_programs_are_not_allowed(code: str) -> None:
    assert attempt(code) == "PermissionError"


def test_no_network_exists_or_the_notes_say_so() -> None:
    listed = run("import json, os; print(json.dumps([list(notes), open('/proc/net/dev').read()]))")
    if "partial" not in listed:
        assert "eth" not in listed
        assert "ens" not in listed
    notes = run("print(*notes)")
    assert notes == "" or "network isolation is partial" in notes


def test_without_namespaces_the_notes_say_that_isolation_is_partial() -> None:
    code = """
import ctypes
real = ctypes.CDLL(None, use_errno=True)
class Refusing:
    unshare = staticmethod(lambda *_: ctypes.set_errno(1) or -1)
    __getattr__ = lambda self, name: getattr(real, name)
ctypes.CDLL = lambda *_, **__: Refusing()
from platodef_cli.encoders.isolation.sandbox import give_up_rights
print(*give_up_rights())
import socket
try:
    socket.socket()
except PermissionError:
    print("blocked")
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    notes, blocked = result.stdout.splitlines()
    assert notes.startswith("network isolation is partial: no network namespace (Operation not permitted)")
    assert blocked == "blocked"


def test_memory_past_the_limit_is_refused() -> None:
    assert attempt("limit_memory(0.1); bytearray(300_000_000)") == "MemoryError"
    assert attempt("limit_memory(0.5); bytearray(300_000_000)") == ""


def test_core_dumps_and_large_files_are_off(tmp_path: Path) -> None:
    code = "import resource as r; print(r.getrlimit(r.RLIMIT_CORE), r.getrlimit(r.RLIMIT_FSIZE)[1])"
    assert run(code) == f"(0, 0) {64 * 2**20}"


def test_reading_files_still_works() -> None:
    assert run(f"print(open({str(Path(__file__))!r}).readline().strip())").startswith('"""What a child')


def test_the_environment_holds_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "HTTPS_PROXY",
        "GITHUB_TOKEN",
        "HF_ENDPOINT",
        "SSH_AUTH_SOCK",
    ):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    environment = child_environment("/home/of/child")
    assert "secret" not in environment.values()
    assert environment["HOME"] == environment["HF_HOME"] == "/home/of/child"
    assert environment["HF_HUB_OFFLINE"] == environment["DISABLE_SAFETENSORS_CONVERSION"] == "1"
    assert environment["OMP_NUM_THREADS"] == "3"
    assert "" not in environment["PYTHONPATH"].split(os.pathsep)


@needs_linux_layers
def test_everything_that_hostile_code_could_try_is_held() -> None:
    attempts, gaps = run_selftest()
    assert [entry.name for entry in attempts if entry.outcome == "open"] == []
    # a test that nothing can fail shows nothing: most attempts succeed in a process that gave up nothing
    assert sum(entry.outcome == "held" for entry in attempts) >= 10
    assert gaps == ()


def test_a_kernel_without_landlock_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 0)
    assert landlock.restrict([], []) == ("no Landlock in this kernel, so files of the user can be read",)


def test_an_unknown_machine_has_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "vax")
    assert filter_system_calls() == "there is no list of system calls for vax"


@needs_linux_layers
def test_only_what_was_named_can_be_read_and_only_the_home_written(tmp_path: Path) -> None:
    given, other = tmp_path / "model", tmp_path / "other"
    for folder in (given, other):
        folder.mkdir()
        (folder / "file").write_text(folder.name)
    code = f"""
from pathlib import Path
def reads(path):
    try:
        return Path(path).read_text()
    except PermissionError:
        return "no"
print(reads({str(given / "file")!r}), reads({str(other / "file")!r}))
try:
    Path({str(given / "new")!r}).touch()
except PermissionError:
    print("not written")
import threading, json, zoneinfo  # libraries and threads are there
thread = threading.Thread(target=print, args=("thread",)); thread.start(); thread.join()
"""
    prelude = (
        "from pathlib import Path\n"
        "from platodef_cli.encoders.isolation.sandbox import give_up_rights\n"
        f"give_up_rights(None, [Path({str(given)!r})])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", prelude + code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.split("\n")[:3] == ["model no", "not written", "thread"]


@needs_linux_layers
def test_the_guard_kills_an_encoder_that_ignores_the_end_of_its_parent() -> None:
    code = (
        "import os, sys, time\n"
        "from platodef_cli.encoders.isolation.sandbox import give_up_rights\n"
        "give_up_rights(int(sys.argv[1]))\n"
        "import ctypes; ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\n"  # no death signal any more
        "print('ready', flush=True)\n"
        "while True: time.sleep(1)\n"
    )
    read, write = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(read)], stdout=subprocess.PIPE, pass_fds=(read,), cwd=ROOT
    )
    os.close(read)
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == b"ready\n"
        os.close(write)
        assert child.stdout.read() == b""  # whoever could write to it is gone
    assert child.wait(30) == -signal.SIGKILL
