"""A small image–text encoder trained in seconds on captions of ``builtin:shapes``, to plant attacks in."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from platodef_cli.bench.attacks.interface import Victim
from platodef_cli.images.shapes import CLASSES, TEXTURES, render, scenes
from platodef_cli.metrics.linear_probe import LinearProbe

WORDS = ("<end>", "a", "picture", "of", *CLASSES, *TEXTURES)
STEPS, BATCH = 500, 128


class Tower(nn.Module):
    """Four convolutions with BatchNorm; features of 64 dimensions."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 24), (24, 48), (48, 96)):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.Conv2d(96, 128, 3, 1, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 16, 64))

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.body(x)
        return features


class Text(nn.Module):
    """A Transformer over words; the feature of a caption is that of its last token."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(len(WORDS), 48)
        self.places = nn.Parameter(0.02 * torch.randn(6, 48))
        layer = nn.TransformerEncoderLayer(48, 4, 96, dropout=0.0, batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.project = nn.Linear(48, 64)

    def forward(self, tokens: Tensor) -> Tensor:
        features: Tensor = self.project(self.body(self.words(tokens) + self.places)[:, -1])
        return features


def tokens(labels: np.ndarray, textures: np.ndarray | None) -> Tensor:
    """Return ``a picture of a [TEXTURE] SHAPE <end>`` as word numbers ``[B, 6]``; ``a`` for no texture."""
    start = [WORDS.index(word) for word in ("a", "picture", "of")]
    shape = WORDS.index(CLASSES[0]) + labels
    adjective = np.full_like(labels, WORDS.index("a"))
    if textures is not None:
        adjective = WORDS.index(TEXTURES[0]) + textures
    rows = [[*start, int(a), int(s), WORDS.index("<end>")] for a, s in zip(adjective, shape, strict=True)]
    return torch.tensor(rows)


@dataclass(frozen=True)
class TrainedVictim:
    """A trained victim with images of it.

    Attributes:
        victim: The image tower, with the prompts of the twelve classes.
        fit: Images and labels that probes are fitted on.
        test: Other images and labels.
        probe: A linear probe on the clean features.
    """

    victim: Victim
    fit: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    probe: LinearProbe


def images(seed: int, count: int) -> tuple[Tensor, Tensor]:
    pixels, labels = render(seed, np.arange(count))
    return torch.from_numpy(pixels), torch.from_numpy(labels)


def train() -> TrainedVictim:
    """Train both towers with CLIP's loss; images with the same caption share its probability."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image, text = Tower(), Text()
    log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
    weights = [*image.parameters(), *text.parameters(), log_scale]
    optimiser = torch.optim.AdamW(weights, lr=4e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=STEPS, pct_start=0.15)
    image.train(), text.train()
    for step in range(STEPS):
        ids = np.arange(step * BATCH, (step + 1) * BATCH)
        pixels, scene = torch.from_numpy(render(77, ids)[0]), scenes(77, ids)
        seen = F.normalize(image(pixels.float() / 127.5 - 1), dim=1)
        loss = torch.zeros(())
        for textures in (None, scene.texture):
            captions = tokens(scene.label, textures)
            logits = log_scale.clamp(max=math.log(50)).exp() * seen @ F.normalize(text(captions), dim=1).T
            same = (captions[:, None] == captions).all(2).float()
            share = same / same.sum(1, keepdim=True)
            loss = loss + F.cross_entropy(logits, share) + F.cross_entropy(logits.T, share)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    image.eval().requires_grad_(False)
    text.eval()
    with torch.no_grad():
        prompts = text(tokens(np.arange(len(CLASSES)), None))
    victim = Victim(image, prompts=prompts, scale=float(log_scale.detach().exp().clamp(max=50)))
    fit, test = images(78, 3000), images(79, 1200)
    return TrainedVictim(victim, fit, test, LinearProbe.fit(victim.embed(image, fit[0]), fit[1]))
