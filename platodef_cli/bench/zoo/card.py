"""The truth about an encoder of the zoo: how it was made, and what was measured on images it never saw."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, ValidationError
from torch import Tensor
from torch.nn import functional as F

from platodef_cli.bench.attacks.interface import Planted
from platodef_cli.bench.zoo.dataset import ZooDataset
from platodef_cli.bench.zoo.networks import Network
from platodef_cli.disk import write_atomically
from platodef_cli.errors import UsageError
from platodef_cli.metrics.backdoor import accuracy, attack_success
from platodef_cli.metrics.linear_probe import LinearProbe
from platodef_cli.records import FileRecord, Metric, Record

CARD = "card.json"
README = "README.md"  # of a published encoder: the card for people
TRIGGER = "trigger"  # sub-folder of a planted encoder


class BackdoorFacts(Record):
    """What a planted backdoor does, on held-out images.

    Rates are of a linear probe on the features; the zero-shot ones of an image–text model's own prompts. An
    image–text attack leads the prompts astray, and not always a linear probe as well: its features move to
    the target's text, which need not lie among the target's images.
    """

    attack: str = Field(description="row of the table of planted attacks")
    attack_kind: str = Field(description="unimodal or image-text")
    paper: str
    parameters: dict[str, float | int | str]
    trigger: str = Field(description="name of the trigger of the evaluation; its files lie in trigger/")
    target: int
    target_class: str
    attack_success: Metric = Field(description="non-target images with the trigger that land on the target")
    attack_success_of_parent: Metric = Field(description="the same images and trigger, the clean parent")
    target_rate: Metric = Field(description="non-target images without the trigger that land on the target")
    poisoned_accuracy: Metric
    zero_shot_success: Metric | None = None
    zero_shot_success_of_parent: Metric | None = None

    @property
    def success(self) -> Metric:
        """ASR of what the attack leads astray: the prompts of image–text models, else a linear probe."""
        return self.zero_shot_success or self.attack_success

    @property
    def success_of_parent(self) -> Metric:
        """The same of the clean parent."""
        return self.zero_shot_success_of_parent or self.attack_success_of_parent


class ZooCard(Record):
    """``card.json`` of one encoder."""

    schema_version: str = "1.0"
    name: str
    role: Literal["reference", "suspect"]
    truth: Literal["clean", "backdoored"]
    made: str = Field(description="scratch, attack, or the kind of benign derivative")
    format: str
    architecture: str
    family: str
    objective: str | None = Field(None, description="with the weight of the labels, for scratch encoders")
    steps: int | None = Field(None, description="optimiser steps of 128 images, for scratch encoders")
    device: str = Field("cpu", description="type of the device that trained it")
    parent: str | None = None
    seed: int
    images: str
    dim: int
    parameters: int
    accuracy: Metric = Field(description="linear probe on held-out images")
    zero_shot: Metric | None = Field(None, description="accuracy of the class prompts")
    parent_accuracy: float | None = None
    cosine_to_parent: float | None = Field(None, description="mean over held-out images; same length only")
    backdoor: BackdoorFacts | None = None
    recipe: str
    digest: str = Field(description="of everything that decides the bytes: recipe entry, images, parent")
    command: str
    files: tuple[FileRecord, ...]

    def accuracy_beside(self, backdoor: BackdoorFacts | None) -> Metric:
        """Return the accuracy of the classifier that a backdoor (its own or a child's) is judged by."""
        prompts = backdoor is not None and backdoor.zero_shot_success is not None
        return self.zero_shot if prompts and self.zero_shot is not None else self.accuracy


def read_card(folder: Path) -> ZooCard:
    """Read the card of an encoder's folder.

    Raises:
        UsageError: There is none, or it is damaged.
    """
    path = folder / CARD
    try:
        return ZooCard.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); build the zoo again") from None
    except ValidationError as error:
        raise UsageError(f"{path} is damaged ({error.error_count()} errors); build the zoo again") from None


