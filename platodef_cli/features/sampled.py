"""A few images as encoders take them, to measure with."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from platodef_cli.encoders.interface import Geometry, to_pixels
from platodef_cli.images.decode import ImageError
from platodef_cli.images.interface import ImageSource


@dataclass(frozen=True)
class Pictures:
    """A few images as every encoder takes them, and what they cost.

    Attributes:
        pixels: Geometry -> ``[n, 3, H, W]``, uint8, or float32 where the geometry says so.
        decoding: Seconds per image to decode it for all geometries, on one core.
    """

    pixels: Mapping[Geometry, Tensor]
    decoding: float


def pictures_of(
    source: ImageSource, geometries: Sequence[Geometry], rows: Sequence[int], count: int = 8
) -> Pictures:
    """Decode a few usable images of ``rows``.

    Raises:
        ImageError: All that were tried are broken.
    """
    distinct = list(dict.fromkeys(geometries))
    decoded: dict[Geometry, list[Tensor]] = {geometry: [] for geometry in distinct}
    error: ImageError | None = None
    seconds: list[float] = []
    for row in rows[: 4 * count]:
        start = time.perf_counter()
        try:
            image = source.open(row)
        except ImageError as broken:
            error = broken
            continue
        for geometry in distinct:
            decoded[geometry].append(to_pixels(image, geometry))
        seconds.append(time.perf_counter() - start)
        if len(seconds) == count:
            break
    if not seconds:
        assert error is not None
        raise error
    pixels = {geometry: torch.stack(values) for geometry, values in decoded.items()}
    return Pictures(pixels, sorted(seconds)[len(seconds) // 2])
