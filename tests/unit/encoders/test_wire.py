"""Messages between parent and child."""

import json
import os
import struct
import threading
from collections.abc import Iterator

import pytest
import torch

from platodef_cli.encoders.isolation.wire import Wire, WireError, WireTimeout, as_tensor


@pytest.fixture
def pipes() -> Iterator[tuple[Wire, Wire, int]]:
    """Two connected ends, and the descriptor that the second end reads from."""
    a_read, b_write = os.pipe()
    b_read, a_write = os.pipe()
    raw = os.dup(b_write)
    yield Wire(a_read, a_write, 10_000_000), Wire(b_read, b_write, 10_000_000), raw
    for descriptor in (a_read, b_write, b_read, a_write, raw):
        os.close(descriptor)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(0, 3), (1,), (300, 3, 32, 32)])
def test_messages_arrive_as_they_were_sent(
    dtype: torch.dtype, shape: tuple[int, ...], pipes: tuple[Wire, Wire, int]
) -> None:
    mine, theirs, _ = pipes
    tensor = torch.arange(torch.Size(shape).numel()).remainder(200).reshape(shape).to(dtype)
    sender = threading.Thread(target=mine.send, args=({"kind": "embed", "id": 3}, tensor))
    sender.start()
    header, received = theirs.receive(timeout=30)
    sender.join()
    assert header == {"kind": "embed", "id": 3}
    assert torch.equal(as_tensor(received, shape, dtype), tensor)


def test_a_message_without_a_tensor(pipes: tuple[Wire, Wire, int]) -> None:
    mine, theirs, _ = pipes
    mine.send({"text": "ü\n"})
    assert theirs.receive() == ({"text": "ü\n"}, None)


def frame(header: bytes, payload: bytes = b"", size: int | None = None) -> bytes:
    return struct.pack("<IQ", len(header), len(payload) if size is None else size) + header + payload


@pytest.mark.parametrize(
    "data",
    [
        frame(b"[]"),
        frame(b"{"),
        frame(b"\xff"),
        frame(b"{}", b"not a tensor"),
        frame(b"{}", size=10_000_001),
        struct.pack("<IQ", 2**21, 0),
        frame(b"[" * 60_000),
        frame(json.dumps({"a": 1}).encode(), struct.pack("<Q", 2**62) + b"{}"),
    ],
)
def test_malformed_messages(data: bytes, pipes: tuple[Wire, Wire, int]) -> None:
    mine, _, raw = pipes
    os.write(raw, data)
    with pytest.raises(WireError):
        mine.receive(timeout=5)


def test_silence_times_out(pipes: tuple[Wire, Wire, int]) -> None:
    mine, _, raw = pipes
    os.write(raw, b"\x02")
    with pytest.raises(WireTimeout):
        mine.receive(timeout=0.01)


def test_a_reader_that_stands_still_times_out(pipes: tuple[Wire, Wire, int]) -> None:
    mine, _, _ = pipes
    with pytest.raises(WireTimeout):
        mine.send({}, torch.zeros(1_000_000, dtype=torch.uint8), timeout=0.01)


def test_a_closed_pipe_is_an_error() -> None:
    read, write = os.pipe()
    other_read, other_write = os.pipe()
    os.close(write)
    os.close(other_read)
    wire = Wire(read, other_write)
    with pytest.raises(WireError, match="closed"):
        wire.receive(timeout=5)
    with pytest.raises(WireError, match="closed"):
        wire.send({})
    os.close(read)
    os.close(other_write)


def test_tensors_are_checked() -> None:
    with pytest.raises(WireError):
        as_tensor(None, (1,), torch.float32)
    with pytest.raises(WireError):
        as_tensor(torch.zeros(2), (1,), torch.float32)
    with pytest.raises(WireError):
        as_tensor(torch.zeros(1).double(), (1,), torch.float32)
