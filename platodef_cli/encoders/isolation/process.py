"""The process of an isolated encoder as its parent sees it: start, messages, limits, and why it died."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import IO, Any

import torch
from torch import Tensor

from platodef_cli.encoders.isolation.limits import is_stopped, time_limit
from platodef_cli.encoders.isolation.sandbox import child_environment, hide_memory
from platodef_cli.encoders.isolation.wire import Wire, WireError, WireTimeout, as_tensor
from platodef_cli.encoders.local import one_line
from platodef_cli.errors import (
    IncompleteError,
    NotApplicable,
    OutOfMemoryError,
    PlatodefError,
    RefusedError,
    UnsupportedError,
    UsageError,
)
from platodef_cli.temporary import TemporaryFolder

GRACE_S = 5.0
"""How long a child that closed its pipe may take to die before it counts as lying."""
_KNOWN: dict[str, Callable[[str], PlatodefError]] = {
    "RefusedError": RefusedError,
    "UsageError": UsageError,
    "UnknownNameError": UsageError,
    "UnsupportedError": UnsupportedError,
    "IncompleteError": IncompleteError,
    "OutOfMemoryError": OutOfMemoryError,
    "NotApplicable": NotApplicable,
}


class ChildProcess:
    """The process, its pipes and what to say when it dies."""

    def __init__(
        self,
        name: str,
        memory_limit_gb: float,
        time_limit_s: float | None,
        *,
        readable: Iterable[str] = (),
        gpu: bool = False,
        weights: int = 0,
    ):
        self._name, self._memory, self._timeout = name, memory_limit_gb, time_limit_s
        self._weights = weights
        self._lock = threading.Lock()
        self._failure: str | None = None
        self._folder = TemporaryFolder("child")
        self._home = str(self._folder.path)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        lifeline, self._lifeline = os.pipe()
        hide_memory()
        # the kernel tells a child that the thread which made it has ended, not the process
        bound = threading.current_thread() is threading.main_thread()
        try:
            self._process = subprocess.Popen(
                self._command(lifeline),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                cwd=self._home,
                env=child_environment(self._home),
                pass_fds=(lifeline,),
                # Ctrl-C belongs to the parent, which then closes the child in order.
                start_new_session=True,
            )
            with contextlib.suppress(BrokenPipeError):  # the first message finds out that it is gone
                _tell(self._lifeline, {"readable": list(readable), "gpu": gpu, "bound": bound})
        except OSError as error:
            os.close(self._lifeline)
            self._folder.remove()
            raise IncompleteError(
                f"encoder {name!r}: no child process could be started ({error.strerror})"
            ) from None
        finally:
            os.close(lifeline)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._wire = Wire(self._process.stdout.fileno(), self._process.stdin.fileno())
        self._end = weakref.finalize(self, _end, self._process, self._errors, self._lifeline, self._folder)

    def _command(self, lifeline: int) -> list[str]:
        """Return the command line of the child; ``-P`` keeps the working folder off its import path."""
        return [sys.executable, "-P", "-m", "platodef_cli.encoders.isolation.child", str(lifeline)]

    def tensor(self, request: dict[str, Any], tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Send a request whose answer has to be a float32 tensor of the given shape."""
        result = self.maybe_tensor(request, tensor, shape)
        if result is None:
            raise IncompleteError(f"encoder {self._name!r}: its child gave no answer")
        return result

    def maybe_tensor(self, request: dict[str, Any], tensor: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        """As :meth:`tensor`, but None where the child has dropped what the request is about."""
        answer, value = self.call(request, tensor)
        if answer.get("dropped") is True:
            return None
        try:
            return as_tensor(value, shape, torch.float32)
        except WireError as error:
            raise self._broken(f"broke the protocol: {error}") from None

    def inside(self, request: dict[str, Any], pixels: Tensor, most: int) -> tuple[dict[str, Any], Tensor]:
        """Send a request for internals, whose shape only the child knows.

        Args:
            request: The request.
            pixels: uint8 ``[B, 3, H, W]``.
            most: Most numbers per image that are accepted; a longer answer is not even read.

        Returns:
            The answer and its tensor, float32 ``[B, n, m]`` and finite.
        """
        room = 4 * most * len(pixels) + 4096  # the header of the payload
        answer, value = self.call(request, pixels, most_bytes=room)
        right = value is not None and value.ndim == 3 and value.dtype == torch.float32
        if value is None or not right or len(value) != len(pixels) or not torch.isfinite(value).all():
            raise self._broken("broke the protocol: internals are missing, misshapen or not finite")
        return answer, value

    def broken(self, cause: str) -> IncompleteError:
        """End a child that contradicts itself and return the error to raise."""
        return self._broken(f"broke the protocol: {cause}")

    def call(
        self, request: dict[str, Any], tensor: Tensor | None = None, *, most_bytes: int | None = None
    ) -> tuple[dict[str, Any], Tensor | None]:
        """Send one request and wait for its answer, with a tensor of at most ``most_bytes``."""
        with self._lock:
            if self._failure:
                raise IncompleteError(self._failure)
            limit = self._timeout or time_limit(self._weights, 0 if tensor is None else len(tensor))
            try:
                self._wire.send(request, tensor, limit)
                answer, value = self._wire.receive(limit, most_bytes)
            except WireTimeout:
                raise self._broken(self._late(limit)) from None
            except WireError as error:
                raise self._broken(self._cause(str(error))) from None
            except BaseException:
                # An answer that nobody reads would be taken for the next one's.
                self._broken("was interrupted")
                raise
        if "error" in answer:
            raise self._error(str(answer["error"]), one_line(answer.get("message", ""), 1000))
        return answer, value

    def close(self) -> None:
        """End the process; further calls raise :class:`IncompleteError`."""
        self._failure = self._failure or f"encoder {self._name!r} is closed"
        _kill(self._process)
        # A call in another thread sees the end of the pipe and leaves; only then may the pipe be closed.
        with self._lock:
            self._end()

    def _broken(self, cause: str) -> IncompleteError:
        """Remember that the child is of no use any more, end it and return the error."""
        self._failure = f"isolated encoder {self._name!r} {cause}"
        _kill(self._process)
        self._process.wait()
        return IncompleteError(self._failure)

    def _late(self, limit: float) -> str:
        """Say why there is no answer in time."""
        if is_stopped(self._process.pid):
            return (
                f"was stopped by a signal and did not go on within {limit:g} s; run it again, or raise the "
                "time limit if it is stopped on purpose"
            )
        return f"took longer than {limit:g} s; raise the time limit"

    def _cause(self, fallback: str) -> str:
        """Say why the child is gone: its signal, its exit code, or the last line it printed."""
        try:
            code = self._process.wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            return f"broke the protocol: {fallback}"
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - 4000))
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        last = one_line(lines[-1]) if lines else ""
        if code == -signal.SIGKILL or "bad_alloc" in last or "MemoryError" in last:
            return (
                f"was killed, most likely out of memory; give a smaller --batch-size, or where the machine "
                f"has more than {self._memory:g} GB a larger --memory-limit"
            )
        if code < 0:
            return f"crashed ({_signal_name(-code)}){': ' + last if last else ''}; do not trust this model"
        return f"ended with code {code}{': ' + last if last else ''}"

    def _error(self, kind: str, message: str) -> PlatodefError:
        """Turn a failure that the child reports into the same error here."""
        if kind in _KNOWN:
            hint = f" (memory limit {self._memory:g} GB)" if "ran out of memory" in message else ""
            return _KNOWN[kind](message + hint)
        if kind == "MemoryError":
            return OutOfMemoryError(
                f"isolated encoder {self._name!r} ran out of its {self._memory:g} GB; raise --memory-limit"
            )
        return IncompleteError(f"isolated encoder {self._name!r} failed: {message}")


def _tell(lifeline: int, orders: dict[str, Any]) -> None:
    """Write the line that the child reads first; short of the size of a pipe it never waits."""
    data = memoryview(json.dumps(orders).encode() + b"\n")
    while data:
        data = data[os.write(lifeline, data) :]


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill a child and its guard, which are one process group: neither can leave it."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _end(process: "subprocess.Popen[bytes]", errors: IO[bytes], lifeline: int, home: TemporaryFolder) -> None:
    """Kill the child, which holds nothing worth saving, close its pipes and remove its home."""
    os.close(lifeline)
    _kill(process)
    process.wait()
    for pipe in (process.stdin, process.stdout, errors):
        if pipe is not None:
            pipe.close()
    home.remove()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
