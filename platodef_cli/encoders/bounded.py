"""An encoder that takes any number of images in parts that fit into memory."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from platodef_cli.encoders.footprint import Footprint
from platodef_cli.encoders.guards import memory_guard
from platodef_cli.encoders.interface import Encoder, InsideEncoder
from platodef_cli.errors import OutOfMemoryError

_GB = 2**30
_RESERVE = _GB // 4  # what the libraries allocate besides weights and activations
_SLACK = 1.25  # gradients and work space on top of what is kept for the backward pass
_SHARE = 0.25  # of the limit: two encoders compute at once, and larger parts are not faster


class Measured(Encoder, Protocol):
    """An encoder that tells how much memory it takes."""

    def footprint(self) -> Footprint:
        """Measure it."""


@dataclass(frozen=True)
class Parts:
    """Most images at once.

    Attributes:
        forward: Without gradients.
        backward: With gradients.
    """

    forward: int
    backward: int


def parts_of(footprint: Footprint, limit_gb: float, most: int, *, gradients: bool = True) -> Parts | None:
    """Return how many images fit into a memory limit; None where not even one does.

    It depends on the arguments only, not on what happens to be free, so that equal audits compute alike.

    Args:
        footprint: Memory of the encoder.
        limit_gb: Limit of everything that it takes, weights included.
        most: Never more images than this.
        gradients: Whether gradients will be asked for.
    """
    room = limit_gb * _GB - footprint.weights - _RESERVE
    if room < _SLACK * _one(footprint, gradients):
        return None
    share = min(_SHARE * limit_gb * _GB, room / 2)
    counts = (int(share / (_SLACK * each)) for each in (footprint.forward, footprint.backward))
    return Parts(*(min(most, max(1, count if count < 8 else count - count % 8)) for count in counts))


def smallest_limit(footprint: Footprint, *, gradients: bool = True) -> float:
    """Return the memory limit, GB, from which one image fits."""
    need = footprint.weights + _RESERVE + _SLACK * _one(footprint, gradients)
    return math.ceil(10 * need / _GB) / 10


def _one(footprint: Footprint, gradients: bool) -> int:
    return max(footprint.backward, footprint.forward) if gradients else footprint.forward


class BoundedEncoder:
    """Implements :class:`platodef_cli.encoders.interface.Encoder`: another encoder, a few images at a time.

    Features of more images than fit are computed in parts, and their gradients by running every part again
    when they are asked for (Gao et al. 2021, GradCache), which costs another forward pass and changes nothing
    but rounding. Where memory runs out in spite of that, parts are halved and a warning says so.

    Args:
        encoder: The encoder.
        parts: Most images at once.
        warn: Told of halved parts.

    Attributes:
        taken: Bytes of weights and of what it computes at once, estimated; 0 where nobody measured.
    """

    def __init__(self, encoder: Encoder, parts: Parts, warn: Callable[[str], None]):
        self.encoder, self.parts, self.taken = encoder, parts, 0
        self.record, self.dim, self.geometry = encoder.record, encoder.dim, encoder.geometry
        self._warn = warn

    def __getattr__(self, name: str) -> Any:
        """Return what else the encoder has: notes, its device."""
        if name == "encoder":  # asked for before it is there, by copy
            raise AttributeError(name)
        return getattr(self.encoder, name)

    def embed(self, pixels: Tensor) -> Tensor:
        """Return features ``[B, D]`` float32 on the CPU of ``pixels`` ``[B, 3, H, W]`` uint8."""
        return self._without_gradients(self.encoder.embed, pixels)

    def differentiable(self, pixels: Tensor) -> Tensor:
        """Return features ``[B, D]`` of float32 ``pixels`` ``[B, 3, H, W]`` in [0, 1], with gradients.

        First derivatives only.
        """
        if not (torch.is_grad_enabled() and pixels.requires_grad):
            return self._without_gradients(self.encoder.differentiable, pixels)
        return cast(Tensor, _InParts.apply(pixels, self))

    def feature_map(self, pixels: Tensor) -> Tensor:
        """Return the last feature map; see :class:`platodef_cli.encoders.interface.InsideEncoder`."""
        inside = cast(InsideEncoder, self.encoder)
        return self._without_gradients(inside.feature_map, pixels)

    def tune(
        self,
        *,
        threads: int | None = None,
        gradient_dtype: str | None = None,
        forward_dtype: str | None = None,
    ) -> None:
        """Set how it computes from now on; see :meth:`Encoder.tune`."""
        self.encoder.tune(threads=threads, gradient_dtype=gradient_dtype, forward_dtype=forward_dtype)
        self.record = self.encoder.record

    def close(self) -> None:
        """Free the encoder."""
        self.encoder.close()

    def __enter__(self) -> "BoundedEncoder":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _without_gradients(self, compute: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
        done = 0
        results: list[Tensor] = []
        while done < len(pixels) or not results:
            part = pixels[done : done + self.parts.forward]
            try:
                results.append(compute(part))
            except OutOfMemoryError as error:
                self._halve(len(part), error, gradients=False)
                continue
            done += len(part)
        return results[0] if len(results) == 1 else torch.cat(results)

    def _with_graph(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return a leaf with the values of ``pixels`` and its features, which keep their graph."""
        leaf = pixels.detach().requires_grad_(True)
        with torch.enable_grad():
            return leaf, self.encoder.differentiable(leaf)

    def _gradient(self, leaf: Tensor, features: Tensor, gradient: Tensor) -> Tensor:
        with memory_guard(self.record.name):
            return torch.autograd.grad(features, leaf, gradient)[0]

    def _halve(self, count: int, error: OutOfMemoryError, *, gradients: bool) -> None:
        """Take smaller parts than ``count`` images from now on.

        Raises:
            OutOfMemoryError: One image was too much.
        """
        height, width = self.geometry.size
        if count <= 1:
            raise OutOfMemoryError(
                f"encoder {self.record.name!r} ran out of memory with a single image of {height}x{width} "
                "pixels; raise --memory-limit, or use a machine with more memory"
            ) from error
        half = count // 2
        self.parts = Parts(
            min(half, self.parts.forward) if not gradients else self.parts.forward,
            min(half, self.parts.backward),
        )
        self._warn(
            f"encoder {self.record.name!r} ran out of memory with {count} images at once, and goes on with "
            f"{half} at once"
        )


