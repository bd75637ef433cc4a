"""The contracts of feature extraction: variants of images, tuples of features, and samples with images."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Protocol

import torch
from torch import Tensor


class Variant(Protocol):
    """A change of images: a trigger, a benign control, or nothing."""

    @property
    def name(self) -> str:
        """Unique name, the key of the feature cache: it encodes every parameter that changes the pixels.

        For example ``patch-white-0.3125-bottom-right``.
        """

    def __call__(self, pixels: Tensor, seeds: Tensor) -> Tensor:
        """Return the changed images, uint8 ``[B, 3, H, W]``; the input is left untouched.

        Args:
            pixels: uint8 ``[B, 3, H, W]``, already resized and cropped for one encoder. Sizes and
                places in a variant are fractions of H and W, so that encoders of different input
                sizes see the same change.
            seeds: int64 ``[B]``, one per image and derived from its content, so that random places
                and noise do not depend on batch size or order, nor on the encoder.
        """


@dataclass(frozen=True)
class FeatureTuples:
    """Features of the same N images by the suspect and by M references.

    Attributes:
        source: float32 ``[N, D_s]``, the suspect.
        references: name -> float32 ``[N, D_m]``, in a fixed order.
        labels: int64 ``[N]`` or None.
        variants: int64 ``[N]`` (0 clean, i > 0 the i-th trigger) or None.
        metadata: Strings that describe where the features come from (see ``features/file.py``).
        ids: Id of the image of every row (a relative path, ``row-000012``), or None where it is not known.
    """

    source: Tensor
    references: Mapping[str, Tensor]
    labels: Tensor | None = None
    variants: Tensor | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    ids: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return int(self.source.shape[0])

    def select(self, rows: Tensor) -> "FeatureTuples":
        """Return the given rows (index or boolean mask ``[N]``)."""
        return FeatureTuples(
            source=self.source[rows],
            references={name: value[rows] for name, value in self.references.items()},
            labels=None if self.labels is None else self.labels[rows],
            variants=None if self.variants is None else self.variants[rows],
            metadata=self.metadata,
            ids=None if self.ids is None else _picked(self.ids, rows),
        )

    def with_source(self, source: Tensor) -> "FeatureTuples":
        """Return the same tuples with another source feature ``[N, D_s]``."""
        return replace(self, source=source)


def _picked(ids: tuple[str, ...], rows: Tensor) -> tuple[str, ...]:
    numbers = rows.nonzero()[:, 0] if rows.dtype == torch.bool else rows
    return tuple(ids[number] for number in numbers.tolist())


@dataclass(frozen=True)
class Samples(FeatureTuples):
    """Feature tuples together with the images that they were computed from.

    Detectors that need more than features take these wherever feature tuples are expected.

    Attributes:
        images: uint8 ``[N, 3, H, W]`` at the suspect's input size, triggers applied; None where there are
            features only.
    """

    images: Tensor | None = None

    def __post_init__(self) -> None:
        if self.images is not None and (
            self.images.dtype != torch.uint8 or self.images.ndim != 4 or len(self.images) != len(self)
        ):
            raise ValueError(f"images {list(self.images.shape)} {self.images.dtype} for {len(self)} samples")

    @classmethod
    def of(cls, tuples: FeatureTuples, images: Tensor | None) -> "Samples":
        """Return the tuples with their images."""
        own = {entry.name: getattr(tuples, entry.name) for entry in fields(FeatureTuples)}
        return cls(**own, images=images)

    def select(self, rows: Tensor) -> "Samples":
        """Return the given rows (index or boolean mask ``[N]``)."""
        return Samples.of(super().select(rows), None if self.images is None else self.images[rows])

    def with_source(self, source: Tensor) -> "Samples":
        """Return the same samples with another source feature ``[N, D_s]``."""
        return Samples.of(super().with_source(source), self.images)
