"""How fast encoders are on this machine: a warm-up, then a batch the way that an audit computes it."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from platodef_cli.encoders.bounded import at_once
from platodef_cli.encoders.interface import Encoder, to_levels
from platodef_cli.features.sampled import Pictures
from platodef_cli.triggers.battery import BatteryItem
from platodef_cli.triggers.variant import to_unit

_FIRST = 2  # images of a warm-up
_MOST = 32
_SECONDS = 0.3  # that a measurement should take


@dataclass(frozen=True)
class Speed:
    """Wall seconds per image.

    Attributes:
        forward: Of a forward pass; None where nothing has to be computed.
        gradient: Of a forward pass with the gradient of the image; None as above.
    """

    forward: float | None = None
    gradient: float | None = None


def cores() -> int:
    """Return the processors that this process may use."""
    available = getattr(os, "sched_getaffinity", None)  # missing outside Linux
    return len(available(0)) if available else os.cpu_count() or 1


def changing(pictures: Pictures, items: Sequence[BatteryItem]) -> float:
    """Return the seconds that the changes of a battery take per changed image, for all geometries."""
    if not items:
        return 0.0
    seconds = 0.0
    for pixels in pictures.pixels.values():
        few = to_levels(pixels)[:2]
        start = time.perf_counter()
        for item in items:
            item.variant(few, torch.arange(len(few)))
        seconds += (time.perf_counter() - start) / (len(items) * len(few))
    return seconds


def speed_of(encoder: Encoder, pixels: Tensor, batch_size: int, *, forward: bool, gradient: bool) -> Speed:
    """Measure an encoder; the suspect's child process takes part.

    Args:
        encoder: As the audit uses it, with its precision and its parts.
        pixels: As the encoder takes them, ``[n, 3, H, W]``.
        batch_size: Most images at once.
        forward: Whether passes without gradients will be needed.
        gradient: Whether gradients will be.

    Raises:
        IncompleteError: The encoder failed.
    """

    def embed(count: int) -> None:
        encoder.embed(_repeated(pixels, count))

    def differentiate(count: int) -> None:
        images = to_unit(to_levels(_repeated(pixels, count))).requires_grad_(True)
        encoder.differentiable(images).sum().backward()  # type: ignore[no-untyped-call]

    return Speed(
        _per_image(embed, at_once(encoder, batch_size)) if forward else None,
        _per_image(differentiate, at_once(encoder, batch_size, gradients=True)) if gradient else None,
    )


def matrix_rate() -> float:
    """Return the multiplications and additions per second of a float32 matrix product on one thread."""
    matrix = torch.ones(512, 512)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = min(_timed(lambda: matrix @ matrix) for _ in range(3))
    finally:
        torch.set_num_threads(threads)
    return float(2 * 512**3 / max(seconds, 1e-9))


def _repeated(pixels: Tensor, count: int) -> Tensor:
    return pixels[torch.arange(count) % len(pixels)]


def _per_image(compute: Callable[[int], None], most: int) -> float:
    """Warm up, then time a batch that takes long enough to be measured and fits into memory."""
    first = min(_FIRST, most)
    compute(first)
    rough = _timed(lambda: compute(first)) / first
    count = max(first, min(most, _MOST, int(_SECONDS / max(rough, 1e-6))))
    return _timed(lambda: compute(count)) / count if count > first else rough


def _timed(compute: Callable[[], object]) -> float:
    start = time.perf_counter()
    compute()
    return time.perf_counter() - start
