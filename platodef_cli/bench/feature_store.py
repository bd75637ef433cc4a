"""What every cell works on: images in three roles, and features of suspects and references on them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from platodef_cli.audit.inputs import Split, split
from platodef_cli.bench.zoo.card import TRIGGER, ZooCard, read_card
from platodef_cli.bench.zoo.dataset import GEOMETRY
from platodef_cli.bench.zoo.manifest import Zoo
from platodef_cli.bench.zoo.networks import Network, pooling_of
from platodef_cli.encoders.interface import Encoder
from platodef_cli.encoders.load import open_encoder
from platodef_cli.errors import InconclusiveError, UsageError
from platodef_cli.features.extract import image_seeds, load_pixels
from platodef_cli.features.interface import Samples, Variant
from platodef_cli.images.open import open_source
from platodef_cli.progress import SILENT, Progress
from platodef_cli.triggers.stored import load_trigger

BATCH = 256
FEWEST = 400  # images; below it the three roles are too small to say anything


@dataclass(frozen=True, eq=False)
class BenchmarkImages:
    """The images of a benchmark.

    Attributes:
        uri: Their source.
        digest: SHA-256 over the hash and the label of every image.
        classes: Class names.
        pixels: uint8 ``[N, 3, 32, 32]``.
        labels: int64 ``[N]``.
        seeds: int64 ``[N]`` for triggers.
    """

    uri: str
    digest: str
    classes: tuple[str, ...]
    pixels: Tensor
    labels: Tensor
    seeds: Tensor

    def roles(self, seed: int) -> Split:
        """Draw which images fit, calibrate and test, as an audit does."""
        return split(len(self.labels), seed)


def open_benchmark_images(
    uri: str, limit: int | None, classes: Sequence[str], progress: Progress = SILENT
) -> BenchmarkImages:
    """Decode the images of a benchmark.

    Args:
        uri: Their source.
        limit: Use so many of them.
        classes: Of the zoo; labels are numbered in this order, whatever the order of the source.
        progress: Receives the decoding.

    Raises:
        UsageError: They have no labels, or other classes.
        InconclusiveError: They are too few.
    """
    source = open_source(uri, limit=limit)
    if source.classes is None or any(ref.label is None for ref in source.refs):
        raise UsageError(f"{uri} has images without labels; the benchmark needs labelled images")
    if len(source.refs) < FEWEST:
        raise InconclusiveError(
            f"{len(source.refs)} images are too few for a benchmark; give at least {FEWEST}"
        )
    if sorted(source.classes) != sorted(classes):
        raise UsageError(
            f"the classes of {uri} ({_listed(source.classes)}) are not those that the zoo was made for "
            f"({_listed(classes)}); give images of the same classes"
        )
    number = {name: label for label, name in enumerate(classes)}
    labels = [number[source.classes[ref.label]] for ref in source.refs if ref.label is not None]
    digest = hashlib.sha256()
    for ref, label in zip(source.refs, labels, strict=True):
        digest.update(f"{ref.digest} {label}\n".encode())
    pixels = load_pixels(source, [GEOMETRY], range(len(labels)), progress)[GEOMETRY]
    return BenchmarkImages(
        source.uri,
        digest.hexdigest(),
        tuple(classes),
        pixels,
        torch.tensor(labels, dtype=torch.int64),
        image_seeds(source.refs),
    )


def public_uri(uri: str) -> str:
    """Return an image source without the folders of this machine."""
    return uri if uri.startswith(("builtin:", "hf://")) else uri.rsplit("/", 1)[-1]


def _listed(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


@dataclass
class FeatureStore:
    """Opens encoders of a zoo and computes their features; clean ones are kept.

    Attributes:
        zoo: The zoo.
        images: The images.
        extra: Name -> folder of encoders that are not of the zoo (references backdoored for Table 2).
        used: Names of the encoders whose numbers were asked for.
    """

    zoo: Zoo
    images: BenchmarkImages
    extra: dict[str, Path] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    _encoders: dict[str, Encoder] = field(default_factory=dict)
    _clean: dict[str, Tensor] = field(default_factory=dict)

    def encoder(self, name: str) -> Encoder:
        """Return an encoder, loaded as strictly as an audit loads it."""
        if name not in self._encoders:
            folder = self.extra.get(name) or self.zoo.folder(name)
            pooling = pooling_of(read_card(folder).architecture)
            self._encoders[name] = open_encoder(str(folder), name=name, pooling=pooling)
        return self._encoders[name]

    def close(self) -> None:
        """Free the encoders."""
        for encoder in self._encoders.values():
            encoder.close()
        self._encoders.clear()

    def embed(self, name: str, pixels: Tensor) -> Tensor:
        """Return features ``[N, D]`` of uint8 ``[N, 3, 32, 32]``."""
        encoder = self.encoder(name)
        if not len(pixels):
            return torch.zeros(0, encoder.dim)
        return torch.cat([encoder.embed(block) for block in torch.split(pixels, BATCH)])

    def clean(self, name: str) -> Tensor:
        """Return features ``[N, D]`` of all clean images."""
        if name not in self._clean:
            self._clean[name] = self.embed(name, self.images.pixels)
        return self._clean[name]

    def samples(self, suspect: str, references: Sequence[str], rows: Sequence[int]) -> Samples:
        """Return the clean samples of the given images."""
        at = torch.tensor(rows, dtype=torch.int64)
        return Samples(
            source=self.clean(suspect)[at],
            references={name: self.clean(name)[at] for name in references},
            labels=self.images.labels[at],
            images=self.images.pixels[at],
        )

    def changed(
        self, suspect: str, references: Sequence[str], rows: Sequence[int], trigger: Variant
    ) -> Samples:
        """Return the samples of the given images under a trigger."""
        at = torch.tensor(rows, dtype=torch.int64)
        pixels = trigger(self.images.pixels[at], self.images.seeds[at])
        return self.of_pixels(suspect, references, pixels, self.images.labels[at])

    def of_pixels(self, suspect: str, references: Sequence[str], pixels: Tensor, labels: Tensor) -> Samples:
        """Return the samples of ready pixels uint8 ``[N, 3, 32, 32]``."""
        return Samples(
            source=self.embed(suspect, pixels),
            references={name: self.embed(name, pixels) for name in references},
            labels=labels,
            images=pixels,
        )

    def trigger(self, card: ZooCard) -> Variant:
        """Return the trigger that opens a planted encoder."""
        return load_trigger(self.zoo.folder(card.name) / TRIGGER)

    def prompts(self, card: ZooCard) -> Tensor | None:
        """Return the class prompts ``[C, D]`` of an encoder's own text tower; None where it has none."""
        network = Network.load(card.architecture, self.zoo.folder(card.name))
        return network.prompts(self.zoo.manifest.classes)

    def identity(self, names: Sequence[str]) -> Mapping[str, str]:
        """Return name -> digest of the encoders' files, for keys of cells; they count as used."""
        self.used.update(names)
        return {name: self.encoder(name).record.digest for name in names}
