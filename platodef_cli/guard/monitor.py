"""Watches whether more is flagged than was promised, at any time and without a fixed number of images.

The promise is about the share ``q`` of clean images over the threshold. It is not known: the threshold is an
order statistic of n clean scores, so q is at most the (1 - error/2)-quantile of Beta(n + 1 - rank, rank) with
probability 1 - error/2 (Vovk 2012, training-conditional validity; ties only lower q). The test of that bound
p0 bets against it:

    M(n, k) = 1/(1 - p0) * integral over p in (p0, 1) of (p/p0)^k ((1-p)/(1-p0))^(n-k) dp

is a nonnegative supermartingale of mean at most 1 as long as each image is flagged with probability at most
p0 given the past, so that it ever reaches 2/error with probability at most error/2 (Ville's inequality). A
change that comes late would drown in what came before; so new bets start all the time, bet j with weight
1/((j+1)(j+2)) of the whole, and the weighted sum is a supermartingale as well. Both errors together are at
most ``error``, however long it runs.
"""

import json
import math
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platodef_cli.disk import canonical_json, check_json_size, explaining, write_atomically
from platodef_cli.errors import UsageError

VERSION = 1
EVERY = 256
"""Images after which a new bet starts."""
MOST = 64
"""Bets that are kept; beyond, every second one is dropped, which only lowers the evidence."""
_LARGEST = 1 << 20


@dataclass(frozen=True)
class Drift:
    """What the monitor knows.

    Attributes:
        seen: Images so far.
        flagged: Of these, over the threshold.
        promised: Share of clean images that may be over it.
        bound: Largest share that the calibration allows for, which is what is tested.
        evidence: Natural logarithm of the evidence against the bound; the alarm is at ``-log(error / 2)``.
        alarm: Number of images after which the alarm was raised; None where it was not. It stays.
    """

    seen: int
    flagged: int
    promised: float
    bound: float
    evidence: float
    alarm: int | None

    @property
    def share(self) -> float:
        """Share flagged so far; 0 before the first image."""
        return self.flagged / self.seen if self.seen else 0.0


def rate_bound(calibration: int, rate: float, error: float) -> float:
    """Return the largest share of clean images over a conformal threshold, with probability 1 - error.

    Args:
        calibration: Number n of clean scores that gave the threshold.
        rate: The promised share.
        error: Probability that the bound is too low.
    """
    from scipy.stats import beta

    rank = math.ceil((calibration + 1) * (1.0 - rate) - 1e-9)
    return float(beta.ppf(1.0 - error, calibration + 1 - rank, rank))


def log_evidence(seen: int, flagged: int, bound: float) -> float:
    """Return ``log M(seen, flagged)`` of the module's docstring."""
    from scipy.special import betaincc, betaln

    above = float(betaincc(flagged + 1.0, seen - flagged + 1.0, bound))
    if above <= 0.0:
        return -math.inf
    mixture = float(betaln(flagged + 1.0, seen - flagged + 1.0)) + math.log(above) - math.log1p(-bound)
    return mixture - flagged * math.log(bound) - (seen - flagged) * math.log1p(-bound)


