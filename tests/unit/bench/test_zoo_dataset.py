from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from platodef_cli.bench import OBJECTIVES
from platodef_cli.bench.zoo.augment import erase, strong, weak
from platodef_cli.bench.zoo.dataset import open_zoo_dataset
from platodef_cli.bench.zoo.entries import Scratch
from platodef_cli.bench.zoo.masked import MaskedImages, patches, visible_tokens
from platodef_cli.bench.zoo.networks import ARCHITECTURES, Network
from platodef_cli.bench.zoo.objectives import Batch, nt_xent
from platodef_cli.bench.zoo.recipe import RECIPES
from platodef_cli.bench.zoo.training import batches
from platodef_cli.errors import UsageError


def folder_of_images(root: Path, classes: int = 2, count: int = 10) -> Path:
    """Write ``count`` plain images per class, each of a colour of its own."""
    for label in range(classes):
        (root / f"class{label}").mkdir(parents=True)
        for number in range(count):
            colour = (8 * number, 200 * label // (classes - 1), 5)
            Image.new("RGB", (40, 40), colour).save(root / f"class{label}" / f"{number}.png")
    return root


def test_any_labelled_source_makes_a_dataset(tmp_path: Path) -> None:
    uri = str(folder_of_images(tmp_path / "images"))
    dataset = open_zoo_dataset(uri, train=100, held=6, seed=0, cache=tmp_path / "cache")
    assert dataset.classes == ("class0", "class1")
    assert dataset.pixels.shape == (14, 3, 32, 32)
    assert dataset.held_pixels.shape == (6, 3, 32, 32)
    # no image is in both parts, and each keeps its label
    colours = torch.cat([dataset.pixels, dataset.held_pixels])[:, :, 16, 16]
    assert len({tuple(colour.tolist()) for colour in colours}) == 20
    labels = torch.cat([dataset.labels, dataset.held_labels])
    assert torch.equal(labels, (colours[:, 1] > 100).long())
    again = open_zoo_dataset(uri, train=100, held=6, seed=0, cache=tmp_path / "cache")
    assert torch.equal(again.pixels, dataset.pixels)
    assert again.classes == dataset.classes
    network = Network("resnet")
    objective = OBJECTIVES.load("supervised")(network, dataset, 0.5)
    loss = objective(Batch.of(dataset, torch.arange(4)), torch.Generator().manual_seed(0))
    assert torch.isfinite(loss)


def test_both_halves_of_the_held_out_images_have_every_class(tmp_path: Path) -> None:
    """A folder is ordered by class; one half of the held-out images fits the probe of the other."""
    dataset = open_zoo_dataset(
        str(folder_of_images(tmp_path, classes=4, count=30)), train=60, held=60, seed=0
    )
    for half in (dataset.held_labels[:30], dataset.held_labels[30:]):
        assert set(half.tolist()) == {0, 1, 2, 3}
    colours = dataset.held_pixels[:, :, 16, 16].long()
    assert torch.equal(
        dataset.held_labels, torch.round(colours[:, 1] * 3 / 200).long()
    )  # each keeps its label


def test_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    first = open_zoo_dataset("builtin:shapes", train=20, held=10, seed=3, cache=tmp_path)
    (stored,) = tmp_path.iterdir()
    stored.write_bytes(b"damaged")
    again = open_zoo_dataset("builtin:shapes", train=20, held=10, seed=3, cache=tmp_path)
    assert torch.equal(again.pixels, first.pixels)
    other = open_zoo_dataset("builtin:shapes", train=20, held=10, seed=4, cache=tmp_path)
    assert not torch.equal(other.pixels, first.pixels)


def test_images_without_labels_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match="without labels"):
        open_zoo_dataset(str(tmp_path), train=10, held=1, seed=0)


def test_every_image_is_seen_once_per_pass() -> None:
    rows = torch.cat(list(batches(10, 5, torch.Generator().manual_seed(0), size=4)))
    assert sorted(rows[:10].tolist()) == list(range(10))
    assert sorted(rows[10:].tolist()) == list(range(10))


