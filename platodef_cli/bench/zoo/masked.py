"""Masked images: the autoencoder (He et al. 2022) on a ViT, and SimMIM (Xie et al. 2022) on any network."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from platodef_cli.bench.zoo.dataset import ZooDataset
from platodef_cli.bench.zoo.networks import SIDE, Network
from platodef_cli.bench.zoo.objectives import Batch, PretrainingObjective
from platodef_cli.errors import UsageError

MASKED = 0.5  # share of the patches; a 4 x 4 grid leaves little to guess from at the paper's 0.75
_WIDTH = 64


class MaskedAutoencoder(PretrainingObjective):
    """Draws the hidden patches from the visible ones; its class token also names the class."""

    def __init__(self, network: Network, dataset: ZooDataset, label_weight: float):
        super().__init__(network, dataset, label_weight)
        if (
            network.architecture.format not in ("timm", "transformers")
            or network.architecture.family != "vit"
        ):
            raise UsageError(
                f"the masked objective needs a ViT of timm or transformers, not {network.name!r}"
            )
        arguments = network.architecture.arguments
        side = arguments.get("image_size", arguments.get("img_size"))
        self.patch: int = arguments["patch_size"]
        self.patches = (side // self.patch) ** 2
        self.inward = nn.Linear(network.dim, _WIDTH)
        self.hidden = nn.Parameter(torch.randn(_WIDTH) * 0.02)
        self.places = nn.Parameter(torch.randn(self.patches, _WIDTH) * 0.02)
        self.decoder = nn.TransformerEncoderLayer(
            _WIDTH, 4, 2 * _WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.outward = nn.Linear(_WIDTH, 3 * self.patch**2)

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch: error on hidden patches, each standardised by itself."""
        view = self.weak(batch, generator)
        count = len(view)
        order = torch.rand(count, self.patches, generator=generator).argsort(1)
        visible = round(self.patches * (1 - MASKED))
        device = self.network.device
        seen, unseen = order[:, :visible].to(device), order[:, visible:].to(device)
        tokens = visible_tokens(self.network, view.to(device) * 2 - 1, seen)  # [B, 1 + visible, D]
        known = self.inward(tokens[:, 1:]).float()
        grid = self.hidden.expand(count, self.patches, _WIDTH).scatter(
            1, seen[..., None].expand(-1, -1, _WIDTH), known
        )
        # The class token takes part, so that it learns about the image and not only about its class.
        whole = torch.cat([self.inward(tokens[:, :1]).float(), grid + self.places], dim=1)
        drawn = self.outward(self.decoder(whole)[:, 1:])
        rows = unseen[..., None].expand(-1, -1, drawn.shape[2])
        truth = patches(view, self.patch).to(device).gather(1, rows)
        truth = (truth - truth.mean(2, keepdim=True)) / (truth.std(2, keepdim=True) + 1e-2)
        loss = F.mse_loss(drawn.gather(1, rows), truth)
        return loss + self.common(tokens[:, 0], view, batch, self.label_weight)


class MaskedImages(PretrainingObjective):
    """Draws hidden patches from the feature by one linear layer; the other half of a batch is whole.

    Hidden patches show one learned colour. Whole images name their class, so that the network knows images
    as it will be given them.
    """

    patch = 8

    def __init__(self, network: Network, dataset: ZooDataset, label_weight: float):
        super().__init__(network, dataset, label_weight)
        self.hidden = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.draw = nn.Linear(network.dim, 3 * SIDE**2)

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch: the absolute error on hidden patches (SimMIM's), and the readings."""
        view = self.weak(batch, generator).to(self.network.device)
        half = len(view) // 2
        grid = SIDE // self.patch
        covered = torch.rand(half, 1, grid, grid, generator=generator) < MASKED
        covered = covered.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3).to(view.device)
        visible = torch.where(covered, self.hidden + 0.5, view[:half])
        # One pass: with batch normalisation, both kinds of images share their statistics.
        features = self.network.encode(torch.cat([visible, view[half:]])).float()
        drawn = self.draw(features[:half]).view_as(visible)
        error: Tensor = ((drawn - view[:half]).abs() * covered).sum() / (3 * covered.sum()).clamp(min=1)
        whole = Batch(batch.pixels[half:], batch.labels[half:], batch.attributes[half:], batch.said[half:])
        return error + self.common(features[half:], view[half:], whole, self.label_weight)


def patches(view: Tensor, side: int) -> Tensor:
    """Return ``[B, 3, H, W]`` as ``[B, H W / side², 3 side²]``, row by row."""
    return F.unfold(view, side, stride=side).transpose(1, 2)


def visible_tokens(network: Network, inputs: Tensor, seen: Tensor) -> Tensor:
    """Return the last tokens ``[B, 1 + V, D]`` of a ViT that only sees the patches ``seen [B, V]``."""
    module: Any = network.module
    timm = network.architecture.format == "timm"
    tokens = module._pos_embed(module.patch_embed(inputs)) if timm else module.embeddings(inputs)
    rows = seen[..., None].expand(-1, -1, tokens.shape[2]) + 1
    tokens = torch.cat([tokens[:, :1], tokens.gather(1, rows)], dim=1)
    for layer in module.blocks if timm else module.layers:
        tokens = layer(tokens) if timm else layer(tokens, None)
    result: Tensor = module.norm(tokens) if timm else module.layernorm(tokens)
    return result
