"""What works on systems without Linux's modules: they are made unavailable before anything is imported.

A ``sitecustomize`` on the import path does it, for the process and for every child of it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GATE = ROOT / "tests" / "golden" / "gate"
CLEAN = ROOT / "examples" / "encoders" / "clean"

_COMMON = """
import ctypes, os, sys
for name in ("resource", "fcntl", "pwd", "grp"):
    sys.modules[name] = None
for name in ("pidfd_open", "sched_getaffinity", "unshare"):
    if hasattr(os, name):
        delattr(os, name)
class NoPrctl(ctypes.CDLL):
    def __getattr__(self, name):
        if name in ("prctl", "unshare", "capset", "syscall", "mallopt"):
            raise AttributeError(name)
        return super().__getattr__(name)
ctypes.CDLL = NoPrctl
"""
MACOS = _COMMON
WINDOWS = (
    _COMMON
    + """
import signal
for name in (
    "killpg", "readv", "set_blocking", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "sysconf", "pread", "pwrite",
    "mkfifo", "setsid", "getpgid", "fork", "getloadavg",
):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGHUP", "SIGALRM", "SIGURG", "SIGUSR1", "setitimer", "alarm"):
    if hasattr(signal, name):
        delattr(signal, name)
"""
)
SYSTEMS = {"macos": MACOS, "windows": WINDOWS}


@pytest.fixture(params=SYSTEMS)
def system(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment of processes on such a system."""
    return environment_on(request.param, tmp_path)


def environment_on(name: str, tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SYSTEMS[name])
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        "PLATODEF_CACHE_DIR": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
        "SYSTEM": name,
    }


def platodef(system: dict[str, str], folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "platodef_cli.cli.app", *map(str, words)]
    done = subprocess.run(
        command, env=system, cwd=folder, capture_output=True, text=True, timeout=400, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_the_modules_are_really_gone_and_everything_is_imported(system: dict[str, str]) -> None:
    code = """
import importlib, pkgutil, platodef_cli
try:
    import resource
except ImportError:
    print("gone")
for module in pkgutil.walk_packages(platodef_cli.__path__, "platodef_cli."):
    if not module.name.endswith(("__main__", "auto_attack")):
        importlib.import_module(module.name)
from platodef_cli.encoders.isolation import system
print(system.has_sandbox(), system.has_children())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=system, capture_output=True, text=True, timeout=300, check=False
    )
    expected = {"macos": "gone\nFalse True\n", "windows": "gone\nFalse False\n"}[system["SYSTEM"]]
    assert (done.stdout, done.returncode) == (expected, 0), done.stderr


def test_reports_are_judged_and_shown_and_files_checked(system: dict[str, str], tmp_path: Path) -> None:
    assert platodef(system, tmp_path, "gate", GATE / "clean.json", "-q").returncode == 0
    assert platodef(system, tmp_path, "gate", GATE / "backdoored.json", "-q").returncode == 1
    page = tmp_path / "page.html"
    shown = platodef(system, tmp_path, "report", GATE / "clean.json", "-o", f"html={page}", "-o", "terminal")
    assert shown.returncode == 0
    assert "PASS (0)" in shown.stderr
    assert "<html" in page.read_text()
    checked = platodef(system, tmp_path, "preflight", CLEAN)
    assert checked.returncode == 0, checked.stderr
    (tmp_path / "linked").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "linked" / name).symlink_to(CLEAN / name)
    assert platodef(system, tmp_path, "preflight", tmp_path / "linked").returncode == 5
    doctor = platodef(system, tmp_path, "doctor")
    assert "no sandbox" in doctor.stdout + doctor.stderr or "own process" in doctor.stdout + doctor.stderr


def test_features_are_scored_and_purified(system: dict[str, str], tmp_path: Path) -> None:
    features = tmp_path / "features.safetensors"
    words = ["--reference", "builtin:reference-vit", "--reference", "builtin:reference-cnx"]
    done = platodef(
        system, tmp_path, "extract", "builtin:clean", *words,
        "--images", "builtin:shapes?seed=5&count=60", "-o", features,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # isolation degrades with a clear line
    told = {"macos": "no sandbox", "windows": "runs in platodef's own process"}[system["SYSTEM"]]
    strict = platodef(
        system, tmp_path, "audit", "builtin:clean", "--require-isolation", "--battery", "quick", "-q"
    )
    assert strict.returncode == 3
    assert told in strict.stderr
    scored = platodef(system, tmp_path, "score", features, "--head", "builtin-clean")
    assert scored.returncode == 0, scored.stderr
    assert json.loads(scored.stdout)
    clean = tmp_path / "purified.safetensors"
    purified = platodef(system, tmp_path, "purify", features, "--head", "builtin-clean", "-o", clean)
    assert purified.returncode == 0, purified.stderr
    assert clean.stat().st_size > 0


# macOS has children, whose features and errors the tests above see; without them more is different
@pytest.mark.parametrize("name", ["windows", pytest.param("macos", marks=pytest.mark.slow)])
def test_an_audit_runs_to_its_end(name: str, tmp_path: Path) -> None:
    system = environment_on(name, tmp_path)
    report = tmp_path / "report.json"
    done = platodef(
        system, tmp_path, "audit", "builtin:backdoored", "--base", "builtin:clean", "--battery", "quick",
        "-r", "builtin:reference-vit", "-r", "builtin:reference-cnx", "--probe-images", "60",
        "-i", "builtin:shapes?seed=5&count=900", "--search", "patch",
        "-o", f"json={report}", "-o", f"html={tmp_path / 'page.html'}", "-o", "terminal",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    told = {"macos": "there is no sandbox on", "windows": "the suspect runs in platodef's own process"}
    said = " ".join(done.stderr.split()).count(told[system["SYSTEM"]])
    assert said == 1, done.stderr
    value = json.loads(report.read_text())
    assert value["verdict"] == "fail"
    assert value["target"]["isolated"] is (system["SYSTEM"] == "macos")
    assert sum(told[system["SYSTEM"]] in line for line in value["warnings"]) == 1
    assert value["context"]["lineage"]["base"] == "clean"
    assert "<html" in (tmp_path / "page.html").read_text()
    # the report is judged there as well
    assert platodef(system, tmp_path, "gate", report, "-q").returncode == 1