class DriftMonitor:
    """The running test; may be used from several threads.

    Args:
        rate: Share of clean images that may be flagged.
        calibration: Number of clean scores that gave the threshold.
        error: Probability of an alarm, ever, while nothing but clean images of the calibrated kind comes.

    Raises:
        UsageError: An argument is out of range.
    """

    def __init__(self, rate: float, calibration: int, error: float = 0.01):
        if not (0 < rate < 1 and 0 < error < 1) or calibration < 1:
            raise UsageError("a monitor needs a rate and an error between 0 and 1, and calibration scores")
        self.rate, self.calibration, self.error = rate, calibration, error
        self.bound = rate_bound(calibration, rate, error / 2)
        self._limit = -math.log(error / 2)
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Forget everything, as after a new calibration."""
        with self._lock:
            self._seen = self._flagged = self._count = 0
            self._starts: list[tuple[int, int, int]] = [(0, 0, 0)]  # (number of the bet, seen, flagged)
            self._alarm: int | None = None

    def update(self, flags: Iterable[bool]) -> Drift:
        """Take the flags of further images, in their order.

        Returns:
            What is known with them.
        """
        given = [bool(flag) for flag in flags]
        with self._lock:
            self._seen += len(given)
            self._flagged += sum(given)
            drift = self._drift()
            if drift.alarm is None and drift.evidence >= self._limit:
                self._alarm = self._seen
                drift = self._drift()
            # a bet may start at any time that the past decides, and knows nothing of what follows
            if self._seen - self._starts[-1][1] >= EVERY:
                self._count += 1
                self._starts.append((self._count, self._seen, self._flagged))
                if len(self._starts) > MOST:
                    self._starts = [self._starts[0], *self._starts[2::2]]
            return drift

    @property
    def drift(self) -> Drift:
        """What is known so far."""
        with self._lock:
            return self._drift()

    def _drift(self) -> Drift:
        logs = [
            log_evidence(self._seen - seen, self._flagged - flagged, self.bound)
            - math.log((number + 1) * (number + 2))
            for number, seen, flagged in self._starts
        ]
        top = max(logs)
        total = top if top == -math.inf else top + math.log(sum(math.exp(value - top) for value in logs))
        return Drift(self._seen, self._flagged, self.rate, self.bound, total, self._alarm)

    def state(self) -> dict[str, Any]:
        """Return the state as what JSON can say."""
        with self._lock:
            return {
                "version": VERSION,
                "rate": self.rate,
                "calibration": self.calibration,
                "error": self.error,
                "seen": self._seen,
                "flagged": self._flagged,
                "count": self._count,
                "starts": [list(start) for start in self._starts],
                "alarm": self._alarm,
            }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            UsageError: It is none, or that of another threshold.
        """
        mine = {"version": VERSION, "rate": self.rate, "calibration": self.calibration, "error": self.error}
        for name, value in mine.items():
            if state.get(name) != value:
                raise UsageError(
                    f"the state of the monitor is of {name} {state.get(name)!r}, this guard has {value!r}; "
                    "begin a new one"
                )
        try:
            numbers = [state["seen"], state["flagged"], state["count"]]
            starts = [(int(n), int(seen), int(flagged)) for n, seen, flagged in state["starts"]]
            alarm = state["alarm"]
            every = [*numbers, *(value for start in starts for value in start)]
            sound = all(isinstance(value, int) and value >= 0 for value in every)
            seen, flagged, count = numbers
            sound = sound and 0 < len(starts) <= MOST and flagged <= seen and starts == sorted(starts)
            sound = sound and all(
                f <= s and 0 <= flagged - f <= seen - s and n <= count for n, s, f in starts
            )
            sound = sound and (alarm is None or (isinstance(alarm, int) and 0 < alarm <= seen))
        except (KeyError, TypeError, ValueError):
            sound = False
        if not sound:
            raise UsageError("the state of the monitor is damaged; begin a new one")
        with self._lock:
            self._seen, self._flagged, self._count = seen, flagged, count
            self._starts, self._alarm = starts, alarm

    def save(self, path: Path) -> None:
        """Write the state as JSON, whole or not at all.

        Raises:
            UsageError: It cannot be written.
        """
        with explaining(f"cannot write the state {path}"):
            write_atomically(path, (canonical_json(self.state()) + "\n").encode())

    def load(self, path: Path) -> None:
        """Go on from a file of :meth:`save`.

        Raises:
            UsageError: It cannot be read, is damaged, or is that of another threshold.
        """
        try:
            with explaining(f"cannot read the state {path}"):
                if path.stat().st_size > _LARGEST:
                    raise ValueError("it is larger than any state")
                data = path.read_bytes()
            check_json_size(data, 10_000)
            state = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path} is no state of a monitor: {error}") from None
        if not isinstance(state, dict):
            raise UsageError(f"{path} is no state of a monitor: it holds no object")
        self.restore(state)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the lock behind; processes do not share it."""
        return self.state()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["rate"], state["calibration"], state["error"])  # type: ignore[misc]
        self.restore(state)
