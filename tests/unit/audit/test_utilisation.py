"""What an audit uses of a machine is counted over all of its processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from platodef_cli.audit.state import ProgressRecorder
from platodef_cli.audit.utilisation import Watching, family
from platodef_cli.progress import SILENT

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="processes are looked at in /proc"
)
BURNING = "import time\nwhile time.process_time() < 0.4: pass"
WAITING = "import sys; print('there', flush=True); sys.stdin.read()"


def burn() -> None:
    subprocess.run([sys.executable, "-c", BURNING], check=True)


def test_a_child_that_ended_counts() -> None:
    with Watching(1) as use:
        burn()
    assert use.processor_seconds >= 0.35
    assert use.ready is not None
    assert 0 < use.ready <= 1


def test_a_child_that_still_runs_counts_and_so_does_its_own() -> None:
    # a shell in between, whose child waits
    command = f'{sys.executable} -c "{WAITING}"; true'
    with subprocess.Popen(
        ["/bin/sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        assert shell.stdout.readline() == "there\n"
        found = list(family())
        assert found[0] == os.getpid()
        assert shell.pid in found
        (waiting,) = set(family(shell.pid)) - {shell.pid}
        assert waiting in found
        shell.stdin.close()
    assert shell.pid not in family()


def test_steps_of_one_name_add_up() -> None:
    recorder = ProgressRecorder(SILENT)
    with recorder.timed("search"):
        burn()
    once = recorder.processor_seconds["search"]
    with recorder.timed("search"):
        burn()
    with recorder.timed("load"):
        pass
    assert recorder.processor_seconds["search"] >= once + 0.35
    assert 0 < recorder.ready["search"] <= 1
    # too short to look
    assert "load" not in recorder.ready
    assert set(recorder.processor_seconds) == set(recorder.seconds) == {"search", "load"}
