"""An encoder in a child process without network, token or other rights: the parent's side."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from typing import Any, cast

import torch
from pydantic import ValidationError
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from platodef_cli.encoders.facts import Facts, make_record
from platodef_cli.encoders.geometry import Geometry
from platodef_cli.encoders.local import check_features, check_pixels, one_line
from platodef_cli.encoders.preflight import Preflight
from platodef_cli.encoders.sandbox import child_environment
from platodef_cli.encoders.wire import Wire, WireError, WireTimeout, as_tensor
from platodef_cli.errors import IncompleteError, PlatodefError, RefusedError, UsageError
from platodef_cli.records import EncoderRecord

_KNOWN = {"RefusedError": RefusedError, "UsageError": UsageError, "IncompleteError": IncompleteError}


class RemoteEncoder:
    """Implements :class:`platodef_cli.encoders.interface.Encoder` by a child process.

    Calls from several threads take turns. Features are those of :class:`LocalEncoder`, bit for bit.

    Attributes:
        record: Identity, provenance and preprocessing; the files are those that the parent hashed.
        dim: Length D of a feature.
        geometry: Resize and crop.
        notes: What differs from the library's own pipeline, and where isolation is partial.
    """

    def __init__(self, child: "_Child", facts: Facts, record: EncoderRecord, notes: tuple[str, ...]):
        self.record = record
        self.dim = facts.dim
        self.geometry: Geometry = facts.geometry
        self.notes = notes
        self._child = child
        self._numbers = itertools.count(1)
        self._forgotten: list[int] = []

    @classmethod
    def start(
        cls,
        checked: Preflight,
        *,
        name: str,
        uri: str,
        commit: str | None,
        device: str = "cpu",
        dtype: str = "float32",
        memory_limit_gb: float = 8.0,
        time_limit_s: float | None = None,
    ) -> "RemoteEncoder":
        """Start a child and load an examined model folder in it.

        Args:
            checked: What the static checks established.
            name: Short name.
            uri: What the user asked for.
            commit: Full commit on the Hub, or None.
            device: Torch device.
            dtype: ``float32`` or ``bfloat16``.
            memory_limit_gb: Address space past the libraries (CPU only).
            time_limit_s: Longest time for the load and for each call, or None.

        Raises:
            UsageError: A limit is not positive.
            RefusedError: The child refused the model.
            IncompleteError: The child died, ran out of memory or took too long.
        """
        if memory_limit_gb <= 0 or (time_limit_s is not None and time_limit_s <= 0):
            raise UsageError("the memory and time limits of an isolated encoder must be positive")
        child = _Child(name, memory_limit_gb, time_limit_s)
        try:
            answer, _ = child.call(
                {
                    "checked": checked.model_dump(mode="json")
                    | {"directory": os.path.abspath(checked.directory)},
                    "name": name,
                    "device": device,
                    "dtype": dtype,
                    "threads": torch.get_num_threads(),
                    "memory_limit_gb": memory_limit_gb,
                }
            )
            facts = Facts.model_validate(answer.get("facts"))
            notes = tuple(one_line(note, 300) for note in list(answer.get("notes", []))[:20])
        except ValidationError as error:
            child.close()
            raise RefusedError(
                f"encoder {name!r} describes itself in an invalid way ({one_line(error)})"
            ) from None
        except BaseException:
            child.close()
            raise
        record = make_record(facts, checked, name=name, uri=uri, commit=commit, dtype=dtype, isolated=True)
        return cls(child, facts, record, notes)

    def embed(self, pixels: Tensor) -> Tensor:
        """Return features ``[B, D]`` float32 of ``pixels`` ``[B, 3, H, W]`` uint8.

        Raises:
            RefusedError: A feature is not finite.
            IncompleteError: The child died, ran out of memory or took too long, or is closed.
        """
        check_pixels(pixels, self.geometry, torch.uint8)
        return self._features({"kind": "embed"}, pixels)

    def differentiable(self, pixels: Tensor) -> Tensor:
        """Return features ``[B, D]`` of float32 ``pixels`` ``[B, 3, H, W]`` in [0, 1], with gradients.

        First derivatives only. The child keeps the graphs of the last calls; an older backward runs its
        forward again.

        Raises:
            RefusedError: A feature is not finite.
            IncompleteError: The child died, ran out of memory or took too long, or is closed.
        """
        check_pixels(pixels, self.geometry, torch.float32)
        if not (torch.is_grad_enabled() and pixels.requires_grad):
            return self._features({"kind": "forward", "keep": False}, pixels)
        return cast(Tensor, _Differentiable.apply(pixels, self))  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """End the child."""
        self._child.close()

    def __enter__(self) -> "RemoteEncoder":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _features(self, request: dict[str, Any], pixels: Tensor) -> Tensor:
        answer = self._call(request, pixels, (len(pixels), self.dim))
        return check_features(answer, self.record.name, len(pixels), self.dim)

    def _call(self, request: dict[str, Any], tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        return self._child.tensor(self._stamped(request), tensor, shape)

    def _stamped(self, request: dict[str, Any]) -> dict[str, Any]:
        """Add the graphs that nobody will ask for any more."""
        forgotten = []
        while self._forgotten:
            forgotten.append(self._forgotten.pop())
        return request | {"forget": forgotten}

    def _forward(self, pixels: Tensor) -> tuple[int, Tensor]:
        number = next(self._numbers)
        return number, self._features({"kind": "forward", "keep": True, "id": number}, pixels)

    def _backward(self, number: int, pixels: Tensor, gradient: Tensor) -> Tensor:
        request = {"kind": "backward", "id": number}
        shape = tuple(pixels.shape)
        answer = self._child.maybe_tensor(self._stamped(request), gradient, shape)
        if answer is None:
            request["id"], _ = self._forward(pixels)
            answer = self._child.maybe_tensor(self._stamped(request), gradient, shape)
        if answer is None:
            raise IncompleteError(f"encoder {self.record.name!r} lost the graph of a backward pass")
        return answer


class _Token:
    """Lives as long as the graph of one call in the parent."""


class _Differentiable(torch.autograd.Function):
    """Forward and backward of an encoder in another process."""

    @staticmethod
    def forward(ctx: FunctionCtx, pixels: Tensor, encoder: RemoteEncoder) -> Tensor:
        number, features = encoder._forward(pixels.detach())
        ctx.save_for_backward(pixels)
        ctx.encoder, ctx.number, ctx.token = encoder, number, _Token()
        weakref.finalize(ctx.token, encoder._forgotten.append, number).atexit = False
        return features

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        (pixels,) = ctx.saved_tensors
        result = ctx.encoder._backward(ctx.number, pixels.detach(), gradient)
        return result.to(pixels.device), None


class _Child:
    """The process, its pipes and what to say when it dies."""

    def __init__(self, name: str, memory_limit_gb: float, time_limit_s: float | None):
        self._name, self._memory, self._timeout = name, memory_limit_gb, time_limit_s
        self._lock = threading.Lock()
        self._failure: str | None = None
        self._home = tempfile.mkdtemp(prefix="platodef-child-")
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        lifeline, self._lifeline = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "platodef_cli.encoders.child", str(lifeline)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                cwd=self._home,
                env=child_environment(self._home),
                pass_fds=(lifeline,),
                # Ctrl-C belongs to the parent, which then closes the child in order.
                start_new_session=True,
            )
        except OSError as error:
            os.close(self._lifeline)
            shutil.rmtree(self._home, ignore_errors=True)
            raise IncompleteError(
                f"encoder {name!r}: no child process could be started ({error.strerror})"
            ) from None
        finally:
            os.close(lifeline)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._wire = Wire(self._process.stdout.fileno(), self._process.stdin.fileno())
        self._end = weakref.finalize(self, _end, self._process, self._lifeline, self._home)

    def tensor(self, request: dict[str, Any], tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Send a request whose answer has to be a float32 tensor of the given shape."""
        result = self.maybe_tensor(request, tensor, shape)
        if result is None:
            raise IncompleteError(f"encoder {self._name!r}: its child gave no answer")
        return result

    def maybe_tensor(self, request: dict[str, Any], tensor: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        """As :meth:`tensor`, but None where the child has dropped what the request is about."""
        answer, value = self.call(request, tensor)
        if answer.get("dropped") is True:
            return None
        try:
            return as_tensor(value, shape, torch.float32)
        except WireError as error:
            raise self._broken(f"broke the protocol: {error}") from None

    def call(
        self, request: dict[str, Any], tensor: Tensor | None = None
    ) -> tuple[dict[str, Any], Tensor | None]:
        """Send one request and wait for its answer."""
        with self._lock:
            if self._failure:
                raise IncompleteError(self._failure)
            try:
                self._wire.send(request, tensor, self._timeout)
                answer, value = self._wire.receive(self._timeout)
            except WireTimeout:
                raise self._broken(f"took longer than {self._timeout:g} s; raise the time limit") from None
            except WireError as error:
                raise self._broken(self._cause(str(error))) from None
            except BaseException:
                # An answer that nobody reads would be taken for the next one's.
                self._broken("was interrupted")
                raise
        if "error" in answer:
            raise self._error(str(answer["error"]), one_line(answer.get("message", ""), 1000))
        return answer, value

    def close(self) -> None:
        """End the process; further calls raise :class:`IncompleteError`."""
        self._failure = self._failure or f"encoder {self._name!r} is closed"
        self._end()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            if pipe is not None:
                pipe.close()

    def _broken(self, cause: str) -> IncompleteError:
        """Remember that the child is of no use any more, end it and return the error."""
        self._failure = f"isolated encoder {self._name!r} {cause}"
        self._end()
        return IncompleteError(self._failure)

    def _cause(self, fallback: str) -> str:
        """Say why the child is gone: its signal, its exit code, or the last line it printed."""
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return f"broke the protocol: {fallback}"
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - 4000))
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        last = one_line(lines[-1]) if lines else ""
        if code == -signal.SIGKILL or "bad_alloc" in last or "MemoryError" in last:
            return (
                f"was killed, most likely out of memory; use a smaller batch size or raise the memory limit "
                f"of {self._memory:g} GB"
            )
        if code < 0:
            return f"crashed ({_signal_name(-code)}){': ' + last if last else ''}; do not trust this model"
        return f"ended with code {code}{': ' + last if last else ''}"

    def _error(self, kind: str, message: str) -> PlatodefError:
        """Turn a failure that the child reports into the same error here."""
        if kind in _KNOWN:
            hint = f" (memory limit {self._memory:g} GB)" if "ran out of memory" in message else ""
            return _KNOWN[kind](message + hint)
        if kind == "MemoryError":
            return IncompleteError(
                f"isolated encoder {self._name!r} ran out of its {self._memory:g} GB; raise the memory limit"
            )
        return IncompleteError(f"isolated encoder {self._name!r} failed: {message}")


def _end(process: "subprocess.Popen[bytes]", lifeline: int, home: str) -> None:
    """Kill the child, which holds nothing worth saving, and remove its home."""
    os.close(lifeline)
    process.kill()
    process.wait()
    shutil.rmtree(home, ignore_errors=True)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
