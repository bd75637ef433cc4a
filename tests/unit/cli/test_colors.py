"""Colours on a real pseudo-terminal, and none where they are not wanted."""

import os
import pty
import re
import subprocess
import sys

import pytest

from tests.unit.cli.calls import LAUNCH, ROOT

REPORT = ROOT / "tests" / "golden" / "report_v2.json"
COLOR = re.compile(r"\x1b\[[0-9;]*3[0-9]m")


def on_a_terminal(*words: str, **environment: str) -> str:
    """Run a command whose stderr is a terminal and return what appeared there."""
    ours, theirs = pty.openpty()
    kept = {
        name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "CI")
    }
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCH, *words],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        stdin=subprocess.DEVNULL,
        env={**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "80", **environment},
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # the other end was closed
        pass
    os.close(ours)
    assert process.wait(timeout=60) == 0
    return shown.decode()


def test_colours_on_a_terminal() -> None:
    assert COLOR.search(on_a_terminal("report", str(REPORT)))


@pytest.mark.parametrize(
    ("words", "environment"),
    [((), {"NO_COLOR": "1"}), (("--no-color",), {}), ((), {"TERM": "dumb"})],
    ids=["NO_COLOR", "--no-color", "dumb"],
)
def test_no_colours_where_they_are_not_wanted(words: tuple[str, ...], environment: dict[str, str]) -> None:
    shown = on_a_terminal("report", str(REPORT), *words, **environment)
    assert "FAIL (1)" in shown
    assert not COLOR.search(shown)
