"""Clocks that jump while an audit runs: dates stay in order, and nothing in use is removed."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from platodef_cli.audit import clock as clocks
from platodef_cli.audit.clock import Clock
from platodef_cli.audit.partial_report import PartialReport
from platodef_cli.audit.state import ProgressRecorder
from platodef_cli.features.cache import FeatureCache
from platodef_cli.progress import SILENT
from platodef_cli.temporary import TemporaryFolder

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Jumping(datetime):
    """A clock of the machine that somebody sets."""

    jump = timedelta(0)

    @classmethod
    def now(cls, tz: object = None) -> datetime:
        return NOON + cls.jump


@pytest.fixture
def jumping(monkeypatch: pytest.MonkeyPatch) -> type[Jumping]:
    monkeypatch.setattr(Jumping, "jump", timedelta(0))
    monkeypatch.setattr(clocks, "datetime", Jumping)
    return Jumping


@pytest.mark.parametrize(
    ("jump", "ended"),
    [
        (timedelta(0), NOON + timedelta(seconds=90)),
        (timedelta(days=-400), NOON + timedelta(seconds=90)),
        (timedelta(seconds=30), NOON + timedelta(seconds=90)),
        (timedelta(hours=5), NOON + timedelta(hours=5)),
    ],
)
def test_an_audit_ends_after_it_began(
    jumping: type[Jumping], monkeypatch: pytest.MonkeyPatch, jump: timedelta, ended: datetime
) -> None:
    seconds = iter((1000.0, 1090.0, 1090.0))
    monkeypatch.setattr(clocks.time, "perf_counter", lambda: next(seconds))
    clock = Clock()
    jumping.jump = jump
    assert clock.started == NOON.isoformat()
    assert clock.now() == ended.isoformat()
    assert clock.seconds() == 90.0


def test_reports_of_finished_and_of_broken_audits_take_it(jumping: type[Jumping]) -> None:
    recorder, partial = ProgressRecorder(SILENT), PartialReport("org/name@main")
    jumping.jump = timedelta(days=-1)
    report = partial.unfinished(3, "hub", "gone", "INCOMPLETE (3): gone")
    assert NOON.isoformat() == report.timing.started == recorder.clock.started
    assert report.timing.finished >= report.timing.started
    assert recorder.clock.now() >= recorder.clock.started
    assert recorder.clock.seconds() >= 0


@pytest.mark.parametrize("jump", [-1e9, 1e9], ids=["back", "on"])
def test_removing_from_the_cache_spares_what_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """Two days old by the clock, and held by a process that lives."""
    cache = FeatureCache(tmp_path)
    cache.store_artifact("head", {"a": 1}, lambda folder: (folder / "x").write_text("x") and None)
    (tmp_path / "search").mkdir()
    now = os.stat(tmp_path).st_mtime
    with TemporaryFolder("entry", inside=tmp_path / "search") as writing:
        monkeypatch.setattr("time.time", lambda: now + jump)
        removed = cache.remove(older_than=86400.0)
        assert writing.is_dir()
    assert len(removed) == (jump > 0)
