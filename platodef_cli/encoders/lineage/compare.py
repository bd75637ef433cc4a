"""Which known model another one was made from, and which of its layers differ; from sketches alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from platodef_cli.encoders.lineage.index import Known
from platodef_cli.encoders.lineage.sketch import BUCKETS, Layer

LEAST_COVERAGE = 0.5
"""Share of the weights that must have a counterpart of the same name and shape for a comparison."""


@dataclass(frozen=True)
class LayerDifference:
    """One layer of both models.

    Attributes:
        name: Of the layer.
        shape: Its shape.
        cosine: Estimated, between the two; 1 where nothing was changed.
        length: That of the model divided by that of the base.
        spectrum: Largest difference of the leading singular values, as a share of the largest.
        same: The values are the same bytes.
    """

    name: str
    shape: tuple[int, ...]
    cosine: float
    length: float
    spectrum: float
    same: bool


@dataclass(frozen=True)
class Comparison:
    """A model beside one that it may have been made from.

    Attributes:
        known: The other.
        cosine: Of all common layers together, estimated.
        deviation: Standard deviation of that estimate for models that have nothing to do with each other.
        coverage: Share of the model's weights that stand in common layers.
        layers: The common layers, the most changed first.
    """

    known: Known
    cosine: float
    deviation: float
    coverage: float
    layers: tuple[LayerDifference, ...]

    @property
    def related(self) -> bool:
        """Whether chance does not explain the cosine: 5 standard deviations, and at least 0.3."""
        return self.cosine > max(5 * self.deviation, 0.3)


def compare(layers: Sequence[Layer], known: Known) -> Comparison | None:
    """Return how a model's layers differ from those of a known one; None where too few have a counterpart."""
    others = {layer.name: layer for layer in known.layers}
    pairs = [(own, others[own.name]) for own in layers if own.name in others]
    pairs = [(own, other) for own, other in pairs if own.shape == other.shape]
    total, common = (sum(layer.elements for layer in some) for some in (layers, [own for own, _ in pairs]))
    if not total or common < LEAST_COVERAGE * total:
        return None
    # the lengths of single layers are exact, so that only angles are estimated
    products = [(own.length * other.length, _cosine(own, other)) for own, other in pairs]
    one, two = (sqrt(sum(pair[i].length ** 2 for pair in pairs)) for i in (0, 1))
    scale = one * two or 1.0
    cosine = sum(weight * angle for weight, angle in products) / scale
    deviation = sqrt(sum(weight**2 for weight, _ in products) / BUCKETS) / scale
    differences = [_difference(own, other) for own, other in pairs]
    differences.sort(key=lambda layer: (layer.same, layer.cosine, layer.name))
    return Comparison(known, _bounded(cosine), deviation, common / total, tuple(differences))


def nearest(layers: Sequence[Layer], index: Iterable[Known], digest: str) -> Comparison | None:
    """Return the comparison with the nearest other model of an index; None where none is comparable.

    Args:
        layers: Of the model.
        index: The known models.
        digest: Of the model, so that it is not compared with itself.
    """
    found = [compare(layers, known) for known in index if known.digest != digest]
    comparable = [entry for entry in found if entry is not None]
    return max(comparable, key=lambda entry: (entry.cosine, entry.known.name), default=None)


def _cosine(own: Layer, other: Layer) -> float:
    """Return the estimated cosine of two layers, 1 exactly where they are the same.

    The estimate divides by the lengths of the sketches, which share most of their error with the product:
    of two layers that hardly differ it is exact.
    """
    if own.content == other.content:
        return 1.0
    scale = float(np.linalg.norm(own.buckets) * np.linalg.norm(other.buckets))
    return _bounded(float(own.buckets @ other.buckets) / scale) if scale else 0.0


def _difference(own: Layer, other: Layer) -> LayerDifference:
    ratio = own.length / other.length if other.length else 0.0
    largest = max(other.singular[0], 1e-12)
    gaps = [abs(a * ratio - b) / largest for a, b in zip(own.singular, other.singular, strict=True)]
    return LayerDifference(
        own.name, own.shape, _cosine(own, other), ratio, max(gaps), own.content == other.content
    )


def _bounded(cosine: float) -> float:
    return max(-1.0, min(1.0, cosine))
