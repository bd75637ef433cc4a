"""The features and images that the defences of an audit look at: by variant and by role of the image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from platodef_cli.audit.config import AuditConfig
from platodef_cli.defences import DETECTORS, PURIFIERS
from platodef_cli.encoders.geometry import Geometry
from platodef_cli.features.access import Access
from platodef_cli.features.extract import CLEAN, Extraction, image_seeds, load_pixels
from platodef_cli.features.interface import FeatureTuples, Samples, Variant
from platodef_cli.images.interface import ImageSource
from platodef_cli.metrics.linear_probe import LinearProbe
from platodef_cli.triggers.battery import BatteryItem

BANK_MOST = 2000
"""Clean samples with images that detectors get at most: images are large."""


class Images(Protocol):
    """Gives the images of rows, changed by a variant."""

    def load(self, rows: Tensor, variant: str) -> Tensor:
        """Return uint8 ``[n, 3, H, W]`` of rows of the source ``[n]``."""


@dataclass(frozen=True)
class Features:
    """Feature tuples of one extraction, by variant and rows of the source.

    Attributes:
        extraction: Features of all encoders.
        suspect: Name of the suspect among them.
        references: Names of the references, in order.
        controls: Those of them that see pixels: what a change does to them is compared with the suspect.
        images: The suspect's images, where a detector or purifier looks at them.
    """

    extraction: Extraction
    suspect: str
    references: tuple[str, ...]
    controls: tuple[str, ...]
    images: Images | None = None

    def tuples(self, rows: tuple[int, ...] | None, variant: str = CLEAN) -> tuple[FeatureTuples, Tensor]:
        """Return the tuples of the usable images among ``rows`` (None: all), and their rows ``[n]``."""
        indices, source = self.extraction.features(self.suspect, variant)
        keep = torch.arange(len(indices))
        if rows is not None:
            place = {int(row): position for position, row in enumerate(indices.tolist())}
            keep = torch.tensor([place[row] for row in rows if row in place], dtype=torch.int64)
        references = {name: self.extraction.features(name, variant)[1][keep] for name in self.references}
        return FeatureTuples(source[keep], references), indices[keep]

    def samples(
        self, rows: tuple[int, ...] | None, variant: str = CLEAN, most: int | None = None
    ) -> tuple[FeatureTuples, Tensor]:
        """Return the same as :meth:`tuples`, with images where somebody looks at them.

        Args:
            rows: Rows of the source, or None for all.
            variant: Name of the change.
            most: Largest number of samples with images.
        """
        tuples, usable = self.tuples(rows, variant)
        if self.images is None:
            return tuples, usable
        if most is not None and len(usable) > most:
            tuples, usable = tuples.select(torch.arange(most)), usable[:most]
        return Samples.of(tuples, self.images.load(usable, variant)), usable


@dataclass(frozen=True)
class SuspectImages:
    """The images of an audit as the suspect sees them.

    Attributes:
        source: The images.
        geometry: Resize and crop of the suspect.
        variants: Name -> change, for all that are not clean.
    """

    source: ImageSource
    geometry: Geometry
    variants: Mapping[str, Variant]

    @classmethod
    def of(cls, source: ImageSource, geometry: Geometry, items: Sequence[BatteryItem]) -> "SuspectImages":
        """Return the images with the variants of a battery."""
        return cls(source, geometry, {item.variant.name: item.variant for item in items})

    def load(self, rows: Tensor, variant: str) -> Tensor:
        """Return uint8 ``[n, 3, H, W]`` of usable rows of the source ``[n]``, changed by a variant."""
        indices = rows.tolist()
        pixels = load_pixels(self.source, [self.geometry], indices)[self.geometry]
        if variant == CLEAN:
            return pixels
        return self.variants[variant](pixels, image_seeds([self.source.refs[row] for row in indices]))


def wants_images(config: AuditConfig) -> bool:
    """Return whether a detector or the purifier of an audit looks at images."""
    kinds = [*(DETECTORS.load(name) for name in config.sample_detectors), PURIFIERS.load(config.purifier)]
    return any(Access.images in kind.needs for kind in kinds)


@dataclass(frozen=True)
class Labelled:
    """A linear probe on the suspect's clean features, where the images have labels.

    Attributes:
        probe: Fitted on the fit images.
        labels: int64 label of every row of the source.
        classes: Class names.
    """

    probe: LinearProbe
    labels: Tensor
    classes: tuple[str, ...]

    def name(self, number: int | None) -> str | None:
        """Return the name of a class."""
        return None if number is None else self.classes[number] if number < len(self.classes) else str(number)