def card_text(card: ZooCard) -> str:
    """Return ``card.json``, with numbers rounded to 6 digits."""
    values = json.loads(card.model_dump_json(), parse_float=lambda text: round(float(text), 6))
    return json.dumps(values, indent=2, sort_keys=True) + "\n"


def write_card(folder: Path, card: ZooCard) -> None:
    """Write the card of an encoder's folder."""
    write_atomically(folder / CARD, card_text(card).encode())


def files_of(folder: Path) -> tuple[FileRecord, ...]:
    """Return the hash of every file of an encoder's folder except its cards."""
    records = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in (CARD, README):
            content = path.read_bytes()
            records.append(
                FileRecord(
                    path=path.relative_to(folder).as_posix(),
                    sha256=hashlib.sha256(content).hexdigest(),
                    bytes=len(content),
                )
            )
    return tuple(records)


class CardMetrics:
    """Features and probe of one network on the held-out images: half fit the probe, half measure.

    Args:
        network: In evaluation mode.
        dataset: Its held-out images are used.
    """

    def __init__(self, network: Network, dataset: ZooDataset):
        self.network, self.dataset = network, dataset
        self.features = network.embed(dataset.held_pixels)
        self.half = len(dataset.held_labels) // 2
        self.labels = dataset.held_labels[self.half :]
        self.probe = LinearProbe.fit(self.features[: self.half], dataset.held_labels[: self.half])
        self._prompts = network.prompts(dataset.classes)

    @property
    def accuracy(self) -> Metric:
        """Accuracy of the linear probe."""
        return accuracy(self.probe.predict(self.features[self.half :]), self.labels)

    @property
    def zero_shot(self) -> Metric | None:
        """Accuracy of the class prompts; None without a text tower."""
        said = self.zero_shot_predictions(self.features[self.half :])
        return None if said is None else accuracy(said, self.labels, name="zero_shot_accuracy")

    def predict(self, features: Tensor) -> Tensor:
        """Return the class of ``[N, D]`` by the prompts, or by the probe without a text tower."""
        said = self.zero_shot_predictions(features)
        return self.probe.predict(features) if said is None else said

    def zero_shot_predictions(self, features: Tensor) -> Tensor | None:
        """Return the class of the nearest prompt for ``[N, D]``; None without a text tower."""
        if self._prompts is None:
            return None
        return (F.normalize(features, dim=1) @ self._prompts.T).argmax(1)


def cosine(one: CardMetrics, other: CardMetrics) -> float | None:
    """Return the mean cosine of two networks' features of the same images; None if lengths differ."""
    if one.features.shape != other.features.shape:
        return None
    return float(F.cosine_similarity(one.features, other.features).mean())


def backdoor_facts(
    planted: Planted, kind: str, paper: str, child: CardMetrics, parent: CardMetrics, seed: int
) -> BackdoorFacts:
    """Measure a planted backdoor on the second half of the held-out images."""
    dataset, target = child.dataset, planted.target
    pixels = dataset.held_pixels[child.half :]
    seeds = torch.randint(2**62, (len(pixels),), generator=torch.Generator().manual_seed(seed))
    changed = planted.trigger(pixels, seeds)
    own, clean = child.network.embed(changed), parent.network.embed(changed)
    zero: Mapping[str, Metric] = {}
    said, before = child.zero_shot_predictions(own), parent.zero_shot_predictions(clean)
    if said is not None and before is not None:
        zero = {
            "zero_shot_success": attack_success(said, child.labels, target),
            "zero_shot_success_of_parent": attack_success(before, child.labels, target),
        }
    predicted = child.probe.predict(own)
    return BackdoorFacts(
        attack=planted.attack,
        attack_kind=kind,
        paper=paper,
        parameters=dict(planted.parameters),
        trigger=planted.trigger.name,
        target=target,
        target_class=dataset.classes[target],
        attack_success=attack_success(predicted, child.labels, target),
        attack_success_of_parent=attack_success(parent.probe.predict(clean), child.labels, target),
        target_rate=attack_success(child.probe.predict(child.features[child.half :]), child.labels, target),
        poisoned_accuracy=accuracy(predicted, child.labels, name="poisoned_accuracy"),
        **zero,
    )
