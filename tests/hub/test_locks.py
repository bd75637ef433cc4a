"""Two processes download the same model: one waits for the other, as long as that one gets on."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from filelock import FileLock

from platodef_cli.disk import holder_of
from platodef_cli.encoders.hub import hub_locks
from platodef_cli.encoders.hub.hub import download
from platodef_cli.encoders.reference import parse
from platodef_cli.errors import HubError
from platodef_cli.progress import SILENT
from tests.hub.server import Fault, HubServer

Files = Mapping[str, bytes]
ROOT = Path(__file__).parents[2]
_OTHER = (
    "from platodef_cli.encoders.reference import parse\n"
    "from platodef_cli.encoders.resolve import resolve\n"
    "resolve(parse('org/model'))"
)


class Told:
    """A progress that keeps the warnings and sets an event."""

    def __init__(self) -> None:
        self.step = SILENT.step
        self.warnings: list[str] = []
        self.event = threading.Event()

    def warn(self, text: str) -> None:
        self.warnings.append(text)
        self.event.set()


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Lets the download of the other process go on."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def other(
    hub: HubServer, model_files: Files, release: threading.Event
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process in the middle of a download."""
    hub.commit("org/model", model_files)
    hub.faults = [Fault("/lfs/", method="GET", times=1, hold=release)]
    with subprocess.Popen([sys.executable, "-c", _OTHER], env={**os.environ}, cwd=ROOT) as process:
        try:
            assert hub.reached_half.wait(60)
            yield process
        finally:
            release.set()
            process.kill()


def test_one_that_gets_on_is_waited_for(
    other: "subprocess.Popen[bytes]", release: threading.Event, model_files: Files
) -> None:
    progress, found = Told(), []

    def get() -> None:
        found.append(download(parse("org/model"), progress=progress, sleep=lambda _: None))

    thread = threading.Thread(target=get)
    thread.start()
    assert progress.event.wait(60)
    release.set()
    thread.join(60)
    assert other.wait(60) == 0
    assert progress.warnings == [f"process {other.pid} downloads org/model as well; waiting for it"]
    assert (found[0][0] / "model.safetensors").read_bytes() == model_files["model.safetensors"]


def test_one_that_is_stuck_is_named(
    other: "subprocess.Popen[bytes]", model_files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_locks, "PATIENCE_S", 0.2)
    words = rf"org/model: process {other.pid} holds .*\.lock, and nothing came for 0\.2 s; end it, or wait"
    with pytest.raises(HubError, match=words):
        download(parse("org/model"), progress=SILENT, sleep=lambda _: None)
    other.kill()
    other.wait()
    folder, _ = download(parse("org/model"), progress=SILENT, sleep=lambda _: None)
    assert (folder / "model.safetensors").read_bytes() == model_files["model.safetensors"]


def test_the_holder_of_a_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with FileLock(path):
        assert holder_of(path) == f"process {os.getpid()}"
    assert holder_of(path) == "another process"
    assert holder_of(tmp_path / "absent") == "another process"
