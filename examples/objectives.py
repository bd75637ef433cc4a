"""The three objectives that the demo encoders are trained with, on an endless stream of fresh images.

Different objectives on the same world are what makes references worth having: they agree because
of the images, not because of how they were trained.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from platodef_cli.images.shapes import CLASSES, TEXTURES, Scene, render, scenes
from platodef_cli.progress import SILENT, Progress

BATCH = 128


def normalise(pixels: Tensor) -> Tensor:
    """Return uint8 ``[B, 3, H, W]`` as float32 with mean and standard deviation 0.5 removed."""
    return pixels.float() / 127.5 - 1


def forward(module: nn.Module, pixels: Tensor) -> Tensor:
    """Return features ``[B, D]`` of uint8 ``[B, 3, H, W]``."""
    features: Tensor = module(normalise(pixels))
    return features


def factors(scene: Scene) -> Tensor:
    """Return place, size, colour and background of B images as ``[B, 9]``, all around 0..1."""
    columns = [scene.centre, scene.radius[:, None], scene.colour, scene.background]
    return torch.from_numpy(np.concatenate(columns, axis=1)).float()


def describe(scene: Scene) -> list[Tensor]:
    """Return three captions of each of B images as vectors ``[B, 12 + 5 + 9]``.

    The first names the shape, the second also its texture, the third also place, size and colours: if
    all said everything, the colours alone would tell the images of a batch apart.
    """
    shape = F.one_hot(torch.from_numpy(scene.label), len(CLASSES)).float()
    texture = F.one_hot(torch.from_numpy(scene.texture), len(TEXTURES)).float()
    measures = 3 * factors(scene)
    none = torch.zeros_like
    return [
        torch.cat([shape, none(texture), none(measures)], dim=1),
        torch.cat([shape, texture, none(measures)], dim=1),
        torch.cat([shape, texture, measures], dim=1),
    ]


def pixels_of(world: int, count: int, start: int = 0) -> Tensor:
    """Return images ``start..start+count`` of a world, uint8 ``[count, 3, 32, 32]``."""
    return torch.from_numpy(render(world, np.arange(start, start + count))[0])


def labels_of(world: int, count: int, start: int = 0) -> Tensor:
    """Return the labels of :func:`pixels_of`, int64 ``[count]``."""
    return torch.from_numpy(scenes(world, np.arange(start, start + count)).label)


def images_of_class(world: int, label: int, count: int) -> Tensor:
    """Return the first ``count`` images of one class, uint8 ``[count, 3, 32, 32]``."""
    rows = (labels_of(world, 100 * count) == label).nonzero()[:count, 0]
    return torch.from_numpy(render(world, rows.numpy())[0])


def stream(world: int, steps: int) -> Iterator[tuple[Tensor, Scene]]:
    """Yield ``steps`` batches of images that were never shown before."""
    for step in range(steps):
        ids = np.arange(step * BATCH, (step + 1) * BATCH)
        yield torch.from_numpy(render(world, ids)[0]), scenes(world, ids)


class Supervised(nn.Module):
    """Names the shape and its texture, and measures place, size and colours."""

    def __init__(self, dim: int):
        super().__init__()
        self.shape = nn.Linear(dim, len(CLASSES))
        self.texture = nn.Linear(dim, len(TEXTURES))
        self.factors = nn.Linear(dim, 9)

    def forward(self, encode: Callable[[Tensor], Tensor], pixels: Tensor, scene: Scene) -> Tensor:
        """Return the loss of a batch."""
        features = encode(pixels)
        loss = F.cross_entropy(self.shape(features), torch.from_numpy(scene.label))
        loss = loss + 0.3 * F.cross_entropy(self.texture(features), torch.from_numpy(scene.texture))
        return loss + 2 * F.mse_loss(self.factors(features), factors(scene))


class Captioned(nn.Module):
    """Finds the captions of each image among those of its batch (InfoNCE both ways, as CLIP)."""

    def __init__(self, dim: int):
        super().__init__()
        self.image = nn.Linear(dim, 64)
        self.caption = nn.Sequential(nn.Linear(26, 128), nn.GELU(), nn.Linear(128, 64))
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(self, encode: Callable[[Tensor], Tensor], pixels: Tensor, scene: Scene) -> Tensor:
        """Return the loss of a batch; images with the same caption share its probability."""
        image = F.normalize(self.image(encode(pixels)), dim=1)
        scale = self.log_scale.clamp(max=math.log(50.0)).exp()
        losses = []
        for captions in describe(scene):
            logits = scale * image @ F.normalize(self.caption(captions), dim=1).T
            same = (captions[:, None] == captions).all(2).float()
            share = same / same.sum(1, keepdim=True)
            losses += [F.cross_entropy(logits, share), F.cross_entropy(logits.T, share)]
        return torch.stack(losses).mean()


class Paired(nn.Module):
    """Draws together images of the same object in different scenes (soft supervised contrast).

    Images with the same shape attract with weight 1, with the same shape and texture with weight 3
    (Khosla et al. 2020 with graded positives); a small head keeps the colours of the object.
    """

    def __init__(self, dim: int, temperature: float = 0.2):
        super().__init__()
        self.project = nn.Sequential(nn.Linear(dim, 128), nn.GELU(), nn.Linear(128, 64))
        self.colour = nn.Linear(dim, 3)
        self.temperature = temperature

    def forward(self, encode: Callable[[Tensor], Tensor], pixels: Tensor, scene: Scene) -> Tensor:
        """Return the loss of a batch."""
        features = encode(pixels)
        z = F.normalize(self.project(features), dim=1)
        logits = (z @ z.T / self.temperature).fill_diagonal_(-1e4)
        shape, texture = torch.from_numpy(scene.label), torch.from_numpy(scene.texture)
        same = (shape[:, None] == shape).float() * (1 + 2 * (texture[:, None] == texture).float())
        same = same.fill_diagonal_(0)
        share = same / same.sum(1, keepdim=True).clamp(min=1)
        return F.cross_entropy(logits, share) + 2 * F.mse_loss(
            self.colour(features), torch.from_numpy(scene.colour).float()
        )


OBJECTIVES: dict[str, type[nn.Module]] = {
    "supervised": Supervised,
    "captioned": Captioned,
    "paired": Paired,
}


def train(
    module: nn.Module,
    objective: str,
    *,
    steps: int,
    seed: int,
    world: int,
    lr: float,
    progress: Progress = SILENT,
) -> nn.Module:
    """Train an encoder in place on ``steps`` batches of a world; return it in evaluation mode."""
    torch.manual_seed(seed)
    head = OBJECTIVES[objective](int(module.num_features))
    parameters = [*module.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps, pct_start=0.1)
    module.train()
    with progress.step(f"training, {objective}", steps) as task:
        for pixels, scene in stream(world, steps):
            loss = head(lambda x: forward(module, x), pixels, scene)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            schedule.step()
            task.advance(note=f"loss {loss.item():.3f}")
    return module.eval()
