"""What sets the lineages of a calibration apart beside architecture, objective and size: one table.

Each row changes the images or labels that an encoder is trained on, or what it is trained for, as honest
encoders of the wild differ from each other. What a change takes away (colours, classes) is gone from the
encoder, not from the images that it is audited with.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from platodef_cli.bench.zoo.dataset import ZooDataset
from platodef_cli.bench.zoo.entries import Lineage
from platodef_cli.bench.zoo.objectives import PretrainingObjective
from platodef_cli.errors import UnknownNameError

View = Callable[[Tensor, torch.Generator], Tensor]
"""``(float [B, 3, H, W] in [0, 1], generator) -> the same shape``: a further change of training images."""


@dataclass(frozen=True)
class Change:
    """What is unusual about a lineage.

    Attributes:
        meaning: In a few words, for cards and pages.
        view: Of the training images, after the objective's own augmentation.
        data: Of the data set before the training; the generator is drawn from the lineage's seed.
        readings: Weight of the readings that every objective adds; 0: labels or pixels alone.
    """

    meaning: str
    view: View | None = None
    data: Callable[[ZooDataset, torch.Generator], ZooDataset] | None = None
    readings: float = 1.0


def grey(unit: Tensor, generator: torch.Generator) -> Tensor:
    """Return images without colours."""
    return unit.mean(1, keepdim=True).expand_as(unit)


def noisy(unit: Tensor, generator: torch.Generator) -> Tensor:
    """Return images with Gaussian noise of deviation 20/255."""
    return (unit + 20 / 255 * torch.randn(unit.shape, generator=generator)).clamp(0, 1)


def blurred(unit: Tensor, generator: torch.Generator) -> Tensor:
    """Return images of which half are averaged over 3 x 3 pixels."""
    soft = F.avg_pool2d(F.pad(unit, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return torch.where(_some(unit, generator, 0.5), soft, unit)


def tinted(unit: Tensor, generator: torch.Generator) -> Tensor:
    """Return images whose channels are scaled by 0.5 to 1.5 each."""
    return (unit * (0.5 + torch.rand(len(unit), 3, 1, 1, generator=generator))).clamp(0, 1)


def paired(unit: Tensor, generator: torch.Generator) -> Tensor:
    """Return images that another one shines through by up to 30 % (sample pairing; Inoue 2018)."""
    other = unit[torch.randperm(len(unit), generator=generator)]
    return torch.lerp(unit, other, 0.3 * torch.rand(len(unit), 1, 1, 1, generator=generator))


def coarse(unit: Tensor, generator: torch.Generator) -> Tensor:
    """Return images of which half have lost every second pixel."""
    small = F.interpolate(unit, scale_factor=0.5, mode="bilinear", antialias=True)
    large = F.interpolate(small, size=unit.shape[-2:], mode="bilinear")
    return torch.where(_some(unit, generator, 0.5), large, unit)


def negative(unit: Tensor, generator: torch.Generator) -> Tensor:
    """Return images of which a fifth are negatives."""
    return torch.where(_some(unit, generator, 0.2), 1 - unit, unit)


def _some(unit: Tensor, generator: torch.Generator, share: float) -> Tensor:
    return torch.rand(len(unit), 1, 1, 1, generator=generator) < share


def _rows(dataset: ZooDataset, rows: Tensor) -> ZooDataset:
    return replace(
        dataset,
        pixels=dataset.pixels[rows],
        labels=dataset.labels[rows],
        attributes=dataset.attributes[rows],
        said=dataset.said[rows] if dataset.captions else dataset.said,
    )


def _few_classes(count: int) -> Callable[[ZooDataset, torch.Generator], ZooDataset]:
    def keep(dataset: ZooDataset, generator: torch.Generator) -> ZooDataset:
        chosen = torch.randperm(len(dataset.classes), generator=generator)[:count]
        return _rows(dataset, torch.isin(dataset.labels, chosen).nonzero()[:, 0])

    return keep


def _later(dataset: ZooDataset, generator: torch.Generator) -> ZooDataset:
    return _rows(dataset, torch.arange(len(dataset.labels)).roll(len(dataset.labels) // 2))


def _wrong_labels(dataset: ZooDataset, generator: torch.Generator) -> ZooDataset:
    drawn = torch.randint(len(dataset.classes), dataset.labels.shape, generator=generator)
    wrong = torch.rand(len(drawn), generator=generator) < 0.3
    return replace(dataset, labels=torch.where(wrong, drawn, dataset.labels))


def _rare_classes(dataset: ZooDataset, generator: torch.Generator) -> ZooDataset:
    """Keep of class k the share 0.75^k, so that the last ones are rare."""
    kept = torch.rand(len(dataset.labels), generator=generator) < 0.75**dataset.labels
    return _rows(dataset, kept.nonzero()[:, 0])


CHANGES: Mapping[str, Change] = {
    "": Change("nothing"),
    "grey": Change("grey images", grey),
    "noise": Change("noisy images", noisy),
    "blur": Change("half of the images blurred", blurred),
    "tint": Change("tinted images", tinted),
    "pairing": Change("another image shines through", paired),
    "coarse": Change("half of the images coarse", coarse),
    "negative": Change("a fifth of the images as negatives", negative),
    "later": Change("other images", data=_later),
    "two-classes": Change("two classes only", data=_few_classes(2)),
    "five-classes": Change("five classes only", data=_few_classes(5)),
    "label-noise": Change("30 % of the labels drawn at random", data=_wrong_labels),
    "rare": Change("classes of very different sizes", data=_rare_classes),
    "labels-alone": Change("no readings of colours and places", readings=0.25),
}


def change(name: str) -> Change:
    """Return a row of :data:`CHANGES`.

    Raises:
        UnknownNameError: There is none of that name.
    """
    if name not in CHANGES:
        raise UnknownNameError("change of a lineage", name, CHANGES)
    return CHANGES[name]


def images_of(entry: Lineage, dataset: ZooDataset, seed: int) -> ZooDataset:
    """Return what a lineage is trained on; held-out images stay as they are."""
    own = change(entry.change)
    if own.data is not None:
        dataset = own.data(dataset, torch.Generator().manual_seed(seed))
    return _rows(dataset, torch.arange(min(entry.images, len(dataset.labels)))) if entry.images else dataset


def prepare(entry: Lineage, objective: PretrainingObjective) -> None:
    """Tell an objective what its lineage changes about images and readings."""
    own = change(entry.change)
    objective.change, objective.readings = own.view, own.readings
