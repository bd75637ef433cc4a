"""Ctrl-C and SIGTERM in a real process: one last line and 130, in every phase and however often."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from platodef_cli.cli.interrupts import Interrupts

ROOT = Path(__file__).parents[3]
LINE = "INTERRUPTED (130): interrupted; run the same command again, finished work is cached"


def interrupted(body: str, *signals: signal.Signals, grace: float = 30) -> tuple[int, list[str]]:
    """Run ``platodef schema`` with ``body`` for its work, signal when it is ready; return code, stderr."""
    code = f"""
import sys, threading, time
import platodef_cli.cli.interrupts as interrupts
import platodef_cli.report.json as module
from platodef_cli.cli.app import main
interrupts.GRACE_S = {grace}
def ready():
    print('ready', flush=True)
def dumps(value):
{textwrap.indent(textwrap.dedent(body), "    ")}
module.dumps = dumps
sys.argv[1:] = ['schema']
sys.exit(main())
"""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        # a shell starts background jobs with interrupts ignored, and so would the tests' children be
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as child:
        assert child.stdout is not None
        for number in signals:
            assert child.stdout.readline() == "ready\n"
            child.send_signal(number)
        _, err = child.communicate(timeout=60)
    return child.returncode, err.splitlines()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_threads_in_the_middle_of_a_computation_say_nothing(number: signal.Signals) -> None:
    """At the interpreter's end they would be unwound through C++ frames: ``terminate called``."""
    body = """
        import torch
        leaf = torch.rand(300, 300).requires_grad_(True)
        def work():
            while True:
                (leaf @ leaf).sum().backward()
        for _ in range(3):
            threading.Thread(target=work, daemon=True).start()
        ready()
        time.sleep(60)
    """
    assert interrupted(body, number) == (130, [LINE])


def test_a_second_interrupt_ends_at_once_with_the_same_line() -> None:
    body = """
        try:
            ready()
            time.sleep(60)
        finally:
            ready()
            time.sleep(60)
    """
    assert interrupted(body, signal.SIGINT, signal.SIGTERM) == (130, [LINE])


def test_an_end_that_takes_too_long_is_cut_short() -> None:
    body = """
        try:
            ready()
            time.sleep(60)
        finally:
            time.sleep(60)
    """
    assert interrupted(body, signal.SIGTERM, grace=0.5) == (130, [LINE])


def test_an_interrupt_that_a_destructor_swallows_ends_the_run_all_the_same() -> None:
    body = """
        class Slow:
            def __del__(self):
                ready()
                time.sleep(60)
        slow = Slow()
        del slow
        time.sleep(60)
    """
    assert interrupted(body, signal.SIGINT, grace=0.5) == (130, [LINE])


def test_children_and_temporary_files_do_not_stay(tmp_path: Path) -> None:
    body = f"""
        import os, tempfile, weakref
        from pathlib import Path
        tempfile.tempdir = {str(tmp_path)!r}
        from platodef_cli.encoders.isolation.process import ChildProcess
        class Sleeper(ChildProcess):
            def _command(self, lifeline):
                return [sys.executable, '-c', 'import time; time.sleep(60)']
        child = Sleeper('sleeper', 1.0, None)
        module.child = child
        Path({str(tmp_path / "pid")!r}).write_text(str(child._process.pid))
        ready()
        time.sleep(60)
    """
    assert interrupted(body, signal.SIGINT) == (130, [LINE])
    assert [path.name for path in tmp_path.iterdir()] == ["pid"]
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_ignored_interrupts_stay_ignored_and_handlers_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    usual = sys.unraisablehook
    try:
        with Interrupts(own_process=True, told=lambda: True).handled():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert sys.unraisablehook is usual
    finally:
        signal.signal(signal.SIGINT, before)
