"""The child process: same features and gradients, no rights, and a clear error for every way to die."""

import gc
import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from platodef_cli.encoders.checks.preflight import preflight
from platodef_cli.encoders.description import EncoderDescription
from platodef_cli.encoders.interface import Encoder
from platodef_cli.encoders.isolation.isolate import RemoteEncoder
from platodef_cli.encoders.isolation.limits import time_limit
from platodef_cli.encoders.isolation.process import ChildProcess
from platodef_cli.encoders.load import open_encoder
from platodef_cli.errors import IncompleteError, RefusedError, UsageError
from platodef_cli.temporary import remove_left_overs
from tests.contract import encoder_models as make

ROOT = Path(__file__).parents[3]
PIXELS = torch.randint(0, 256, (5, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny timm ViT."""
    path = tmp_path_factory.mktemp("isolated") / "model"
    make.timm_model(path)
    return path


@pytest.fixture(scope="module")
def here(folder: Path) -> Iterator[Encoder]:
    """The encoder in this process."""
    encoder = open_encoder(str(folder), name="tiny")
    yield encoder
    encoder.close()


@pytest.fixture(scope="module")
def remote(folder: Path) -> Iterator[RemoteEncoder]:
    """The same encoder in a child, with little memory."""
    encoder = open_encoder(str(folder), name="tiny", isolate=True, memory_limit_gb=0.5, time_limit_s=120)
    assert isinstance(encoder, RemoteEncoder)
    yield encoder
    encoder.close()


def leaf(pixels: Tensor = PIXELS) -> Tensor:
    return (pixels.float() / 255).requires_grad_()


def gradient(features: Tensor, pixels: Tensor) -> Tensor:
    (result,) = torch.autograd.grad((features**2).sum(), pixels)
    return result


def test_features_and_record_are_the_same(here: Encoder, remote: RemoteEncoder) -> None:
    assert torch.equal(remote.embed(PIXELS), here.embed(PIXELS))
    assert remote.record == here.record.model_copy(update={"isolated": True})
    assert (remote.dim, remote.geometry) == (here.dim, here.geometry)


def test_gradients_are_the_same(here: Encoder, remote: RemoteEncoder) -> None:
    mine, theirs = leaf(), leaf()
    assert torch.equal(
        gradient(remote.differentiable(mine), mine), gradient(here.differentiable(theirs), theirs)
    )


def test_without_gradients_nothing_is_kept(here: Encoder, remote: RemoteEncoder) -> None:
    with torch.no_grad():
        features = remote.differentiable(leaf())
    assert not features.requires_grad
    assert torch.equal(features, here.differentiable(leaf()).detach())
    assert not remote.differentiable(PIXELS.float() / 255).requires_grad


def test_calls_may_overlap_and_old_graphs_are_made_again(here: Encoder, remote: RemoteEncoder) -> None:
    leaves = [leaf(PIXELS.roll(i, 3)) for i in range(11)]
    outputs = [remote.differentiable(pixels) for pixels in leaves]
    for pixels, features in zip(leaves, outputs, strict=True):
        expected = leaf((pixels.detach() * 255).round().byte())
        assert torch.equal(gradient(features, pixels), gradient(here.differentiable(expected), expected))


def test_a_graph_can_be_used_twice_and_gradients_add_up(remote: RemoteEncoder) -> None:
    pixels = leaf()
    features = remote.differentiable(pixels)
    first = torch.autograd.grad(features[:, 0].sum(), pixels, retain_graph=True)[0]
    second = torch.autograd.grad(features[:, 1].sum(), pixels)[0]
    both = torch.autograd.grad(remote.differentiable(pixels)[:, :2].sum(), pixels)[0]
    torch.testing.assert_close(first + second, both)


def test_forgotten_graphs_are_reported_to_the_child(remote: RemoteEncoder) -> None:
    features = remote.differentiable(leaf())
    del features
    gc.collect()
    assert len(remote._forgotten) == 1
    remote.embed(PIXELS)
    assert remote._forgotten == []


def test_threads_take_turns(here: Encoder, remote: RemoteEncoder) -> None:
    results: dict[int, bool] = {}

    def work(i: int) -> None:
        batch = PIXELS.roll(i, 2)
        results[i] = torch.equal(remote.embed(batch), here.embed(batch))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(6), True)


def test_running_out_of_memory_is_reported_and_survived(here: Encoder, remote: RemoteEncoder) -> None:
    many = PIXELS.repeat(8000, 1, 1, 1)
    with pytest.raises(IncompleteError, match=r"'tiny' ran out of memory.*memory limit 0\.5 GB"):
        remote.embed(many)
    assert torch.equal(remote.embed(PIXELS), here.embed(PIXELS))


def test_wrong_pixels_never_reach_the_child(remote: RemoteEncoder) -> None:
    with pytest.raises(UsageError, match="do not fit"):
        remote.embed(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_a_refusal_in_the_child_is_the_same_refusal_here(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "model"
    broken.mkdir()
    state = load_file(folder / "model.safetensors")
    state["norm.weight"] = state["norm.weight"] * float("nan")
    save_file(state, broken / "model.safetensors")
    (broken / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(RefusedError) as here:
        open_encoder(str(broken))
    with pytest.raises(RefusedError) as there:
        open_encoder(str(broken), isolate=True)
    assert str(there.value) == str(here.value)
    assert "'norm.weight' is not finite" in str(there.value)


def test_a_child_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    child = Child("import time; time.sleep(60)")
    child._timeout = 0.2
    with pytest.raises(IncompleteError, match=r"'fake' took longer than 0\.2 s; raise the time limit"):
        child.call({"kind": "embed"})
    assert child._process.poll() == -signal.SIGKILL
    child.close()


def test_without_a_limit_of_the_user_there_is_one_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def limit(weights: int, images: int) -> float:
        asked.append((weights, images))
        return 0.2

    monkeypatch.setattr("platodef_cli.encoders.isolation.process.time_limit", limit)
    child = Child("import time; time.sleep(60)", None)
    with pytest.raises(IncompleteError, match="took longer"):
        child.call({"kind": "embed"}, PIXELS)
    assert asked == [(2**20, len(PIXELS))]
    child.close()


@given(st.integers(0, 2**40), st.integers(0, 65536))
def test_limits_are_generous_and_grow_with_what_is_to_do(weights: int, images: int) -> None:
    assert time_limit(weights, images) >= 900 + 20 * images
    assert time_limit(weights + 2**30, images + 1) > time_limit(weights, images)


def descendants(pid: int) -> list[int]:
    """A process and its children, as the kernel lists them."""
    words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(int(word) for word in words)]


def stop(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    while not all(" T " in Path(f"/proc/{pid}/stat").read_text() for pid in pids):
        pass


@pytest.mark.parametrize("which", [slice(1, None), slice(None)], ids=["the encoder", "its guard too"])
def test_a_stopped_child_goes_on_where_it_is_continued_in_time(folder: Path, which: slice) -> None:
    with open_encoder(str(folder), name="tiny", isolate=True) as encoder:
        assert isinstance(encoder, RemoteEncoder)
        expected = encoder.embed(PIXELS)
        pids = descendants(encoder._child._process.pid)[which]
        stop(pids)
        results: list[Tensor] = []
        thread = threading.Thread(target=lambda: results.append(encoder.embed(PIXELS)))
        thread.start()
        thread.join(0.3)
        assert results == []
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        thread.join(60)
        assert torch.equal(results[0], expected)


_PARENT = """
import sys
from platodef_cli.encoders.load import open_encoder
encoder = open_encoder(sys.argv[1], name="tiny", isolate=True)
print(encoder._child._process.pid, encoder._child._home, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("stopped", [False, True])
def test_nothing_outlives_a_parent_that_was_killed(folder: Path, tmp_path: Path, stopped: bool) -> None:
    """Not even processes that are stopped and can do nothing; the folder goes at the next start."""
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
    ) as parent:
        assert parent.stdout is not None
        number, home = parent.stdout.readline().split()
        pids = descendants(int(number))
        assert len(pids) == 2
        handles = [os.pidfd_open(pid) for pid in pids]
        if stopped:
            stop(pids)
        parent.kill()
    for handle in handles:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        assert poll.poll(60_000)
        os.close(handle)
    assert Path(home).is_dir()
    remove_left_overs(tmp_path)
    assert not Path(home).exists()


def test_timeouts_kills_and_closing(folder: Path) -> None:
    encoder = open_encoder(str(folder), name="slow", isolate=True)
    assert isinstance(encoder, RemoteEncoder)
    process = encoder._child._process
    encoder._child._timeout = 0.2
    stop(descendants(process.pid))
    with pytest.raises(
        IncompleteError, match=r"'slow' was stopped by a signal and did not go on within 0\.2"
    ):
        encoder.embed(PIXELS)
    assert process.poll() == -signal.SIGKILL
    with pytest.raises(IncompleteError, match="was stopped"):
        encoder.embed(PIXELS)
    home = Path(encoder._child._home)
    encoder.close()
    encoder.close()
    assert not home.exists()


def test_closing_ends_a_call_in_another_thread() -> None:
    child = Child("import os, time; os.write(2, b'x'); time.sleep(60)")
    errors: list[Exception] = []

    def call() -> None:
        try:
            child.call({"kind": "embed"})
        except IncompleteError as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    while not child._lock.locked():
        pass
    child.close()
    thread.join(30)
    assert not thread.is_alive()
    assert len(errors) == 1
    with pytest.raises(IncompleteError, match="fake"):
        child.call({"kind": "embed"})


@pytest.mark.parametrize(("limit", "time"), [(0.0, None), (-1.0, None), (1.0, 0.0)])
def test_limits_must_be_positive(limit: float, time: float | None, folder: Path) -> None:
    with pytest.raises(UsageError, match="must be positive"):
        open_encoder(str(folder), isolate=True, memory_limit_gb=limit, time_limit_s=time)


class Child(ChildProcess):
    """A process of our own in place of the real child."""

    def __init__(self, code: str, time_limit_s: float | None = 30.0):
        self._code = code
        super().__init__("fake", 1.0, time_limit_s, weights=2**20)

    def _command(self, lifeline: int) -> list[str]:
        return [sys.executable, "-c", self._code]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"crashed \(SIGSEGV\); do not trust"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed, most likely out of memory"),
        ("import sys; sys.exit('no such thing')", "ended with code 1: no such thing"),
        ("import os; os.write(2, b'terminate: std::bad_alloc'); os.abort()", "out of memory"),
        ("import os; os.write(1, bytes(11)); os._exit(0)", "ended with code 0"),
        ("import os, time; os.write(1, b'\\xff' * 12); time.sleep(60)", "broke the protocol"),
        ("import os, time; os.write(1, b'\\x02' + bytes(11) + b'[]'); time.sleep(60)", "broke the protocol"),
        ("import os, time; os.write(1, b'\\x02' + bytes(11) + b'{{'); time.sleep(60)", "broke the protocol"),
    ],
)
def test_a_child_that_dies_or_lies(code: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platodef_cli.encoders.isolation.process.GRACE_S", 0.2)
    child = Child(code)
    with pytest.raises(IncompleteError, match=f"'fake' .*{message}") as caught:
        child.call({"kind": "embed"})
    assert "\n" not in str(caught.value)
    assert child._process.poll() is not None
    child.close()


def saying(header: dict[str, object], tensor: Tensor | None = None) -> Child:
    """Return a child that gives one fixed answer."""
    text = json.dumps(header).encode()
    payload = b"" if tensor is None else save({"x": tensor})
    frame = struct.pack("<IQ", len(text), len(payload)) + text + payload
    return Child(f"import os, time; os.write(1, bytes.fromhex({frame.hex()!r})); time.sleep(60)")


@pytest.mark.parametrize(
    ("header", "tensor", "error", "message"),
    [
        ({"ok": True}, torch.zeros(5, 9), IncompleteError, "another shape or type"),
        ({"ok": True}, torch.zeros(5, 32).double(), IncompleteError, "another shape or type"),
        ({"ok": True}, None, IncompleteError, "another shape or type"),
        ({"ok": True}, torch.full((5, 32), torch.nan), RefusedError, "not finite"),
        ({"error": "SystemExit", "message": "a\x1b[31m\n"}, None, IncompleteError, r"failed: a\[31m$"),
        ({"error": "MemoryError", "message": ""}, None, IncompleteError, "ran out of its 1 GB"),
    ],
)
def test_answers_of_the_child_are_checked(
    header: dict[str, object], tensor: Tensor | None, error: type[Exception], message: str, here: Encoder
) -> None:
    description = EncoderDescription(
        architecture="x", pooling="x", dim=32, parameters=1, transform=here.record.transform
    )
    encoder = RemoteEncoder(saying(header, tensor), description, here.record, ())
    with encoder, pytest.raises(error, match=message):
        encoder.embed(PIXELS)


def test_a_child_that_describes_itself_wrongly_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = saying({"description": {"dim": 10**9}})
    monkeypatch.setattr("platodef_cli.encoders.isolation.isolate.ChildProcess", lambda *_, **__: child)
    with pytest.raises(RefusedError, match="describes itself in an invalid way"):
        RemoteEncoder.start(preflight(folder), name="liar", uri="x", commit=None)


def test_the_child_dies_with_its_parent() -> None:
    read, write = os.pipe()
    command = [sys.executable, "-m", "platodef_cli.encoders.isolation.child", str(read)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(read,), cwd=ROOT)
    os.close(read)
    os.write(write, b'{"readable": [], "gpu": false}\n')
    assert child.stdin is not None
    with child.stdin:
        # Standard input stays open: only the lifeline tells that the parent is gone.
        os.close(write)
        assert child.wait(60) in (0, -signal.SIGKILL)  # by itself, or by its guard
