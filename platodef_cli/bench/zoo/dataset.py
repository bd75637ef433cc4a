"""The labelled images that a zoo is made of, decoded once to 32 x 32 pixels."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from platodef_cli.bench.zoo.networks import SIDE
from platodef_cli.disk import replacing, save_tensors
from platodef_cli.encoders.geometry import Geometry
from platodef_cli.errors import UsageError
from platodef_cli.features.extract import load_pixels
from platodef_cli.images.open import open_source
from platodef_cli.images.shapes import CLASSES, TEXTURES, render, scenes
from platodef_cli.progress import SILENT, Progress

GEOMETRY = Geometry((SIDE, SIDE), SIDE, "bicubic")
SHAPES = "builtin:shapes"


@dataclass(frozen=True, eq=False)
class ZooDataset:
    """Images to train on and images to measure on.

    Attributes:
        uri: The image source.
        classes: Class names in label order.
        pixels: uint8 ``[N, 3, 32, 32]``, to train on.
        labels: int64 ``[N]``.
        attributes: float32 ``[N, A]``, what else is known about the images to train on, each around 0 with
            deviation 1 (place, size, colours and texture of shapes); A is 0 for other sources.
        held_pixels: uint8 ``[H, 3, 32, 32]``, never trained on.
        held_labels: int64 ``[H]``.
    """

    uri: str
    classes: tuple[str, ...]
    pixels: Tensor
    labels: Tensor
    attributes: Tensor
    held_pixels: Tensor
    held_labels: Tensor


def open_zoo_dataset(
    uri: str, *, train: int, held: int, seed: int, cache: Path | None = None, progress: Progress = SILENT
) -> ZooDataset:
    """Decode the images of a zoo, or read them back from its folder.

    Args:
        uri: Any labelled image source; ``builtin:shapes`` without options draws shapes of its own.
        train: Most training images.
        held: Images to measure on.
        seed: Draws the split (or the shapes).
        cache: Folder for the decoded images, so that every process of a build need not decode again.
        progress: Receives the decoding.

    Raises:
        UsageError: The source has no labels, or too few images.
    """
    place = None
    if cache is not None:
        key = hashlib.sha256(repr((uri, train, held, seed, "world 3")).encode()).hexdigest()[:16]
        place = cache / f"images-{key}.safetensors"
        stored = _stored(place)
        if stored is not None:
            return _dataset(uri, stored[0], stored[1])
    classes, tensors = (
        _shapes(train, held, seed) if uri == SHAPES else _decoded(uri, train, held, seed, progress)
    )
    if place is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(place) as temporary:
            save_tensors(tensors, temporary, {"classes": "\n".join(classes)})
    return _dataset(uri, classes, tensors)


def _dataset(uri: str, classes: tuple[str, ...], tensors: dict[str, Tensor]) -> ZooDataset:
    return ZooDataset(uri, classes, **tensors)


def _stored(place: Path) -> tuple[tuple[str, ...], dict[str, Tensor]] | None:
    from safetensors import safe_open

    try:
        with safe_open(place, "pt") as file:
            classes = tuple(file.metadata()["classes"].split("\n"))
        return classes, load_file(place)
    except (OSError, SafetensorError, KeyError, TypeError):
        return None


def shapes_seeds(seed: int) -> tuple[int, int]:
    """Return the seeds of the shapes that a zoo is trained on, and of those that its cards are measured on.

    They are far from the seeds that people give to ``builtin:shapes`` for audits and benchmarks.
    """
    return 700_001 + 2 * seed, 700_002 + 2 * seed


def _shapes(train: int, held: int, seed: int) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    parts = {}
    seeds = shapes_seeds(seed)
    for name, shapes_seed, count in zip(("", "held_"), seeds, (train, held), strict=True):
        pixels, labels = render(shapes_seed, np.arange(count))
        parts[f"{name}pixels"], parts[f"{name}labels"] = torch.from_numpy(pixels), torch.from_numpy(labels)
    scene = scenes(seeds[0], np.arange(train))
    texture = np.eye(len(TEXTURES), dtype=np.float32)[scene.texture]
    columns = [scene.centre, scene.radius[:, None], scene.colour, scene.background, texture]
    attributes = torch.from_numpy(np.concatenate(columns, axis=1)).float()
    parts["attributes"] = (attributes - attributes.mean(0)) / attributes.std(0)
    return CLASSES, parts


def _decoded(
    uri: str, train: int, held: int, seed: int, progress: Progress
) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    source = open_source(uri)
    if source.classes is None or any(ref.label is None for ref in source.refs):
        raise UsageError(f"{uri} has images without labels; a zoo needs labelled images")
    count = len(source.refs)
    if count < 2 * held:
        raise UsageError(f"{uri} has {count} images; the recipe needs at least {2 * held}")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    tensors = {}
    for name, rows in (("held_", order[:held]), ("", order[held : held + train])):
        rows = sorted(rows)
        tensors[f"{name}pixels"] = load_pixels(source, [GEOMETRY], rows, progress)[GEOMETRY]
        tensors[f"{name}labels"] = torch.tensor([source.refs[row].label for row in rows])
    # Sorted rows of a source that is ordered by class would make batches of one class, and halves of the
    # held-out images with different classes.
    for number, name in enumerate(("", "held_")):
        generator = torch.Generator().manual_seed(seed + 1 + number)
        mixed = torch.randperm(len(tensors[f"{name}labels"]), generator=generator)
        for part in ("pixels", "labels"):
            tensors[f"{name}{part}"] = tensors[f"{name}{part}"][mixed].clone()
    tensors["attributes"] = torch.empty(len(tensors["labels"]), 0)
    return tuple(source.classes), tensors
