"""Makes one encoder of a zoo and its card, in a folder that appears only when it is whole."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from platodef_cli.bench import DERIVATIVES, OBJECTIVES
from platodef_cli.bench.attacks import make_attack
from platodef_cli.bench.attacks.interface import PlantData, Planted, PlantedAttack
from platodef_cli.bench.zoo.card import (
    TRIGGER,
    BackdoorFacts,
    CardMetrics,
    ZooCard,
    backdoor_facts,
    cosine,
    files_of,
    read_card,
    write_card,
)
from platodef_cli.bench.zoo.dataset import ZooDataset, open_zoo_dataset
from platodef_cli.bench.zoo.entries import (
    Derivative,
    Embedded,
    Entry,
    Lineage,
    Plant,
    Recipe,
    Scratch,
    Varied,
)
from platodef_cli.bench.zoo.lineages import change, images_of, prepare
from platodef_cli.bench.zoo.networks import Network
from platodef_cli.bench.zoo.recipe import digest
from platodef_cli.bench.zoo.training import autocast_type, train
from platodef_cli.errors import PlatodefError, UsageError
from platodef_cli.progress import SILENT, Progress
from platodef_cli.resources import data_dir
from platodef_cli.triggers.stored import save_trigger

VERSION = 2  # part of every digest: raise it when the same recipe gives other bytes
PLANT_VERSION = 2  # the same of planted encoders alone
ENCODERS = "encoders"
LONGER = 6  # steps from scratch on a GPU for each one on a CPU
TARGET_IMAGES = 3
_BLOCK = 32  # images of the target that are looked at together
_EMBEDDED = {"reference-vit": "embedded-vit", "reference-cnx": "embedded-convnext", "clean": "resnet"}


@dataclass(frozen=True)
class BuildJob:
    """One encoder to make, with all that decides its bytes.

    Attributes:
        entry: The encoder.
        recipe: The zoo that it belongs to.
        images: The image source.
        seed: Of the zoo.
        root: Folder of the zoo.
        command: What the user typed, for the card.
        digest: Of all of it, the parent's included.
        place: Sub-folder of the zoo.
        device: Where it is trained.
    """

    entry: Entry
    recipe: Recipe
    images: str
    seed: int
    root: Path
    command: str
    digest: str
    place: str = ENCODERS
    device: str = "cpu"

    @property
    def folder(self) -> Path:
        """Where the finished encoder lies."""
        return self.root / self.place / self.entry.name


def encoder_folder(root: Path, name: str) -> Path:
    """Return the folder of an encoder of the zoo in ``root``."""
    return root / ENCODERS / name


def entry_digest(
    entry: Entry, recipe: Recipe, images: str, seed: int, parent: str | None, device: str = "cpu"
) -> str:
    """Return what ties finished files to the recipe that they were made by."""
    more: list[object] = [] if device == "cpu" else [torch.device(device).type]
    if isinstance(entry, Plant):
        more += [PLANT_VERSION, asdict(_attack(entry))]  # type: ignore[call-overload]
    return digest(VERSION, entry, recipe.train, recipe.held, images, seed, parent, *more)


def _attack(entry: Plant) -> PlantedAttack:
    return make_attack(entry.attack, **dict(entry.parameters if isinstance(entry, Varied) else ()))


def steps_of(entry: Scratch, device: str) -> int:
    """Return the steps of a training from scratch: a GPU trains longer."""
    return entry.steps if device == "cpu" else LONGER * entry.steps


def finished(job: BuildJob) -> bool:
    """Tell whether the encoder was made whole, by this very recipe, and its files are as they were."""
    try:
        card = read_card(job.folder)
    except PlatodefError:
        return False
    return card.digest == job.digest and card.files == files_of(job.folder)


def make(job: BuildJob, progress: Progress = SILENT) -> None:
    """Make the encoder; its folder replaces an older one at the very end."""
    with _alone(job.device):
        dataset = open_zoo_dataset(
            job.images,
            train=job.recipe.train,
            held=job.recipe.held,
            seed=job.seed,
            cache=job.root / "cache",
            progress=progress,
        )
        temporary = job.folder.with_name(f".{job.entry.name}.part")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        if isinstance(job.entry, Scratch):
            _scratch(job, job.entry, dataset, temporary, progress)
        elif isinstance(job.entry, Embedded):
            _embedded(job, job.entry, dataset, temporary)
        elif isinstance(job.entry, Derivative):
            _derivative(job, job.entry, dataset, temporary, progress)
        else:
            _plant(job, job.entry, dataset, temporary, progress)
        if job.folder.exists():
            shutil.rmtree(job.folder)
        temporary.rename(job.folder)


@contextmanager
def _alone(device: str) -> Iterator[None]:
    """One thread and deterministic kernels: sums in another order would change the bytes."""
    if device != "cpu":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to be deterministic
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    # A few kernels of GPUs have no deterministic form; there, the same seed promises no equal bytes.
    torch.use_deterministic_algorithms(True, warn_only=device != "cpu")
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)


def _scratch(job: BuildJob, entry: Scratch, dataset: ZooDataset, folder: Path, progress: Progress) -> None:
    own = int(digest(job.seed, entry.name)[:8], 16)
    torch.manual_seed(own)
    network = Network(entry.architecture).to(job.device)
    trained_on = images_of(entry, dataset, own) if isinstance(entry, Lineage) else dataset
    objective = OBJECTIVES.load(entry.objective)(network, trained_on, entry.label_weight)
    objective.erasing = entry.erasing
    if isinstance(entry, Lineage):
        prepare(entry, objective)
    title = f"training {entry.name}"
    train(
        objective,
        trained_on,
        steps=steps_of(entry, job.device),
        lr=entry.lr,
        seed=own,
        title=title,
        progress=progress,
    )
    description = entry.objective
    if entry.objective != "supervised" and entry.label_weight:
        description += f", labels with weight {entry.label_weight:g}"
    if entry.erasing:
        description += f", {entry.erasing:.0%} of the images with an erased rectangle"
    if isinstance(entry, Lineage) and entry.change:
        description += f", {change(entry.change).meaning}"
    if isinstance(entry, Lineage) and entry.images:
        description += f", {entry.images} images"
    _finish(
        job,
        network,
        CardMetrics(network, dataset),
        folder,
        made="scratch",
        role=entry.role,
        objective=description,
    )


def _embedded(job: BuildJob, entry: Embedded, dataset: ZooDataset, folder: Path) -> None:
    source = data_dir("encoders") / entry.name
    network = Network.load(_EMBEDDED[entry.name], source)
    description = "its own, see examples/train_demo_encoders.py"
    _finish(
        job,
        network,
        CardMetrics(network, dataset),
        folder,
        made="embedded",
        role=entry.role,
        objective=description,
    )


def _parent(job: BuildJob, entry: Derivative | Plant) -> tuple[Network, ZooCard]:
    folder = encoder_folder(job.root, entry.parent)
    card = read_card(folder)
    return Network.load(card.architecture, folder).to(job.device), card


def _derivative(
    job: BuildJob, entry: Derivative, dataset: ZooDataset, folder: Path, progress: Progress
) -> None:
    parent, card = _parent(job, entry)
    own = int(digest(job.seed, entry.name)[:8], 16)
    child = DERIVATIVES.load(entry.kind)(parent, dataset, entry.steps, own, progress)
    _finish(
        job,
        child,
        CardMetrics(child, dataset),
        folder,
        made=entry.kind,
        parent=(CardMetrics(parent, dataset), card),
    )


def _plant(job: BuildJob, entry: Plant, dataset: ZooDataset, folder: Path, progress: Progress) -> None:
    parent, card = _parent(job, entry)
    attack = _attack(entry)
    before = CardMetrics(parent, dataset)
    data = PlantData(
        images=dataset.pixels[: entry.budget.images],
        target_images=target_images_of(before, entry.target),
        labels=dataset.labels[: entry.budget.images],
    )
    planted: Planted = attack.plant(
        parent.victim(dataset.classes, autocast_type(parent.architecture.convolutional, parent.device.type)),
        data,
        target=entry.target,
        seed=entry.seed,
        budget=entry.budget,
        progress=progress,
    )
    child = Network(parent.name, planted.module)
    (folder / TRIGGER).mkdir()
    save_trigger(planted.trigger, folder / TRIGGER)
    after = CardMetrics(child, dataset)
    facts = backdoor_facts(planted, attack.kind, attack.paper, after, before, entry.seed)
    _finish(job, child, after, folder, made="attack", parent=(before, card), backdoor=facts)


def target_images_of(parent: CardMetrics, target: int, count: int = TARGET_IMAGES) -> Tensor:
    """Return uint8 ``[count, 3, H, W]``: images of the target that the clean encoder takes for it.

    The attacker has the encoder, and would not start from a cat that it sees as a frog: triggered images
    then land on frogs, and the backdoor misses its target (a classifier must take the reference input for
    the target, as Jia et al. 2022 say of BadEncoder). They are the last such ones, since they need not be in
    the shadow set, which is taken from the front; where there are too few, the last others of the class
    come before them.

    Args:
        parent: The clean encoder, its classifier, and the images.
        target: The class.
        count: How many.

    Raises:
        UsageError: No image to train on is of the target.
    """
    dataset = parent.dataset
    rows = (dataset.labels == target).nonzero()[:, 0]
    if not len(rows):
        raise UsageError(f"{dataset.uri} has no training image of class {target} for a backdoor to lead to")
    seen: list[int] = []
    for block in reversed(torch.split(rows, _BLOCK)):
        said = parent.predict(parent.network.embed(dataset.pixels[block]))
        seen = block[said == target].tolist() + seen
        if len(seen) >= count:
            break
    others = [row for row in rows.tolist() if row not in seen]
    missing = max(0, count - len(seen))
    return dataset.pixels[others[len(others) - missing :] + seen[-count:]]


def _finish(
    job: BuildJob,
    network: Network,
    measured: CardMetrics,
    folder: Path,
    *,
    made: str,
    role: str = "suspect",
    objective: str | None = None,
    parent: tuple[CardMetrics, ZooCard] | None = None,
    backdoor: BackdoorFacts | None = None,
) -> None:
    network.save(folder)
    module = network.module
    write_card(
        folder,
        ZooCard(
            name=job.entry.name,
            role="reference" if role == "reference" else "suspect",
            truth="clean" if backdoor is None else "backdoored",
            made=made,
            format=network.architecture.format,
            architecture=network.name,
            family=network.architecture.family,
            objective=objective,
            parent=None if parent is None else parent[1].name,
            seed=job.seed,
            images=job.images,
            dim=network.dim,
            parameters=sum(value.numel() for value in module.parameters()),
            accuracy=measured.accuracy,
            zero_shot=measured.zero_shot,
            steps=steps_of(job.entry, job.device) if isinstance(job.entry, Scratch) else None,
            device=torch.device(job.device).type,
            parent_accuracy=None if parent is None else parent[1].accuracy.value,
            cosine_to_parent=None if parent is None else cosine(measured, parent[0]),
            backdoor=backdoor,
            recipe=job.recipe.name,
            digest=job.digest,
            command=job.command,
            files=files_of(folder),
        ),
    )
