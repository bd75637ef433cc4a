"""Times that people write: 45s, 30m, 2h, 1h30m."""

import re

from platodef_cli.errors import UsageError

_PARTS = re.compile(r"(?:\d+(?:\.\d+)?[smh])+")
_PART = re.compile(r"(\d+(?:\.\d+)?)([smh])")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_MOST = 1000 * 3600


def parse_duration(text: str) -> float:
    """Return the seconds of a time as people write it.

    Raises:
        UsageError: It is none, or not between a second and a thousand hours.
    """
    if not _PARTS.fullmatch(text.strip()):
        raise UsageError(f"{text!r} is no time; give numbers with s, m or h, as in 45s, 30m, 2h or 1h30m")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
    if not 1 <= seconds <= _MOST:
        raise UsageError(f"the time {text!r} is not between 1s and {_MOST // 3600}h")
    return seconds


def check_duration(text: str | None) -> str | None:
    """Return a time as it was written.

    Raises:
        UsageError: It is none.
    """
    if text is not None:
        parse_duration(text)
    return text


def in_words(seconds: float) -> str:
    """Return a time to two digits or so: ``0.4 s``, ``12 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 else f"{round(whole / 60)} min"
    minutes = round(whole / 60)
    return f"{minutes // 60} h {minutes % 60} min"
