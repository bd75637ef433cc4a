"""The drift monitor: its error rate and its power, by simulation, and its state."""

import json
import math
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest

from platodef_cli.errors import UsageError
from platodef_cli.guard.monitor import EVERY, MOST, DriftMonitor, log_evidence, rate_bound

CALIBRATION, RATE, ERROR = 400, 0.05, 0.1
RUNS, IMAGES = 400, 3000


def streams(rate_of_flags: float | None, seed: int) -> tuple[int, list[int]]:
    """Return how many of RUNS streams raise an alarm, and after how many images.

    Each has a calibration of its own, as in production: uniform scores, a conformal threshold, and images
    whose scores exceed it with the share that this calibration happens to allow (or another, given one).
    """
    random = np.random.default_rng(seed)
    rank = math.ceil((CALIBRATION + 1) * (1 - RATE) - 1e-9)
    alarms, when = 0, []
    for _ in range(RUNS):
        allowed = 1 - np.sort(random.random(CALIBRATION))[rank - 1]
        flags = random.random(IMAGES) < (allowed if rate_of_flags is None else rate_of_flags)
        monitor = DriftMonitor(RATE, CALIBRATION, ERROR)
        for start in range(0, IMAGES, 100):
            drift = monitor.update(flags[start : start + 100])
        if drift.alarm is not None:
            alarms += 1
            when.append(drift.alarm)
    return alarms, when


def test_false_alarms_are_as_rare_as_stated() -> None:
    alarms, _ = streams(None, seed=1)
    assert alarms <= RUNS * ERROR + 3 * math.sqrt(RUNS * ERROR * (1 - ERROR))


def test_at_the_bound_itself_the_test_keeps_its_half_of_the_error() -> None:
    alarms, _ = streams(rate_bound(CALIBRATION, RATE, ERROR / 2), seed=2)
    half = ERROR / 2
    assert alarms <= RUNS * half + 3 * math.sqrt(RUNS * half * (1 - half))


def test_a_real_change_is_found() -> None:
    alarms, when = streams(0.3, seed=3)
    assert alarms == RUNS
    assert np.median(when) <= 200


def test_a_late_change_is_found_as_well() -> None:
    random = np.random.default_rng(4)
    monitor = DriftMonitor(RATE, 5000, 0.01)
    for _ in range(400):
        monitor.update(random.random(500) < 0.04)
    assert monitor.drift.alarm is None
    before = monitor.drift.seen
    while monitor.drift.alarm is None and monitor.drift.seen < before + 4000:
        monitor.update(random.random(64) < 0.25)
    assert monitor.drift.alarm is not None
    assert monitor.drift.alarm - before <= 1000
    assert monitor.drift.share < 0.06  # the share over everything says nothing yet
    assert len(monitor.state()["starts"]) <= MOST


def test_the_bound_is_the_quantile_of_what_calibrations_allow() -> None:
    random = np.random.default_rng(5)
    rank = math.ceil((CALIBRATION + 1) * (1 - RATE) - 1e-9)
    allowed = [1 - np.sort(random.random(CALIBRATION))[rank - 1] for _ in range(4000)]
    assert np.quantile(allowed, 0.95) == pytest.approx(rate_bound(CALIBRATION, RATE, 0.05), abs=0.002)


@pytest.mark.parametrize(("seen", "flagged"), [(0, 0), (10, 3), (200, 9), (1000, 120)])
def test_the_evidence_is_the_integral(seen: int, flagged: int) -> None:
    bound = 0.06
    p = np.linspace(bound, 1, 2_000_001)[1:-1]
    logs = flagged * np.log(p / bound) + (seen - flagged) * np.log((1 - p) / (1 - bound))
    assert math.exp(log_evidence(seen, flagged, bound)) == pytest.approx(np.exp(logs).mean(), rel=1e-3)


def test_its_mean_is_one_at_the_bound() -> None:
    """The supermartingale of the docstring: over all outcomes of n images its mean is exactly 1."""
    from scipy.stats import binom

    bound, n = 0.06, 40
    mean = sum(binom.pmf(k, n, bound) * math.exp(log_evidence(n, k, bound)) for k in range(n + 1))
    assert mean == pytest.approx(1.0, abs=1e-9)


def test_large_numbers() -> None:
    assert log_evidence(10**9, 4 * 10**7, 0.05) == -math.inf
    assert 0 < log_evidence(10**9, 6 * 10**7, 0.05) < math.inf


def test_the_state_goes_on(tmp_path: Path) -> None:
    random = np.random.default_rng(6)
    flags = random.random(2000) < 0.2
    whole, first = DriftMonitor(RATE, CALIBRATION), DriftMonitor(RATE, CALIBRATION)
    second = DriftMonitor(RATE, CALIBRATION)
    for start in range(0, 2000, 100):
        whole.update(flags[start : start + 100])
        (first if start < 1000 else second).update(flags[start : start + 100])
        if start == 900:
            first.save(tmp_path / "state.json")
            second.load(tmp_path / "state.json")
    assert second.state() == whole.state()
    assert whole.drift.alarm is not None
    assert pickle.loads(pickle.dumps(whole)).drift == whole.drift
    whole.reset()
    assert whole.drift == DriftMonitor(RATE, CALIBRATION).drift


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rate": 0.1}, "is of rate 0.1"),
        ({"version": 2}, "is of version 2"),
        ({"seen": -1}, "damaged"),
        ({"flagged": 9999}, "damaged"),
        ({"starts": []}, "damaged"),
        ({"starts": [[0, 0]]}, "damaged"),
        ({"starts": [[0, 5, 6]]}, "damaged"),
        ({"starts": [[0, 0, 0]] * (MOST + 1)}, "damaged"),
        ({"alarm": "no"}, "damaged"),
        ({"count": None}, "damaged"),
    ],
)
def test_damaged_states(tmp_path: Path, change: dict[str, object], words: str) -> None:
    monitor = DriftMonitor(RATE, CALIBRATION)
    monitor.update([True] * EVERY)
    path = tmp_path / "state.json"
    path.write_text(json.dumps({**monitor.state(), **change}))
    before = monitor.state()
    with pytest.raises(UsageError, match=words):
        monitor.load(path)
    assert monitor.state() == before


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 20_000, "1"])
def test_files_that_are_no_state(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(UsageError, match="state"):
        DriftMonitor(RATE, CALIBRATION).load(tmp_path / "state.json")
    with pytest.raises(UsageError, match="cannot read the state"):
        DriftMonitor(RATE, CALIBRATION).load(tmp_path / "absent.json")


def test_wrong_arguments() -> None:
    for rate, calibration, error in ((0, 10, 0.1), (1, 10, 0.1), (0.1, 0, 0.1), (0.1, 10, 0)):
        with pytest.raises(UsageError):
            DriftMonitor(rate, calibration, error)


def test_threads() -> None:
    monitor = DriftMonitor(RATE, CALIBRATION)
    threads = [
        threading.Thread(target=lambda: [monitor.update([True, False, False]) for _ in range(200)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (monitor.drift.seen, monitor.drift.flagged) == (2400, 800)
