"""When an audit started and ended: dates that fit its duration although the clock of the machine jumps."""

import time
from datetime import UTC, datetime, timedelta


class Clock:
    """Is started once. Durations come from the monotonic clock; dates from the machine's, never too early."""

    def __init__(self) -> None:
        self._date, self._start = datetime.now(UTC), time.perf_counter()

    @property
    def started(self) -> str:
        """The date of the start, ISO 8601."""
        return self._date.isoformat(timespec="seconds")

    def seconds(self) -> float:
        """Return the wall seconds since the start."""
        return time.perf_counter() - self._start

    def now(self) -> str:
        """Return the date, ISO 8601: at least the start and what has passed since, if the clock went back."""
        passed = self._date + timedelta(seconds=self.seconds())
        return max(passed, datetime.now(UTC)).isoformat(timespec="seconds")
