"""Ctrl-C, and SIGTERM that schedulers send: one line and exit code 130, whatever is running."""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from platodef_cli.cli.exits import closing_line, explain
from platodef_cli.errors import EXIT_INTERRUPTED

GRACE_S = 10.0
"""How long an interrupted run may take to end in order before it is ended anyway."""


class Interrupts:
    """The signals that end a run.

    The first one raises :class:`KeyboardInterrupt` in the main thread. In a process of its own, a second
    one, or an end in order that takes too long, ends the process at once. It never ends by the way of the
    interpreter, which would tear down threads in the middle of a computation: the C++ runtime then says
    ``terminate called without an active exception``. Children notice that this process is gone.

    Args:
        own_process: Whether the process belongs to the run; else only SIGTERM is taken, and nothing forced.
        told: Whether the last line has been written.
    """

    def __init__(self, own_process: bool, told: Callable[[], bool]):
        self._own, self._told = own_process, told
        self._interrupted = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Take the signals inside the block, and give them back after it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [signal.SIGTERM, signal.SIGINT] if self._own else [signal.SIGTERM]
        # a shell starts background jobs with interrupts ignored, and so they stay
        before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
        for number in before:
            signal.signal(number, self._interrupt)
        unraisable = sys.unraisablehook
        sys.unraisablehook = self._unraisable(unraisable)
        try:
            yield
        finally:
            sys.unraisablehook = unraisable
            for number, handler in before.items():
                signal.signal(number, handler)

    def leave(self) -> None:
        """End an interrupted process that has said its last line; returns where nothing was interrupted."""
        if not (self._own and self._interrupted):
            return
        with suppress(BaseException):  # nothing may follow the last line
            atexit._run_exitfuncs()
        self._end()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted and self._own:
            self._end()
        if self._own:
            watch = threading.Timer(GRACE_S, self._end)
            watch.daemon = True
            watch.start()
        self._interrupted = True
        raise KeyboardInterrupt

    def _end(self) -> NoReturn:
        """Write the last line unless it has been written, and end the process without any tidying up."""
        with suppress(Exception):
            sys.stdout.flush()
        with suppress(Exception):
            if not self._told():
                # past the console, whose locks another thread may hold
                shown = "\r\x1b[J\x1b[?25h" if sys.stderr.isatty() else ""
                line = closing_line(*explain(KeyboardInterrupt()))
                os.write(sys.stderr.fileno(), f"{shown}{line}\n".encode())
        os._exit(EXIT_INTERRUPTED)

    @staticmethod
    def _unraisable(usual: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return a hook that is silent about an interrupt inside a destructor: the run ends all the same."""

        def hook(what: Any) -> None:
            if not isinstance(what.exc_value, KeyboardInterrupt):
                usual(what)

        return hook
