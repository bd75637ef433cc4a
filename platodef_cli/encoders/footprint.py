"""How much memory an encoder takes per image, measured on one image and on two."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from platodef_cli.errors import OutOfMemoryError

_ALIVE = 6
"""Tensors as large as the largest one that a forward pass without gradients holds at once, at most: input,
output and work space of a layer, beside those of a branch that waits for it."""


@dataclass(frozen=True)
class Footprint:
    """What an encoder holds in memory.

    Attributes:
        weights: Bytes of parameters and buffers.
        forward: Bytes per image of a forward pass without gradients, estimated.
        backward: Bytes per image that a forward pass keeps for its gradients.
    """

    weights: int
    forward: int
    backward: int


def measure(run: Callable[[Tensor], Tensor], size: tuple[int, int], weights: int) -> Footprint:
    """Measure what a network keeps for the gradients of one image and of two.

    The second image shows what is per image; what both passes keep alike are weights. Equal networks and
    sizes give equal numbers.

    Args:
        run: float32 ``[B, 3, H, W]`` in [0, 1] -> features ``[B, D]``, differentiable.
        size: Height and width of the images.
        weights: Bytes of the parameters and buffers.

    Raises:
        OutOfMemoryError: Not even one image fits.
    """
    one = _kept(run, size, 1)
    try:
        two = _kept(run, size, 2)
    except OutOfMemoryError:
        return Footprint(weights, _ALIVE * max(one, default=1), max(1, _bytes(one)))
    pixels = 4 * 3 * size[0] * size[1]
    # bytes of a storage -> how many there are; those that are not of the same size twice grow with the images
    grown = max(two - one, default=0) // 2
    return Footprint(
        weights=weights,
        forward=_ALIVE * max(pixels, grown),
        backward=max(pixels, _bytes(two) - _bytes(one)),
    )


def _kept(run: Callable[[Tensor], Tensor], size: tuple[int, int], count: int) -> Counter[int]:
    """Return bytes of a storage that is kept for gradients -> number of such storages."""
    # weak: nothing is really kept, so that also what does not fit can be measured
    storages: dict[StorageWeakRef, int] = {}

    def pack(value: Tensor) -> None:
        storage = value.untyped_storage()
        storages[StorageWeakRef(storage)] = storage.nbytes()  # type: ignore[no-untyped-call]

    def unpack(nothing: None) -> Tensor:
        raise AssertionError("nothing runs backward here")

    pixels = torch.full((count, 3, *size), 0.5).requires_grad_(True)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        run(pixels)
    return Counter(storages.values())


def _bytes(storages: Counter[int]) -> int:
    return sum(size * count for size, count in storages.items())
