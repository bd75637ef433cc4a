"""Disks that are full or read-only, as a small file system of their own: right code, nothing half-written."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from platodef_cli.features.cache import FeatureCache
from tests.e2e.kills import ROOT, Place, environment_of

GOLDEN = ROOT / "tests" / "golden" / "report_v2.json"
WORDS = (
    "builtin:clean", "--images", "builtin:shapes?seed=1&count=1200", "--battery", "quick",
    "--probe-images", "60", "--searches", "patch",
)  # fmt: skip
_MOUNT = "mount -t tmpfs -o size={size} none {at} && {before} && "
_FORMS = ("json", "html", "sarif", "markdown", "cyclonedx")  # all that do not fit


def mounted(at: Path, size: str, command: list[str], before: str = "true") -> list[str]:
    """Return the words that run a command where a small file system is mounted."""
    script = _MOUNT.format(size=size, at=shlex.quote(str(at)), before=before) + shlex.join(command)
    return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]


@pytest.fixture(autouse=True)
def _may_mount(tmp_path: Path) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare")
    (tmp_path / "try").mkdir()
    if subprocess.run(
        mounted(tmp_path / "try", "64k", ["true"]), capture_output=True, check=False
    ).returncode:
        pytest.skip("this machine mounts nothing for users")


@pytest.mark.parametrize("form", _FORMS)
def test_a_report_that_does_not_fit_is_not_written_half(form: str, tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    target = results / "report"
    command = [sys.executable, "-m", "platodef_cli.cli.app", "report", str(GOLDEN), "-o", f"{form}={target}"]
    # what lies there afterwards can only be seen from inside
    script = f"{shlex.join(command)}; echo code $?; ls -A {shlex.quote(str(results))}"
    done = subprocess.run(
        mounted(results, "4k", ["sh", "-c", script]),
        capture_output=True,
        text=True,
        env=environment_of(tmp_path / "home", tmp_path),
        check=False,
        timeout=120,
    )
    assert done.stdout == "code 3\n", done.stdout + done.stderr
    assert done.stderr.splitlines()[-1].startswith("ERROR (3): No space left on device")
    assert "free some space" in done.stderr


def _audited(tmp_path: Path, at: str, size: str, before: str = "true") -> tuple[int, str, dict[str, Any]]:
    """Run an audit with a small file system at a folder of its place; return code, stderr and report."""
    place = Place(tmp_path / "small", WORDS, tmp_path.parent / "home")
    folder = place.folder / at
    folder.mkdir(parents=True)
    place.make()
    done = subprocess.run(
        mounted(folder, size, place.command(), before),
        capture_output=True,
        text=True,
        env=environment_of(place.home, place.folder / "tmp"),
        check=False,
        timeout=600,
    )
    return done.returncode, done.stderr, json.loads(place.report.read_text())


@pytest.mark.slow
def test_a_cache_that_fills_up_or_cannot_be_written_costs_one_warning(tmp_path: Path) -> None:
    whole = Place(tmp_path / "whole", WORDS, tmp_path / "home")
    done = whole.run()
    expected = whole.content()
    for name, before in (("full", "true"), ("read-only", "mount -o remount,ro {}")):
        cache = shlex.quote(str(tmp_path / name / "small" / "cache"))
        code, err, report = _audited(tmp_path / name, "cache", "300k", before.format(cache))
        assert code == done.code, err
        lines = [line for line in err.splitlines() if "cannot write to the cache" in line]
        assert len(lines) == 1
        assert [line for line in report.pop("warnings") if "cannot write to the cache" in line]
        report.pop("timing")
        assert {**report, "warnings": None} == {**expected, "warnings": None}


@pytest.mark.slow
def test_two_audits_share_a_cache(tmp_path: Path) -> None:
    """They start together, both end, tell the same, and leave a sound cache and nothing else."""
    places = [Place(tmp_path / name, WORDS, tmp_path / "home", tmp_path / "cache") for name in ("a", "b")]
    running = []
    for place in places:
        place.make()
        running.append(
            subprocess.Popen(
                place.command(),
                stderr=subprocess.PIPE,
                text=True,
                env=environment_of(place.home, place.folder / "tmp"),
            )
        )
    ends = [process.communicate(timeout=900)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], ends
    assert places[0].content() == places[1].content()
    assert "damaged" not in "".join(ends)
    assert FeatureCache(tmp_path / "cache").verify() == []
    assert list((tmp_path / "cache").rglob(".tmp*")) == []
