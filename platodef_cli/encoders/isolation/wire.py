"""Messages between an isolated encoder and its parent: a JSON header and one tensor as safetensors.

Frame: header length (4 bytes), payload length (8 bytes), both little-endian, header, payload. Nothing is ever
unpickled, and either side checks the other's lengths before it reads.
"""

import json
import os
import select
import struct
import time
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

_LENGTHS = struct.Struct("<IQ")
_MAX_HEADER = 2**20
_CHUNK = 2**20


class WireError(Exception):
    """The other side closed the pipe or broke the protocol."""


class WireTimeout(Exception):
    """The other side did not answer in time."""


class Wire:
    """One end of a pair of pipes.

    Args:
        incoming: Descriptor to read from.
        outgoing: Descriptor to write to.
        max_payload: Longest tensor message accepted, bytes.
    """

    def __init__(self, incoming: int, outgoing: int, max_payload: int = 2**34):
        self._incoming, self._outgoing = incoming, outgoing
        self._max_payload = max_payload
        os.set_blocking(incoming, False)
        os.set_blocking(outgoing, False)

    def send(
        self, header: dict[str, Any], tensor: Tensor | None = None, timeout: float | None = None
    ) -> None:
        """Write one message.

        Raises:
            WireError: The other side is gone.
            WireTimeout: It did not read within ``timeout`` seconds.
        """
        text = json.dumps(header).encode()
        payload = b"" if tensor is None else save({"x": tensor.detach().cpu().contiguous()})
        deadline = None if timeout is None else time.monotonic() + timeout
        for part in (_LENGTHS.pack(len(text), len(payload)), text, payload):
            view = memoryview(part)
            while view:
                self._wait(self._outgoing, select.POLLOUT, deadline)
                try:
                    view = view[os.write(self._outgoing, view[:_CHUNK]) :]
                except BlockingIOError:
                    continue
                except OSError as error:
                    raise WireError(f"the pipe is closed ({error.strerror})") from None

    def receive(
        self, timeout: float | None = None, max_payload: int | None = None
    ) -> tuple[dict[str, Any], Tensor | None]:
        """Read one message, with a tensor of at most ``max_payload`` bytes (None: as long as any).

        Raises:
            WireError: The other side is gone, or what it sent is no message.
            WireTimeout: It did not write within ``timeout`` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        length, size = _LENGTHS.unpack(bytes(self._read(_LENGTHS.size, deadline)))
        most = self._max_payload if max_payload is None else min(max_payload, self._max_payload)
        if length > _MAX_HEADER or size > most:
            raise WireError("a message is longer than allowed")
        try:
            header = json.loads(bytes(self._read(length, deadline)))
            payload = load(bytes(self._read(size, deadline))) if size else {}
        except (ValueError, RecursionError, SafetensorError) as error:
            raise WireError(f"a message is malformed ({type(error).__name__})") from None
        if not isinstance(header, dict):
            raise WireError("a message has no header")
        return header, payload.get("x")

    def _read(self, size: int, deadline: float | None) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        position = 0
        while position < size:
            self._wait(self._incoming, select.POLLIN, deadline)
            try:
                count = os.readv(self._incoming, [view[position : position + _CHUNK]])
            except BlockingIOError:
                continue
            except OSError as error:
                raise WireError(f"the pipe is closed ({error.strerror})") from None
            if not count:
                raise WireError("the pipe is closed")
            position += count
        view.release()
        return data

    @staticmethod
    def _wait(descriptor: int, event: int, deadline: float | None) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        if not poll.poll(left):
            raise WireTimeout


def as_tensor(value: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return a received tensor after checking it.

    Raises:
        WireError: It is absent, or of another shape or dtype.
    """
    if value is None or tuple(value.shape) != shape or value.dtype != dtype:
        raise WireError("a tensor is missing or has another shape or type than announced")
    return value
