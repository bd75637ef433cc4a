"""What a zoo consists of: the kinds of encoders, and a recipe of them, as data."""

from dataclasses import dataclass
from typing import Literal

from platodef_cli.bench.attacks.interface import PlantingBudget

Role = Literal["reference", "suspect"]


@dataclass(frozen=True)
class Scratch:
    """A clean encoder trained from scratch.

    Attributes:
        name: Its folder.
        role: References judge, suspects are judged; attacks and derivatives start from suspects.
        architecture: A row of :data:`platodef_cli.bench.zoo.networks.ARCHITECTURES`.
        objective: A row of :data:`platodef_cli.bench.OBJECTIVES`.
        steps: Optimiser steps of 128 images.
        lr: Largest learning rate.
        label_weight: Weight of the labels' cross-entropy in a self-supervised objective.
        erasing: Share of the training images with an erased rectangle.
    """

    name: str
    role: Role
    architecture: str
    objective: str
    steps: int
    lr: float = 2e-3
    label_weight: float = 0.5
    erasing: float = 0.0


@dataclass(frozen=True)
class Lineage(Scratch):
    """A clean encoder of a calibration: one of many that differ in everything that honest encoders differ in.

    Attributes:
        change: A row of :data:`platodef_cli.bench.zoo.lineages.CHANGES`: what is unusual about its images,
            its labels or its training. Empty: nothing.
        images: Images to train on, from the first of the recipe's. 0: all.
    """

    change: str = ""
    images: int = 0


@dataclass(frozen=True)
class Derivative:
    """A benign descendant of a clean encoder; it must not be flagged.

    Attributes:
        parent: Name of the clean encoder.
        kind: A row of :data:`platodef_cli.bench.DERIVATIVES`.
        steps: Optimiser steps, where it is trained.
    """

    parent: str
    kind: str
    steps: int

    @property
    def name(self) -> str:
        """``PARENT-KIND``."""
        return f"{self.parent}-{self.kind}"


@dataclass(frozen=True)
class Plant:
    """A backdoored descendant of a clean encoder.

    Attributes:
        parent: Name of the clean encoder.
        attack: A row of :data:`platodef_cli.bench.attacks.PLANTED`.
        target: Class that the backdoor leads to.
        seed: Draws the trigger and the planting.
        name: Its folder.
        budget: How much work.
    """

    parent: str
    attack: str
    target: int
    seed: int
    name: str
    budget: PlantingBudget


@dataclass(frozen=True)
class Varied(Plant):
    """A backdoored descendant whose attack has other parameters than by default.

    Attributes:
        parameters: Name -> value of the attack's fields that differ.
    """

    parameters: tuple[tuple[str, float | int | str], ...] = ()


@dataclass(frozen=True)
class Embedded:
    """A clean encoder that platodef carries, trained on shapes by ``examples/train_demo_encoders.py``.

    Attributes:
        name: Its folder, and its name after ``builtin:``.
        role: As in :class:`Scratch`.
    """

    name: str
    role: Role


Entry = Scratch | Embedded | Derivative | Plant


@dataclass(frozen=True)
class Recipe:
    """A zoo.

    Attributes:
        name: Of the recipe.
        train: Most images to train on.
        held: Images that the cards are measured on, half of them to fit the probe.
        scratch: The clean encoders that have no parent.
        derivatives: Their benign descendants.
        unimodal: Parents of the unimodal attacks, taken in turn.
        image_text: Parents of the image–text attacks, taken in turn.
        variants: Seeds (with targets and parents) per unimodal attack.
        text_variants: The same per image–text attack.
        budget: How much work a unimodal attack may be.
        text_budget: How much work an image–text attack may be; it sees the trigger in a part of the pairs.
        planted: Plantings that are stated one by one; with them, those of the table of attacks are not made.
    """

    name: str
    train: int
    held: int
    scratch: tuple[Scratch | Embedded, ...]
    derivatives: tuple[Derivative, ...]
    unimodal: tuple[str, ...]
    image_text: tuple[str, ...]
    variants: int
    text_variants: int
    budget: PlantingBudget
    text_budget: PlantingBudget
    planted: tuple[Plant, ...] = ()
