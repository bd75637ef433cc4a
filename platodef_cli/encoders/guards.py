"""What goes into an encoder and comes out of it is checked, and memory that runs out is told in words."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from platodef_cli.encoders.geometry import Geometry
from platodef_cli.errors import OutOfMemoryError, RefusedError, UsageError

_FEWER = "give a smaller --batch-size or a higher --memory-limit"
_OUT_OF_MEMORY = ("allocate memory", "bad_alloc", "out of memory", "could not create a memory")


def check_pixels(pixels: Tensor, geometry: Geometry, dtype: torch.dtype) -> None:
    """Raise :class:`UsageError` unless ``pixels`` are ``[B, 3, H, W]`` of this size and dtype."""
    expected = (3, *geometry.size)
    if pixels.ndim != 4 or tuple(pixels.shape[1:]) != expected or pixels.dtype != dtype:
        raise UsageError(
            f"pixels {list(pixels.shape)} {pixels.dtype} do not fit the encoder; it takes [B, {expected[0]}, "
            f"{expected[1]}, {expected[2]}] {dtype}"
        )


def check_input(pixels: Tensor, geometry: Geometry) -> None:
    """Raise :class:`UsageError` unless ``pixels`` are what an encoder embeds: 8 bits, or its floats."""
    check_pixels(
        pixels, geometry, torch.float32 if geometry.floats and pixels.is_floating_point() else torch.uint8
    )


def check_features(features: Tensor, name: str, batch: int, dim: int) -> Tensor:
    """Return the features if they are ``[batch, dim]`` and finite.

    Raises:
        RefusedError: They are not.
    """
    if tuple(features.shape) != (batch, dim):
        raise RefusedError(
            f"encoder {name!r} returned features {list(features.shape)} instead of {[batch, dim]}"
        )
    if not torch.isfinite(features.detach()).all():
        raise RefusedError(f"encoder {name!r} returned features that are not finite; do not use this model")
    return features


@contextmanager
def memory_guard(name: str, advice: str = _FEWER) -> Iterator[None]:
    """Turn exhausted memory into an :class:`OutOfMemoryError`.

    Args:
        name: Of the encoder.
        advice: What to do.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        pass
    except RuntimeError as error:
        if not any(text in str(error) for text in _OUT_OF_MEMORY):
            raise
    else:
        return
    raise OutOfMemoryError(f"encoder {name!r} ran out of memory; {advice}") from None
