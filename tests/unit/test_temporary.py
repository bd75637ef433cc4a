"""Temporary files and folders: gone with their owner, or with the next one where it was killed."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from platodef_cli import temporary
from platodef_cli.temporary import HIDDEN, TemporaryFolder, remove_left_overs, temporary_file

_OWNER = """
import sys
from pathlib import Path
from platodef_cli.temporary import TemporaryFolder, temporary_file
place = Path(sys.argv[1])
folder = TemporaryFolder("test", inside=place)
(folder.path / "deep").mkdir()
(folder.path / "deep" / "file").write_text("x")
with temporary_file(place, ".json", 0o666) as file:
    file.write_text("half")
    print("ready", flush=True)
    sys.stdin.read()
"""


@contextmanager
def owner(place: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that holds a folder and a file."""
    with subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def test_what_a_killed_owner_left_goes_and_what_a_living_one_holds_stays(tmp_path: Path) -> None:
    with owner(tmp_path) as dead:
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        left = set(tmp_path.iterdir())
        assert len(left) == 2
        with owner(tmp_path):
            # the second one made its folder, and so looked around, before it had anything to lose
            remaining = set(tmp_path.iterdir())
            assert len(remaining) == 2
            assert not remaining & left
            remove_left_overs(tmp_path)
            assert set(tmp_path.iterdir()) == remaining
    remove_left_overs(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_owner_lives(tmp_path: Path) -> None:
    with owner(tmp_path) as stopped:
        stopped.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT)
        remove_left_overs(tmp_path)
        assert len(list(tmp_path.iterdir())) == 2


def test_a_file_that_is_written_anew_under_its_name_is_still_held(tmp_path: Path) -> None:
    with temporary_file(tmp_path, ".bin", 0o666) as path:
        with path.open("wb") as stream:
            stream.write(b"x" * 100)
        remove_left_overs(tmp_path)
        assert path.stat().st_size == 100
        path.rename(tmp_path / "final.bin")
    assert [entry.name for entry in tmp_path.iterdir()] == ["final.bin"]


def left_over(place: Path, machine: str | None = None) -> Path:
    with temporary_file(place, "", 0o666) as path:
        name = path.name
    parts = name.removeprefix(HIDDEN).split("-")
    path = place / f"{HIDDEN}{machine or parts[0]}-{parts[1]}"
    path.write_text("half")
    return path


def test_only_own_names_are_removed(tmp_path: Path) -> None:
    mine = left_over(tmp_path)
    secret = tmp_path / "secret"
    secret.write_text("kept")
    link = mine.with_name(mine.name[:-1] + ("0" if mine.name[-1] != "0" else "1"))
    link.symlink_to(secret)
    others = [tmp_path / f"{HIDDEN}{mine.name[-16:]}", tmp_path / ".tmp-123-abcd.json", tmp_path / "a.json"]
    for path in others:
        path.write_text("kept")
    remove_left_overs(tmp_path)
    assert set(tmp_path.iterdir()) == {secret, link, *others}


def test_files_of_other_users_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = left_over(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    remove_left_overs(tmp_path)
    assert path.exists()


@pytest.mark.parametrize(("age", "stays"), [(0, True), (-10 * 24 * 3600, True), (2 * 24 * 3600, False)])
def test_another_machine_may_hold_locks_that_are_not_seen_here(
    age: int, stays: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that jumped, so that files are of the future, removes nothing."""
    path = left_over(tmp_path, "0" * 8)
    monkeypatch.setattr(temporary.time, "time", lambda: path.stat().st_mtime + age)
    remove_left_overs(tmp_path)
    assert path.exists() is stays


def test_what_cannot_be_removed_or_listed_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove_left_overs(tmp_path / "absent")
    path = left_over(tmp_path)

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", denied)
        remove_left_overs(tmp_path)
    assert path.exists()


def test_a_cleaner_between_making_and_locking_only_costs_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = temporary._locked
    seen: list[Path] = []

    def late(descriptor: int, path: Path, *, or_unknown: bool = False) -> bool:
        if or_unknown and not seen:
            seen.append(path)
            remove_left_overs(tmp_path)  # another process, just now
        return real(descriptor, path, or_unknown=or_unknown)

    monkeypatch.setattr(temporary, "_locked", late)
    with temporary_file(tmp_path, ".json", 0o666) as path:
        assert not seen[0].exists()
        assert path.exists()
        assert path != seen[0]


def test_without_locks_nothing_is_taken_for_a_left_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on network file systems that do not know them."""

    def unknown(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(temporary.fcntl, "flock", unknown)
    with TemporaryFolder("test", inside=tmp_path) as folder, temporary_file(tmp_path, "", 0o600) as path:
        remove_left_overs(tmp_path)
        assert folder.is_dir()
        assert path.is_file()
    assert list(tmp_path.iterdir()) == []


def test_many_owners_and_cleaners_at_once_lose_nothing(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(40):
                with TemporaryFolder("test", inside=tmp_path) as folder:
                    (folder / "file").write_text("x")
                    remove_left_overs(tmp_path)
                    assert (folder / "file").read_text() == "x"
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert list(tmp_path.iterdir()) == []
