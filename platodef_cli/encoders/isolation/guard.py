"""The guard of an isolated encoder: a small process beside it that outlives neither it nor their parent."""

import os
import select
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def fork_guarded(lifeline: int, prctl: Callable[..., int], *, bound: bool = False) -> None:
    """Go on in a new process; this one stays behind as its guard and never returns.

    The guard holds no pipe but the lifeline. It kills the encoder when the parent is gone, which code that
    runs inside the encoder cannot prevent, and ends as the encoder ends. In a new PID namespace the encoder
    is the first process, and cannot name any other.

    Args:
        lifeline: Descriptor whose other end only the parent holds.
        prctl: That of libc.
        bound: The thread that started this process ends with its process, so that the kernel may kill the
            guard then: also one that is stopped, and could not do anything itself.
    """
    child = os.fork()
    if not child:
        # for a guard that is killed itself; the creating thread is its only one, so it does not end earlier
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        return
    if bound:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    for descriptor in (0, 1):
        os.close(descriptor)
    os.closerange(3, lifeline)
    os.closerange(lifeline + 1, 4096)
    _wait(child, lifeline)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        number = -code
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(max(code, 0))


def _wait(child: int, lifeline: int) -> None:
    """Return when the child has ended; kill it when the parent has."""
    ended = os.pidfd_open(child) if sys.platform == "linux" else -1
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    poll.register(ended, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == ended:
                return
            os.kill(child, signal.SIGKILL)
            return
