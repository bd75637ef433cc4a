"""An encoder in a child process without network, token or other rights: the parent's side."""

import itertools
import os
import weakref
from dataclasses import fields
from typing import Any, cast

import torch
from pydantic import ValidationError
from torch import Tensor
from torch.autograd.function import once_differentiable

from platodef_cli.encoders.backends.internals import MAX_MAP, MAX_TERMS
from platodef_cli.encoders.checks.preflight import Preflight
from platodef_cli.encoders.computed_by import device_kind
from platodef_cli.encoders.description import EncoderDescription, make_record
from platodef_cli.encoders.footprint import Footprint
from platodef_cli.encoders.geometry import Geometry
from platodef_cli.encoders.guards import check_features, check_input, check_pixels
from platodef_cli.encoders.interface import HeadTerms
from platodef_cli.encoders.isolation.process import ChildProcess
from platodef_cli.encoders.local import one_line
from platodef_cli.encoders.pooling import AUTO
from platodef_cli.encoders.precision import tuned_record
from platodef_cli.errors import IncompleteError, RefusedError, UsageError
from platodef_cli.records import EncoderRecord


class RemoteEncoder:
    """Implements :class:`platodef_cli.encoders.interface.Encoder` by a child process.

    Calls from several threads take turns. Features are those of :class:`LocalEncoder`, bit for bit.

    Attributes:
        record: Identity, provenance and preprocessing; the files are those that the parent hashed.
        dim: Length D of a feature.
        geometry: Resize and crop.
        notes: What differs from the library's own pipeline, and where isolation is partial.
        device: Kind of the device that it runs on, as cache keys name it.
    """

    def __init__(
        self,
        child: "ChildProcess",
        description: EncoderDescription,
        record: EncoderRecord,
        notes: tuple[str, ...],
        device: str = "cpu",
    ):
        self.record = record
        self.dim = description.dim
        self.geometry: Geometry = description.geometry
        self.notes = notes
        self.device = device_kind(device)
        self._child = child
        self._numbers = itertools.count(1)
        self._forgotten: list[int] = []
        self._tuned: dict[str, int | str] = {}

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
        require_isolation: bool = False,
        pooling: str = AUTO,
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
            time_limit_s: Longest time for the load and for each call; None follows from its size.
            require_isolation: Load nothing where this machine cannot isolate the child completely.
            pooling: How tokens are pooled (:data:`platodef_cli.encoders.pooling.POOLINGS`).

        Raises:
            UsageError: A limit is not positive.
            RefusedError: The child refused the model.
            IncompleteError: The child died, ran out of memory or took too long, or isolation is required and
                incomplete.
        """
        if memory_limit_gb <= 0 or (time_limit_s is not None and time_limit_s <= 0):
            raise UsageError("the memory and time limits of an isolated encoder must be positive")
        folder = os.path.abspath(checked.directory)
        child = ChildProcess(
            name,
            memory_limit_gb,
            time_limit_s,
            # files of a snapshot are links to a store beside it
            readable=[folder, *(os.path.realpath(os.path.join(folder, file.path)) for file in checked.files)],
            gpu=torch.device(device).type != "cpu",
            weights=4 * checked.parameters,
        )
        try:
            answer, _ = child.call(
                {
                    "checked": checked.model_dump(mode="json") | {"directory": folder},
                    "name": name,
                    "device": device,
                    "dtype": dtype,
                    "threads": torch.get_num_threads(),
                    "memory_limit_gb": memory_limit_gb,
                    "require_isolation": require_isolation,
                    "pooling": pooling,
                }
            )
            description = EncoderDescription.model_validate(answer.get("description"))
            notes = tuple(one_line(note, 300) for note in list(answer.get("notes", []))[:20])
        except ValidationError as error:
            child.close()
            raise RefusedError(
                f"encoder {name!r} describes itself in an invalid way ({one_line(error)})"
            ) from None
        except BaseException:
            child.close()
            raise
        record = make_record(
            description, checked, name=name, uri=uri, commit=commit, dtype=dtype, isolated=True
        )
        return cls(child, description, record, notes, device)

    def embed(self, pixels: Tensor) -> Tensor:
        """Return features ``[B, D]`` float32 of ``pixels`` ``[B, 3, H, W]`` uint8.

        An encoder whose geometry says floats also takes float32, a share of 255.

        Raises:
            RefusedError: A feature is not finite.
            IncompleteError: The child died, ran out of memory or took too long, or is closed.
        """
        check_input(pixels, self.geometry)
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
        return cast(Tensor, _Differentiable.apply(pixels, self))

    def feature_map(self, pixels: Tensor) -> Tensor:
        """Return the last feature map ``[B, C, L]`` float32 of ``pixels`` ``[B, 3, H, W]`` uint8.

        Raises:
            NotApplicable: The network has none.
            IncompleteError: The child died, took too long, broke the protocol, or is closed.
        """
        check_pixels(pixels, self.geometry, torch.uint8)
        return self._child.inside(self._stamped({"kind": "feature_map"}), pixels, MAX_MAP)[1]

    def head_terms(self, pixels: Tensor) -> HeadTerms:
        """Return the features of ``pixels`` ``[B, 3, H, W]`` uint8 as a sum of terms.

        Raises:
            NotApplicable: The network is no pre-norm ViT with a known layout.
            IncompleteError: The child died, took too long, broke the protocol, or is closed.
        """
        check_pixels(pixels, self.geometry, torch.uint8)
        answer, terms = self._child.inside(self._stamped({"kind": "head_terms"}), pixels, MAX_TERMS)
        layers: Any = answer.get("layers")
        heads: Any = answer.get("heads")
        fits = (
            isinstance(layers, int)
            and isinstance(heads, int)
            and min(layers, heads) > 0
            and terms.shape[1:] == (1 + layers * (heads + 1), self.dim)
        )
        if not fits:
            raise self._child.broken("terms do not fit the layers and heads it names")
        return HeadTerms(terms, int(layers), int(heads))

    def footprint(self) -> Footprint:
        """Let the child measure how much memory an image takes.

        Raises:
            OutOfMemoryError: Not even one fits into its limit.
            IncompleteError: The child died, took too long, broke the protocol, or is closed.
        """
        answer, _ = self._child.call(self._stamped({"kind": "footprint"}))
        numbers = [answer.get(entry.name) for entry in fields(Footprint)]
        if not all(isinstance(number, int) and 0 <= number < 2**60 for number in numbers):
            raise self._child.broken("the memory that an image takes is no number")
        weights, forward, backward = (int(cast(int, number)) for number in numbers)
        return Footprint(weights, max(1, forward), max(1, backward))

    def tune(
        self,
        *,
        threads: int | None = None,
        gradient_dtype: str | None = None,
        forward_dtype: str | None = None,
    ) -> None:
        """Set how it computes from now on; see :meth:`Encoder.tune`."""
        given = {"threads": threads, "gradient_dtype": gradient_dtype, "forward_dtype": forward_dtype}
        if forward_dtype is not None:
            self.record = tuned_record(self.record, forward_dtype)
        self._tuned |= {name: value for name, value in given.items() if value is not None}

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
        """Add how to compute, and the graphs that nobody will ask for any more."""
        forgotten = []
        while self._forgotten:
            forgotten.append(self._forgotten.pop())
        return request | {"forget": forgotten, "tuned": self._tuned}

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
    def forward(ctx: Any, pixels: Tensor, encoder: RemoteEncoder) -> Tensor:
        number, features = encoder._forward(pixels.detach())
        ctx.save_for_backward(pixels)
        ctx.encoder, ctx.number, ctx.token = encoder, number, _Token()
        weakref.finalize(ctx.token, encoder._forgotten.append, number).atexit = False
        return features

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (pixels,) = ctx.saved_tensors
        result = ctx.encoder._backward(ctx.number, pixels.detach(), gradient)
        return result.to(pixels.device), None
