"""What sets the lineages of a calibration apart."""

import pytest
import torch

from platodef_cli.bench import DERIVATIVES, OBJECTIVES
from platodef_cli.bench.zoo.dataset import ZooDataset
from platodef_cli.bench.zoo.entries import Lineage
from platodef_cli.bench.zoo.lineages import CHANGES, images_of, prepare
from platodef_cli.bench.zoo.networks import Network
from platodef_cli.bench.zoo.training import train
from platodef_cli.errors import UnknownNameError

CLASSES = tuple(f"class-{number}" for number in range(6))


@pytest.fixture(scope="module")
def dataset() -> ZooDataset:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (240, 3, 32, 32), generator=generator).to(torch.uint8)
    labels = torch.arange(240) % len(CLASSES)
    attributes = torch.randn(240, 4, generator=generator)
    return ZooDataset("test:", CLASSES, pixels, labels, attributes, pixels[:12], labels[:12])


def lineage(change: str, images: int = 0) -> Lineage:
    return Lineage("x", "suspect", "densenet", "supervised", 2, change=change, images=images)


@pytest.mark.parametrize("name", [name for name, row in CHANGES.items() if row.view is not None])
def test_views_stay_images_and_depend_on_the_generator_alone(name: str) -> None:
    view = CHANGES[name].view
    assert view is not None
    unit = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    once, again = (view(unit.clone(), torch.Generator().manual_seed(2)) for _ in range(2))
    assert once.shape == unit.shape
    assert torch.equal(once, again)
    assert 0 <= float(once.min()) <= float(once.max()) <= 1
    assert not torch.equal(once, unit)


def test_grey_images_have_no_colours() -> None:
    view = CHANGES["grey"].view
    assert view is not None
    grey = view(torch.rand(2, 3, 4, 4), torch.Generator())
    assert torch.equal(grey[:, 0], grey[:, 1])
    assert torch.equal(grey[:, 1], grey[:, 2])


def test_images_of_a_lineage(dataset: ZooDataset) -> None:
    two = images_of(lineage("two-classes"), dataset, seed=3)
    assert len(two.labels.unique()) == 2
    assert len(two.labels) == len(two.pixels) == len(two.attributes) == 80
    assert torch.equal(two.held_pixels, dataset.held_pixels)
    noisy = images_of(lineage("label-noise"), dataset, seed=3)
    assert 0.15 < float((noisy.labels != dataset.labels).float().mean()) < 0.4
    later = images_of(lineage("later", images=100), dataset, seed=3)
    assert torch.equal(later.pixels, dataset.pixels[120:220])
    rare = images_of(lineage("rare"), dataset, seed=3)
    counts = torch.bincount(rare.labels, minlength=6)
    assert counts[0] == 40
    assert counts[5] < counts[0] / 2
    with pytest.raises(UnknownNameError, match="change of a lineage"):
        images_of(lineage("unheard-of"), dataset, seed=3)


def test_readings_can_be_left_out(dataset: ZooDataset) -> None:
    torch.manual_seed(0)
    network = Network("densenet")
    objective = OBJECTIVES.load("supervised")(network, dataset, 0.0)
    prepare(lineage("labels-alone"), objective)
    assert (objective.readings, objective.change) == (0.25, None)
    prepare(lineage("grey"), objective)
    assert objective.readings == 1.0
    assert objective.change is CHANGES["grey"].view


def test_adversarial_training_takes_a_step_and_leaves_weights_finite(dataset: ZooDataset) -> None:
    torch.manual_seed(0)
    network = Network("densenet")
    before = [value.clone() for value in network.module.parameters()]
    objective = OBJECTIVES.load("adversarial")(network, dataset, 0.0)
    train(objective, dataset, steps=2, lr=1e-3, seed=0)
    after = list(network.module.parameters())
    assert any(not torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert all(bool(value.isfinite().all()) for value in after)


@torch.no_grad()
def test_low_rank_keeps_most_of_every_matrix(dataset: ZooDataset) -> None:
    torch.manual_seed(0)
    parent = Network("densenet")
    child = DERIVATIVES.load("low-rank")(parent, dataset, 0, 0)
    changed = 0
    for one, other in zip(parent.module.parameters(), child.module.parameters(), strict=True):
        lost = float((one - other).square().sum() / one.square().sum().clamp_min(1e-12))
        assert lost <= 0.05 + 1e-4
        if one.ndim >= 2 and lost > 1e-6:
            changed += 1
            ranks = [int(torch.linalg.matrix_rank(value.detach().flatten(1))) for value in (one, other)]
            assert ranks[1] < ranks[0]
    assert changed
