"""A sketch of a model's weights: a few dozen numbers per weight matrix.

Of every matrix (a tensor of two or more dimensions; biases and norms of one are too alike in all models):

- its length, and a count sketch of :data:`BUCKETS` numbers (Charikar, Chen and Farach-Colton, *Finding
  frequent items in data streams*, 2002): every entry is added with a sign of its own to a bucket of its own.
  The inner product of two sketches estimates that of the matrices, with a standard deviation of about
  ``1 / sqrt(BUCKETS)`` of the product of their lengths; that of all layers together is more exact;
- its four largest singular values, which a permutation or rotation of the neurons leaves as they are;
- the first bytes of its SHA-256, which say that it was not touched at all.
"""

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from platodef_cli.encoders.checks.limits import Limits
from platodef_cli.encoders.checks.preflight import Preflight
from platodef_cli.encoders.checks.weights import read_verified, tensors_of

BUCKETS = 32
SINGULAR = 4
MOST_PARAMETERS = 2_000_000_000
"""Larger models are not sketched: reading them would take longer than the rest of the evidence."""
_LEAST_ELEMENTS = 64
_CHUNK = 2**20
_ROUNDS = 20
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# what libraries put in front of the names of a vision tower
_WRAPPERS = re.compile(r"^(?:module\.|model\.|vision_model\.|vision_tower\.|visual\.|trunk\.)+")


@dataclass(frozen=True)
class Layer:
    """One weight matrix.

    Attributes:
        name: Of the tensor, without what a library puts in front of all names.
        shape: Its shape.
        length: Euclidean.
        buckets: Its count sketch, float64 ``[BUCKETS]``, of the matrix divided by its length.
        singular: Its largest singular values, divided by its length, highest first.
        content: First 16 hex digits of the SHA-256 of its float32 values.
    """

    name: str
    shape: tuple[int, ...]
    length: float
    buckets: NDArray[np.float64]
    singular: tuple[float, ...]
    content: str

    @property
    def elements(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    def packed(self) -> list[object]:
        """Return it as a JSON list."""
        data = base64.b64encode(self.buckets.astype("<f2").tobytes()).decode()
        singular = [float(f"{value:.5g}") for value in self.singular]
        return [self.name, list(self.shape), float(f"{self.length:.6g}"), data, singular, self.content]

    @classmethod
    def unpacked(cls, value: Any) -> "Layer":
        """Return the layer of a JSON list.

        Raises:
            ValueError: It is none.
        """
        try:
            name, shape, length, data, singular, content = value
            buckets = np.frombuffer(base64.b64decode(data, validate=True), "<f2").astype(np.float64)
            layer = cls(
                str(name),
                tuple(int(side) for side in shape),
                float(length),
                buckets,
                tuple(float(number) for number in singular),
                str(content),
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f"no sketch of a layer ({error})") from None
        finite = np.isfinite([layer.length, *layer.singular, *buckets]).all()
        if len(buckets) != BUCKETS or not finite or min(layer.shape, default=0) < 1 or layer.length < 0:
            raise ValueError("no sketch of a layer")
        return layer


def sketch(checked: Preflight) -> tuple[Layer, ...]:
    """Return the sketch of an examined folder, from exactly the bytes that were examined.

    Raises:
        RefusedError: The files changed since.
    """
    layers = {}
    for name, tensor in _matrices(checked):
        layers[name] = _layer(name, tensor)
    return tuple(layers[name] for name in sorted(layers))


def _matrices(checked: Preflight) -> Iterator[tuple[str, Tensor]]:
    """Yield the weight matrices, one file in memory at a time."""
    directory = Path(checked.directory)
    for record in checked.files:
        if not record.path.endswith(".safetensors"):
            continue
        data = read_verified(directory, record, follow_links=checked.follow_links)
        tensors = tensors_of(data, record.path, Limits())
        for name, tensor in tensors.items():
            if tensor.dtype in _FLOATS and tensor.ndim > 1 and tensor.numel() >= _LEAST_ELEMENTS:
                yield _WRAPPERS.sub("", name), tensor


def _layer(name: str, tensor: Tensor) -> Layer:
    values = tensor.detach().to(torch.float32).contiguous()
    flat = values.reshape(-1).numpy()
    # in double precision: the length of a large matrix of float32 would lose digits
    length = float(np.sqrt(sum(float(part.astype(np.float64) @ part) for part in _parts(flat))))
    scale = 1 / length if length > 0 else 0.0
    return Layer(
        name,
        tuple(tensor.shape),
        length,
        count_sketch(flat) * scale,
        tuple(value * scale for value in largest_singular(values.reshape(len(values), -1))),
        hashlib.sha256(flat.astype("<f4").tobytes()).hexdigest()[:16],
    )


def _parts(flat: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(flat), _CHUNK):
        yield flat[start : start + _CHUNK]


def count_sketch(flat: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the count sketch ``[BUCKETS]`` of a vector ``[n]``; the same on every machine."""
    total = np.zeros(BUCKETS)
    for number, part in enumerate(_parts(flat)):
        mixed = _mixed(np.arange(len(part), dtype=np.uint64) + np.uint64(number * _CHUNK))
        signs = np.where(mixed >> np.uint64(63), -1.0, 1.0)
        places = (mixed % np.uint64(BUCKETS)).astype(np.intp)
        total += np.bincount(places, weights=signs * part, minlength=BUCKETS)
    return total


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return 64 well mixed bits of every number: splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        mixed = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


def largest_singular(matrix: Tensor) -> tuple[float, ...]:
    """Return the largest singular values of ``[m, n]``, highest first, by subspace iteration.

    Source: Halko, Martinsson and Tropp, *Finding structure with randomness*, SIAM Review 2011, algorithm 4.4.
    """
    wide = matrix.double() if matrix.numel() < 2**20 else matrix
    wide = wide if wide.shape[0] >= wide.shape[1] else wide.T
    count = min(3 * SINGULAR, *wide.shape)
    start = torch.randn(wide.shape[1], count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis = torch.linalg.qr(wide @ start.to(wide.dtype))[0]
    for _ in range(_ROUNDS):
        basis = torch.linalg.qr(wide @ torch.linalg.qr(wide.T @ basis)[0])[0]
    values = torch.linalg.svdvals((basis.T @ wide).double())[:SINGULAR].tolist()
    return tuple(values + [0.0] * (SINGULAR - len(values)))
