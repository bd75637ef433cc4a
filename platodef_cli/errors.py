"""The error tree: one exit code per class, one message per error.

::

    PlatodefError                3
    ├── UsageError               2   bad argument, policy, file or value given by the user
    │   ├── UnknownNameError     2   a name that is not in a table; lists the choices
    │   ├── UnsupportedError     2   a harmless model that platodef cannot run
    │   └── NotApplicable        2   a method cannot work on what is given; tables show ``-``
    ├── RefusedError             5   unsafe format, configuration or file; nothing of it was loaded
    │   └── SignatureError       5   nobody who is trusted has signed these files
    ├── IncompleteError          3   the work could not be completed: memory, crash, disk
    │   ├── OutOfMemoryError     3   fewer images at once may fit
    │   └── HubError             3   network, authorisation, missing repository
    └── InconclusiveError        4   too little or contradictory evidence for an answer

Messages say what was wrong, with which file or value, and what to do, in one line.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Literal

EXIT_PASS = 0
EXIT_FAIL = 1
EXIT_USAGE = 2
EXIT_INCOMPLETE = 3
EXIT_INCONCLUSIVE = 4
EXIT_REFUSED = 5
EXIT_INTERRUPTED = 130

Outcome = Literal["pass", "fail", "inconclusive", "refused", "error"]
"""Of an audit, and of each of its checks."""

EXIT_CODES: Mapping[Outcome, int] = {
    "pass": EXIT_PASS,
    "fail": EXIT_FAIL,
    "inconclusive": EXIT_INCONCLUSIVE,
    "refused": EXIT_REFUSED,
    "error": EXIT_INCOMPLETE,
}
"""Outcome of an audit -> exit code of the command; usage errors and interruptions are no outcomes."""


class PlatodefError(Exception):
    """Base of every error that platodef raises on purpose."""

    exit_code = EXIT_INCOMPLETE

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors cross processes. Python would call the class with the finished message, but some compose
        # their message from other arguments.
        return _revived, (type(self), self.args), self.__dict__


def _revived(kind: type[PlatodefError], args: tuple[Any, ...]) -> PlatodefError:
    """Return an error with its message, without composing it again."""
    return kind.__new__(kind, *args)


class UsageError(PlatodefError):
    """An argument, a file or a value that the user gave is wrong."""

    exit_code = EXIT_USAGE


class UnknownNameError(UsageError):
    """A name that is not in its table; the message lists the choices."""

    def __init__(self, kind: str, name: str, choices: Iterable[str]):
        known = sorted(choices)
        close = get_close_matches(name, known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        super().__init__(f"unknown {kind} {name!r}{hint}; choose one of: {', '.join(known)}")


class UnsupportedError(UsageError):
    """A model that is no danger, and that platodef cannot run; the message names what it can run."""


class NotApplicable(UsageError):
    """A method needs an access that this encoder or file cannot give; never a made-up score.

    Attributes:
        why: One line for ``not_examined``, without the method's name.
    """

    def __init__(self, why: str):
        super().__init__(f"not applicable: {why}")
        self.why = why


class RefusedError(PlatodefError):
    """A model, configuration or file is unsafe; nothing of it was loaded."""

    exit_code = EXIT_REFUSED


class SignatureError(RefusedError):
    """The publisher's signature is missing, or does not vouch for the files."""


class IncompleteError(PlatodefError):
    """The work could not be completed (memory, disk, a crashed child process)."""

    exit_code = EXIT_INCOMPLETE


class OutOfMemoryError(IncompleteError):
    """Memory ran out for the images that were given at once; fewer may fit."""


class HubError(IncompleteError):
    """The model hub could not be reached, refused, or served something else than asked."""


class InconclusiveError(PlatodefError):
    """The evidence is too small or contradicts itself."""

    exit_code = EXIT_INCONCLUSIVE