class _InParts(torch.autograd.Function):
    """Features of all images; the graph of the last part is kept, those of the others are made again."""

    @staticmethod
    def forward(ctx: Any, pixels: Tensor, bounded: BoundedEncoder) -> Tensor:
        pixels = pixels.detach()
        results: list[Tensor] = []
        first = 0
        while True:
            done, first = first, len(pixels) - min(len(pixels), bounded.parts.backward)
            if first > done:
                rest = pixels[done:first]
                results.append(bounded._without_gradients(bounded.encoder.differentiable, rest))
            try:
                kept = bounded._with_graph(pixels[first:])
                break
            except OutOfMemoryError as error:
                bounded._halve(len(pixels) - first, error, gradients=True)
        ctx.bounded, ctx.first, ctx.kept = bounded, first, kept
        ctx.save_for_backward(pixels)
        return torch.cat([*results, kept[1].detach()])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (pixels,) = ctx.saved_tensors
        bounded: BoundedEncoder = ctx.bounded
        kept, ctx.kept = ctx.kept, None
        found: list[Tensor] = []
        end = len(pixels)
        while end > 0:
            start = ctx.first if kept is not None else max(0, end - bounded.parts.backward)
            try:
                leaf, features = kept or bounded._with_graph(pixels[start:end])
                found.insert(0, bounded._gradient(leaf, features, gradient[start:end]))
            except OutOfMemoryError as error:
                kept = leaf = features = None
                bounded._halve(end - start, error, gradients=True)
                continue
            kept = leaf = features = None
            end = start
        return torch.cat(found), None


def at_once(encoder: Encoder, usual: int, *, gradients: bool = False) -> int:
    """Return how many images an encoder takes at once.

    Args:
        encoder: Bounded or not.
        usual: Where it is not, and at most.
        gradients: Whether with gradients, without running images twice.
    """
    parts = getattr(encoder, "parts", None)
    if not isinstance(parts, Parts):
        return usual
    return min(usual, parts.backward if gradients else parts.forward)


def bounded(
    encoder: Encoder, *, limit_gb: float, most: int, warn: Callable[[str], None], gradients: bool = True
) -> BoundedEncoder:
    """Return an encoder that takes no more images at once than fit into a memory limit.

    Args:
        encoder: Tells its footprint.
        limit_gb: Limit of everything that it takes, weights included.
        most: Never more images at once than this.
        warn: Told of parts that had to be halved.
        gradients: Whether gradients will be asked for.

    Raises:
        OutOfMemoryError: Not even one image fits; the message names the limit that is needed.
    """
    height, width = encoder.geometry.size
    footprint = cast(Measured, encoder).footprint()
    parts = parts_of(footprint, limit_gb, most, gradients=gradients)
    if parts is None:
        raise OutOfMemoryError(
            f"the memory limit of {limit_gb:g} GB does not hold encoder {encoder.record.name!r} and what it "
            f"computes of one image of {height}x{width} pixels; give --memory-limit "
            f"{smallest_limit(footprint, gradients=gradients):g} or more"
        )
    made = BoundedEncoder(encoder, parts, warn)
    images = max(parts.forward * footprint.forward, parts.backward * footprint.backward * gradients)
    made.taken = footprint.weights + int(_SLACK * images)
    return made
