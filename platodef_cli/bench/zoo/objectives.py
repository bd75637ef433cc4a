"""What the clean encoders of the zoo are trained for.

Every objective adds the same small terms, linear readings of the feature: the image's 4 x 4 colour thumbnail
and, for shapes, their attributes. Without them encoders this small keep nothing but the class, and two
encoders would agree about little. The self-supervised ones may add the cross-entropy of the labels
(``label_weight``, as supervised masked autoencoders do), because pure self-supervision needs far more steps
than a small zoo has.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from platodef_cli.bench.zoo.augment import erase, strong, to_unit, weak
from platodef_cli.bench.zoo.dataset import ZooDataset
from platodef_cli.bench.zoo.networks import Network, captions
from platodef_cli.errors import UsageError

THUMBNAIL = 4
THUMBNAIL_WEIGHT = 2.0


@dataclass(frozen=True, eq=False)
class Batch:
    """Some training images.

    Attributes:
        pixels: uint8 ``[B, 3, H, W]``.
        labels: int64 ``[B]``.
        attributes: float32 ``[B, A]``; see :class:`platodef_cli.bench.zoo.dataset.ZooDataset`.
        said: int64 ``[B]``, rows of the data set's captions; ``[0]`` where it has none.
    """

    pixels: Tensor
    labels: Tensor
    attributes: Tensor
    said: Tensor

    @classmethod
    def of(cls, dataset: ZooDataset, rows: Tensor) -> "Batch":
        """Return the given rows of a dataset."""
        said = dataset.said[rows] if dataset.captions else dataset.said
        return cls(dataset.pixels[rows], dataset.labels[rows], dataset.attributes[rows], said)

    def repeat(self, times: int) -> "Batch":
        """Return the batch several times over, for several views."""
        return Batch(
            self.pixels.repeat(times, 1, 1, 1),
            self.labels.repeat(times),
            self.attributes.repeat(times, 1),
            self.said.repeat(times),
        )


class PretrainingObjective(nn.Module):
    """Base: heads on top of a network and the loss of a batch.

    Args:
        network: What is trained.
        dataset: Names the classes and the attributes.
        label_weight: Weight of the labels' cross-entropy, where the objective is self-supervised.

    Attributes:
        erasing: Share of the images with an erased rectangle. References get it: what they see must not
            depend on a patch that covers a corner of the image.
        change: A further change of the images, see :mod:`platodef_cli.bench.zoo.lineages`.
        readings: Weight of the readings of colours and attributes.
    """

    erasing = 0.0
    change: Callable[[Tensor, torch.Generator], Tensor] | None = None
    readings = 1.0

    def __init__(self, network: Network, dataset: ZooDataset, label_weight: float):
        super().__init__()
        # In a tuple, so that the network's parameters are not counted among the heads'.
        self._network = (network,)
        self.label_weight = label_weight
        self.classify = nn.Linear(network.dim, len(dataset.classes))
        known = dataset.attributes.shape[1]
        self.attributes: nn.Module = nn.Linear(network.dim, known) if known else nn.Identity()
        self.thumbnail = nn.Linear(network.dim, 3 * THUMBNAIL**2)

    @property
    def network(self) -> Network:
        """What is trained."""
        return self._network[0]

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch."""
        raise NotImplementedError

    def after_step(self, share: float) -> None:
        """Do what follows an optimiser step; ``share`` of the training is over."""

    def weak(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return moved, flipped and erased images in [0, 1]."""
        return self._changed(weak(to_unit(batch.pixels), generator), generator)

    def strong(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return cropped, flipped, recoloured and erased images in [0, 1]."""
        return self._changed(strong(to_unit(batch.pixels), generator), generator)

    def _changed(self, view: Tensor, generator: torch.Generator) -> Tensor:
        view = erase(view, generator, self.erasing)
        return view if self.change is None else self.change(view, generator)

    def common(self, features: Tensor, view: Tensor, batch: Batch, weight: float) -> Tensor:
        """Return the readings' errors and the labels' cross-entropy for ``features [B, D]`` of ``view``."""
        device = features.device
        small = F.adaptive_avg_pool2d(view, THUMBNAIL).flatten(1).to(device)
        loss = self.readings * THUMBNAIL_WEIGHT * F.mse_loss(self.thumbnail(features), small)
        if batch.attributes.shape[1]:
            told = F.mse_loss(self.attributes(features), batch.attributes.to(device))
            loss = loss + self.readings * told
        return loss + weight * F.cross_entropy(self.classify(features), batch.labels.to(device))


class Supervised(PretrainingObjective):
    """Names the class of moved and flipped images."""

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch."""
        view = self.weak(batch, generator)
        return self.common(self.network.encode(view), view, batch, 1.0)


class Adversarial(PretrainingObjective):
    """Names the class of images that one signed gradient step from a random start makes hard to name.

    Fast adversarial training (Wong et al. 2020), norm 4/255.
    """

    bound = 4 / 255

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch."""
        view = self.weak(batch, generator)
        start = self.bound * (2 * torch.rand(view.shape, generator=generator) - 1)
        moved = (view + start).clamp(0, 1).requires_grad_(True)
        loss = self.common(self.network.encode(moved), view, batch, 1.0)
        (slope,) = torch.autograd.grad(loss, moved)
        step = (start + 1.25 * self.bound * slope.sign()).clamp(-self.bound, self.bound)
        return self.common(self.network.encode((view + step).clamp(0, 1)), view, batch, 1.0)


class SimClr(PretrainingObjective):
    """Finds the other view of each image among those of its batch (NT-Xent; Chen et al. 2020)."""

    def __init__(self, network: Network, dataset: ZooDataset, label_weight: float):
        super().__init__(network, dataset, label_weight)
        self.project = nn.Sequential(nn.Linear(network.dim, 128), nn.ReLU(), nn.Linear(128, 64))
        self.temperature = 0.2

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch."""
        views = torch.cat([self.strong(batch, generator), self.strong(batch, generator)])
        features = self.network.encode(views)
        loss = nt_xent(self.project(features), self.temperature)
        return loss + self.common(features, views, batch.repeat(2), self.label_weight)


def nt_xent(projected: Tensor, temperature: float) -> Tensor:
    """Return the NT-Xent loss of ``[2 B, P]`` whose rows i and i + B are two views of one image."""
    z = F.normalize(projected, dim=1)
    logits = (z @ z.T / temperature).fill_diagonal_(-1e4)
    partner = torch.arange(len(z), device=z.device).roll(len(z) // 2)
    return F.cross_entropy(logits, partner)


class SelfDistillation(PretrainingObjective):
    """Predicts what a slow copy of itself says of another view (DINO; Caron et al. 2021)."""

    def __init__(self, network: Network, dataset: ZooDataset, label_weight: float):
        super().__init__(network, dataset, label_weight)
        head = nn.Sequential(nn.Linear(network.dim, 128), nn.GELU(), nn.Linear(128, 256))
        self.head = head.to(network.device)  # now: the teacher's copy is not moved with the objective
        self._teacher = (copy.deepcopy(network.module), copy.deepcopy(self.head))
        for part in self._teacher:
            part.requires_grad_(False)
        self.register_buffer("centre", torch.zeros(256))

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch."""
        views = torch.cat([self.strong(batch, generator), self.strong(batch, generator)])
        features = self.network.encode(views)
        student = F.log_softmax(self.head(features) / 0.1, dim=1)
        module, head = self._teacher
        with torch.no_grad():
            said = head(self.network.run(module, views.to(features.device) * 2 - 1)).float()
            centre: Any = self.centre
            teacher = F.softmax((said - centre) / 0.06, dim=1)
            centre.lerp_(said.mean(0), 0.1)
        crossed = teacher.roll(len(batch.labels), 0)  # each view learns what the teacher says of the other
        loss = -(crossed * student).sum(1).mean()
        return loss + self.common(features, views, batch.repeat(2), self.label_weight)

    def after_step(self, share: float) -> None:
        """Let the teacher follow; slower towards the end."""
        rate = 0.01 * (1 + math.cos(math.pi * share)) / 2 + 1e-3
        with torch.no_grad():
            for teacher, student in zip(self._teacher, (self.network.module, self.head), strict=True):
                for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
                    slow.lerp_(fast, rate)
                for kept, own in zip(teacher.buffers(), student.buffers(), strict=True):
                    kept.copy_(own)


class ImageText(PretrainingObjective):
    """Finds the caption of each image among those of its batch, both ways (CLIP; Radford et al. 2021).

    Images of one class share the probability of their captions.
    """

    def __init__(self, network: Network, dataset: ZooDataset, label_weight: float):
        super().__init__(network, dataset, label_weight)
        self._captions = network.tokens([text for name in dataset.classes for text in captions(name)])
        self._per_class = len(captions(dataset.classes[0]))

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch."""
        view = self.weak(batch, generator)
        features = self.network.encode(view)
        caption = torch.randint(self._per_class, (len(batch.labels),), generator=generator)
        text_tokens, rows = torch.unique(self._per_class * batch.labels + caption, return_inverse=True)
        loss = matching(self.network, features, self._captions[text_tokens], rows, batch.labels)
        return loss + self.common(features, view, batch, self.label_weight)


def matching(network: Network, features: Tensor, texts: Tensor, rows: Tensor, groups: Tensor) -> Tensor:
    """Return CLIP's loss, both ways, of images and their sentences.

    Args:
        network: With a text tower.
        features: ``[B, D]`` of the images.
        texts: Tokens ``[T, L]`` of the distinct sentences.
        rows: int64 ``[B]``, the sentence of each image.
        groups: int64 ``[B]``; images of one number share the probability of their sentences.
    """
    module: Any = network.module
    device = features.device
    image = F.normalize(features, dim=1)
    text = F.normalize(module.encode_text(texts.to(device)), dim=1)[rows.to(device)]
    logits = module.logit_scale.clamp(max=math.log(50.0)).exp() * image @ text.T
    same = (groups[:, None] == groups).float().to(device)
    share = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, share) + F.cross_entropy(logits.T, share)) / 2


class ImageCaption(PretrainingObjective):
    """Finds the sentence about each image itself among those of its batch, both ways (CLIP).

    Images are moved, not flipped, because sentences tell left from right. Images with the same sentence share
    its probability.

    Raises:
        UsageError: The images have no sentences.
    """

    def __init__(self, network: Network, dataset: ZooDataset, label_weight: float):
        super().__init__(network, dataset, label_weight)
        if not dataset.captions:
            raise UsageError(
                f"{dataset.uri}: an encoder of image-caption is trained on a sentence per image, and only "
                "those of builtin:shapes have one; choose another recipe"
            )
        self._captions = network.tokens(list(dataset.captions))

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch."""
        view = self._changed(weak(to_unit(batch.pixels), generator, flips=0.0), generator)
        features = self.network.encode(view)
        numbers, rows = torch.unique(batch.said, return_inverse=True)
        loss = matching(self.network, features, self._captions[numbers], rows, batch.said)
        return loss + self.common(features, view, batch, self.label_weight)
