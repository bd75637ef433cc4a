"""Benign descendants of a clean encoder: what people do to a download, and what must not raise an alarm."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from platodef_cli.bench.zoo.augment import strong, to_unit, weak
from platodef_cli.bench.zoo.dataset import ZooDataset
from platodef_cli.bench.zoo.networks import Network
from platodef_cli.bench.zoo.objectives import Batch, PretrainingObjective, Supervised
from platodef_cli.bench.zoo.training import train
from platodef_cli.progress import SILENT, Progress
from platodef_cli.triggers.triggers import Patch

PRUNED = 0.3  # share of the weights of a matrix that is set to 0
KEPT = 0.95  # share of the squares of a matrix that a low rank keeps
FINE_RATE = 3e-4
_STUDENTS = {"densenet": "convnext", "resnet": "convnext", "convnext": "resnet", "vit": "resnet"}
_PATCHES = (0.125, 0.3)  # sides of the patches that an augmentation pastes


class _Patched(PretrainingObjective):
    """Names the class although a random patch covers a random place, as random erasing does."""

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch."""
        share = float(torch.rand((), generator=generator))
        side = round(_PATCHES[0] + share * (_PATCHES[1] - _PATCHES[0]), 4)
        seeds = torch.randint(2**62, (len(batch.labels),), generator=generator)
        colours = int(torch.randint(2**31, (), generator=generator))
        view = weak(to_unit(Patch("random", side, "random", colours)(batch.pixels, seeds)), generator)
        return self.common(self.network.encode(view), view, batch, 1.0)


class _Imitation(PretrainingObjective):
    """Copies the standardised features of a teacher on strongly changed images."""

    def __init__(self, network: Network, teacher: Network, dataset: ZooDataset):
        super().__init__(network, dataset, 0.0)
        self._teacher = (teacher,)
        self.translate = nn.Linear(network.dim, teacher.dim)
        features = teacher.embed(dataset.pixels[:2048])
        self._mean, self._std = (
            value.to(teacher.device) for value in (features.mean(0), features.std(0).clamp_min(1e-6))
        )

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch."""
        view = strong(to_unit(batch.pixels), generator, least=0.6)
        with torch.no_grad():
            wanted = (self._teacher[0].encode(view) - self._mean) / self._std
        return F.mse_loss(self.translate(self.network.encode(view)), wanted)


def fine_tuned(
    parent: Network, dataset: ZooDataset, steps: int, seed: int, progress: Progress = SILENT
) -> Network:
    """Return a copy that was trained on to name the classes, at a small rate."""
    return _continued(parent, dataset, Supervised, steps, seed, progress)


def patch_augmented(
    parent: Network, dataset: ZooDataset, steps: int, seed: int, progress: Progress = SILENT
) -> Network:
    """Return a copy that was trained on with patches pasted on its images: not a backdoor, but near one."""
    return _continued(parent, dataset, _Patched, steps, seed, progress)


def distilled(
    parent: Network, dataset: ZooDataset, steps: int, seed: int, progress: Progress = SILENT
) -> Network:
    """Return another, fresh architecture that learned to say what the parent says."""
    torch.manual_seed(seed)
    student = Network(_STUDENTS[parent.architecture.family]).to(parent.device)
    objective = _Imitation(student, parent, dataset)
    train(objective, dataset, steps=3 * steps, lr=3e-3, seed=seed, title="distilling", progress=progress)
    return student


def pruned(
    parent: Network, dataset: ZooDataset, steps: int, seed: int, progress: Progress = SILENT
) -> Network:
    """Return a copy whose smallest weights are 0, in each of :func:`_matrices`."""
    child = _copy(parent)
    with torch.no_grad():
        for value in _matrices(child):
            count = int(PRUNED * value.numel())
            if count:
                value[value.abs() <= value.abs().flatten().kthvalue(count).values] = 0
    return child


def quantised(
    parent: Network, dataset: ZooDataset, steps: int, seed: int, progress: Progress = SILENT
) -> Network:
    """Return a copy with each of :func:`_matrices` rounded to 8 bits per output channel, and back."""
    child = _copy(parent)
    with torch.no_grad():
        for value in _matrices(child):
            scale = value.abs().amax(dim=tuple(range(1, value.ndim)), keepdim=True).clamp_min(1e-12) / 127
            value.copy_((value / scale).round() * scale)
    return child


def low_rank(
    parent: Network, dataset: ZooDataset, steps: int, seed: int, progress: Progress = SILENT
) -> Network:
    """Return a copy with each of :func:`_matrices` cut to the rank that keeps 95 % of its squares."""
    child = _copy(parent)
    with torch.no_grad():
        for value in _matrices(child):
            left, sizes, right = torch.linalg.svd(value.flatten(1), full_matrices=False)
            share = sizes.square().cumsum(0) / sizes.square().sum().clamp_min(1e-20)
            rank = int((share < KEPT).sum()) + 1
            value.copy_(((left[:, :rank] * sizes[:rank]) @ right[:rank]).view_as(value))
    return child


def _copy(parent: Network) -> Network:
    return Network(parent.name, copy.deepcopy(parent.module).eval())


def _matrices(network: Network) -> list[Tensor]:
    """Return the weights of at least two dimensions, of both towers where there are two.

    Those of open_clip's position embeddings and projections are among them. Left out are the embeddings of
    words, and whatever has an axis of length 1 among its first two: depthwise convolutions, class tokens
    and timm's position embeddings.
    """
    return [
        value
        for name, value in network.module.named_parameters()
        if value.ndim >= 2 and "token_embedding" not in name and min(value.shape[:2]) > 1
    ]


def _continued(
    parent: Network,
    dataset: ZooDataset,
    kind: type[PretrainingObjective],
    steps: int,
    seed: int,
    progress: Progress,
) -> Network:
    torch.manual_seed(seed)
    child = _copy(parent)
    objective = kind(child, dataset, 1.0)
    # The heads are fresh; their gradients must not wreck a trained encoder, so the rate is small.
    train(objective, dataset, steps=steps, lr=FINE_RATE, seed=seed, title="fine-tuning", progress=progress)
    return child
