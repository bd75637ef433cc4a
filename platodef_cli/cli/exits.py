"""The one place where an error becomes a message and an exit code."""

import errno

import typer

from platodef_cli.errors import (
    EXIT_CODES,
    EXIT_INCOMPLETE,
    EXIT_INTERRUPTED,
    EXIT_PASS,
    EXIT_USAGE,
    PlatodefError,
)
from platodef_cli.report.escaping import plain

LABELS = {
    **{code: outcome.upper() for outcome, code in EXIT_CODES.items()},
    EXIT_PASS: "OK",  # of every command, not of audits only
    EXIT_USAGE: "USAGE",
    EXIT_INTERRUPTED: "INTERRUPTED",
}
"""Exit code -> first word of the last line on stderr."""
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "defaultcpuallocator")


def one_line(text: str) -> str:
    """Return a message without line breaks or control characters."""
    return plain(" ".join(text.split()))


def closing_line(code: int, message: str) -> str:
    """Return the last line on stderr: ``REFUSED (5): why``."""
    return f"{LABELS.get(code, 'ERROR')} ({code}): {one_line(message)}"


def _usage_message(error: typer.TyperException) -> str:
    message = error.format_message() or "a command is missing"
    context = getattr(error, "ctx", None)
    return message if context is None else f"{message} (see '{context.command_path} --help')"


def _os_error_message(error: OSError) -> str:
    where = f": {error.filename}" if error.filename else ""
    hint = "; free some space and run the same command again" if error.errno == errno.ENOSPC else ""
    return f"{error.strerror or type(error).__name__}{where}{hint}"


def explain(error: BaseException) -> tuple[int, str]:
    """Return the exit code and the message of an error; a crash is 3 and never looks like a finding."""
    if isinstance(error, PlatodefError):
        return error.exit_code, str(error) or type(error).__name__
    if isinstance(error, typer.TyperException):
        return EXIT_USAGE, _usage_message(error)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return EXIT_INTERRUPTED, "interrupted; run the same command again, finished work is cached"
    if isinstance(error, BrokenPipeError):
        return EXIT_INCOMPLETE, "the reader of the output closed it before everything was written"
    if isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _OUT_OF_MEMORY):
        return EXIT_INCOMPLETE, "not enough memory; try a smaller --batch-size or --limit"
    if isinstance(error, OSError) and error.errno is not None:
        return EXIT_INCOMPLETE, f"{_os_error_message(error)} (use --debug for the traceback)"
    detail = (
        f"unexpected {type(error).__name__}: {error}" if str(error) else f"unexpected {type(error).__name__}"
    )
    return EXIT_INCOMPLETE, f"{detail}; use --debug for the traceback"