def test_nt_xent_against_the_definition() -> None:
    projected = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = [row / row.norm() for row in projected]
    total = 0.0
    for i in range(6):
        j = (i + 3) % 6
        others = sum(torch.exp(z[i] @ z[k] / 0.5) for k in range(6) if k != i)
        total -= float(torch.log(torch.exp(z[i] @ z[j] / 0.5) / others))
    assert float(nt_xent(projected, 0.5)) == pytest.approx(total / 6)


def test_a_view_of_all_patches_is_the_whole_image() -> None:
    for name in ("vit", "vit-transformers"):
        network = Network(name)
        network.module.eval()
        inputs = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        order = torch.stack(
            [torch.arange(16), torch.arange(16).flip(0)]
        )  # the order of patches is irrelevant
        tokens = visible_tokens(network, inputs, order)
        torch.testing.assert_close(tokens[:, 0], network.run(network.module, inputs), rtol=1e-4, atol=1e-5)


def test_patches_run_row_by_row() -> None:
    image = torch.arange(16.0).reshape(1, 1, 4, 4).expand(1, 3, 4, 4)
    assert patches(image, 2)[0, 1, :4].tolist() == [2.0, 3.0, 6.0, 7.0]


def test_erasing_covers_one_rectangle_with_one_colour() -> None:
    unit = torch.rand(400, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    changed = erase(unit, torch.Generator().manual_seed(1), 0.5)
    different = (changed != unit).any(1)  # [B, H, W]
    touched = different.flatten(1).any(1)
    assert 150 < int(touched.sum()) < 250
    for row in touched.nonzero()[:, 0].tolist():
        ys, xs = different[row].nonzero(as_tuple=True)
        block = changed[row, :, ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
        assert different[row].sum() == block[0].numel()  # a full rectangle
        assert (block == block[:, :1, :1]).all()
        assert all(4 <= side <= 13 for side in block.shape[1:])
    state = (generator := torch.Generator().manual_seed(1)).get_state()
    assert erase(unit, generator, 0.0) is unit
    assert torch.equal(generator.get_state(), state)


def test_references_are_told_about_erased_images_and_suspects_are_not() -> None:
    for name in ("small", "standard"):
        for entry in RECIPES[name].scratch:
            if isinstance(entry, Scratch):
                assert (entry.erasing > 0) == (entry.role == "reference")


@pytest.mark.parametrize(
    "objective", ["supervised", "simclr", "self-distillation", "image-text", "image-caption"]
)
def test_every_objective_erases(objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_zoo_dataset("builtin:shapes", train=12, held=4, seed=0)
    made = OBJECTIVES.load(objective)(Network("clip-resnet"), dataset, 0.5)
    made.erasing, seen = 1.0, []
    real = made.network.encode
    monkeypatch.setattr(made.network, "encode", lambda view: (seen.append(view), real(view))[1])
    made(Batch.of(dataset, torch.arange(8)), torch.Generator().manual_seed(0))
    flat = [int((image[0] == image[0].flatten().mode().values).sum()) for image in seen[0]]
    assert min(flat) >= 4 * 4


@pytest.mark.parametrize(
    ("objective", "architecture"),
    [
        ("supervised", "convnext"),
        ("simclr", "resnet-deep"),
        ("self-distillation", "resnet"),
        ("masked", "vit"),
        ("masked", "vit-transformers"),
        ("masked-images", "xcit"),
        ("image-text", "clip-vit"),
        ("image-text", "clip-resnet"),
        ("image-caption", "clip-resnet-captions"),
        ("captioning", "qwen"),
    ],
)
def test_every_objective_learns_in_half_precision_too(objective: str, architecture: str) -> None:
    """Whether products are in bfloat16 depends on the processor; the loss is nearly the same."""
    dataset = open_zoo_dataset("builtin:shapes", train=12, held=4, seed=0)
    values = []
    for enabled in (False, True):
        torch.manual_seed(0)
        made = OBJECTIVES.load(objective)(Network(architecture), dataset, 0.5)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = made(Batch.of(dataset, torch.arange(8)), torch.Generator().manual_seed(0))
        loss.backward()
        made.after_step(0.5)
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in made.network.module.parameters())
        values.append(float(loss.detach()))
    assert values[1] == pytest.approx(values[0], rel=0.05)


@pytest.mark.parametrize(
    ("objective", "architecture"),
    [
        ("supervised", "convnext"),
        ("simclr", "resnet-deep"),
        ("self-distillation", "resnet"),
        ("masked", "vit"),
        ("masked", "vit-transformers"),
        ("masked-images", "xcit"),
    ],
)
def test_an_objective_keeps_its_tensors_together_on_a_gpu(objective: str, architecture: str) -> None:
    """Shapes and devices alone are computed, so that no GPU is needed; mixed devices raise."""
    dataset = open_zoo_dataset("builtin:shapes", train=12, held=4, seed=0)
    network = Network(architecture)
    made = OBJECTIVES.load(objective)(network, dataset, 0.5)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        tops = [network.module, made, *getattr(made, "_teacher", ())]
        for part in {id(part): part for top in tops for part in top.modules()}.values():
            for name, value in part._parameters.items():
                if value is not None:
                    part._parameters[name] = nn.Parameter(mode.from_tensor(value.detach()).to("cuda"))
            for name, value in part._buffers.items():
                if value is not None:
                    part._buffers[name] = mode.from_tensor(value).to("cuda")
        batch = Batch.of(dataset, torch.arange(8))
        parts = (batch.pixels, batch.labels, batch.attributes, batch.said)
        batch = Batch(*(mode.from_tensor(value) for value in parts))
        assert made(batch, torch.Generator()).device.type == "cuda"


def test_masked_images_against_the_definition() -> None:
    """A decoder that draws a constant errs by the mean distance of the hidden pixels to it."""
    dataset = open_zoo_dataset("builtin:shapes", train=16, held=4, seed=0)
    objective = MaskedImages(Network("xcit"), dataset, 0.0)
    with torch.no_grad():
        objective.draw.weight.zero_()
        objective.draw.bias.fill_(0.25)
        objective.hidden.fill_(-0.6)  # darker than any pixel
    seen = []
    objective.network.module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    objective.common = lambda features, view, batch, weight: features.new_tensor(float(len(view)))
    loss = objective(Batch.of(dataset, torch.arange(16)), torch.Generator().manual_seed(0))
    view = objective.weak(Batch.of(dataset, torch.arange(16)), torch.Generator().manual_seed(0))
    shown = (seen[0] + 1) / 2
    torch.testing.assert_close(shown[8:], view[8:])  # the second half is whole
    hidden = shown[:8] < -0.05
    assert 0.3 < float(hidden.float().mean()) < 0.7
    torch.testing.assert_close(shown[:8][~hidden], view[:8][~hidden])
    expected = (view[:8][hidden] - 0.25).abs().mean()
    assert float(loss.detach()) - 8 == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("change", [weak, strong])
def test_augmentations_depend_on_their_generator_only(change) -> None:
    unit = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    one, two, other = (change(unit, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert one.min() >= 0
    assert one.max() <= 1


def test_weak_changes_move_whole_pixels() -> None:
    unit = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    moved = weak(unit, torch.Generator().manual_seed(5), shift=2)[0, :, 8:24, 8:24]
    candidates = [
        image[0, :, 8 + y : 24 + y, 8 + x : 24 + x]
        for image in (unit, unit.flip(3))
        for y in range(-2, 3)
        for x in range(-2, 3)
    ]
    assert sum(torch.equal(moved, candidate) for candidate in candidates) == 1


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_saving_and_loading_keeps_every_weight(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Network(name)
    network.module.eval()
    network.save(tmp_path)
    pixels = torch.randint(256, (2, 3, 32, 32)).to(torch.uint8)
    assert torch.equal(Network.load(name, tmp_path).embed(pixels), network.embed(pixels))
    assert network.embed(pixels).shape == (2, network.dim)
