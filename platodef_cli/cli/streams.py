"""Standard streams that cannot fail: a verdict does not depend on who reads it."""

import io
import os
import sys
from typing import TextIO, cast

_OUT, _ERROR = 1, 2


class _Steady(io.FileIO):
    """A descriptor whose reader may go away; what is written after that is dropped."""

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        """Write; a what cannot be delivered is dropped where that is no loss of a result."""
        try:
            return super().write(data) or 0
        except OSError as error:
            # what is said beside the result may get lost, but a result that a full disk cut off is an error
            if not isinstance(error, BrokenPipeError) and self.fileno() != _ERROR:
                raise
            # from here on the descriptor leads nowhere, for whatever else writes to it as well
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self.fileno())
            return memoryview(data).nbytes


def make_steady() -> None:
    """Let the exit code of a command be its own, whatever happens to its output.

    A standard descriptor that was closed (``>&-``) leads to the null device, so that no file that is opened
    later takes its number. A pipe whose reader left (``| head -1``) is no error. Streams that something else
    put in place, as test runners do, stay.
    """
    for number in range(3):
        _occupy(number)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = _steady(sys.stdout, sys.__stdout__, _OUT)
    sys.stderr = _steady(sys.stderr, sys.__stderr__, _ERROR)


def _occupy(number: int) -> None:
    """Open the null device in place of a standard descriptor that is closed."""
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:  # the lowest free one is taken
            os.dup2(opened, number)
            os.close(opened)


def _steady(stream: TextIO | None, original: TextIO | None, number: int) -> TextIO:
    if stream is not None and (stream is not original or _number(stream) != number):
        return stream
    if stream is not None:
        stream.flush()
    terminal = os.isatty(number)
    return io.TextIOWrapper(
        io.BufferedWriter(cast(io.RawIOBase, _Steady(number, "wb", closefd=False))),
        encoding="utf-8" if stream is None else stream.encoding,
        errors="backslashreplace" if number == _ERROR else getattr(stream, "errors", None),
        line_buffering=terminal or number == _ERROR,
    )


def _number(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None
