"""DeDe (Hou et al. 2025): does a decoder draw the image that is there from its feature?

The decoder draws an image from its feature and a few visible patches. Trained on clean images, it believes
the feature. Where a trigger has changed what the feature says, the image that it draws differs from the
one that is there, and the error over the masked pixels is large. The purifier changes the feature until
the error is small.

Needs images of what is scored, and clean images to train on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from platodef_cli.defences.interface import (
    DEFAULT_SETUP,
    ExpectedAuroc,
    PurifierInputs,
    PurifyOptions,
    Setup,
    require_images,
)
from platodef_cli.errors import UsageError
from platodef_cli.features.access import Access, pixels_of
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.heads import Heads
from platodef_cli.progress import SILENT, Progress

MIN_IMAGES = 64
BLOCK = 256  # images per pass of the decoder


@dataclass(frozen=True)
class DecoderConfig:
    """Size and training of the decoder.

    Attributes:
        side: Images are averaged down to this side, pixels.
        patch: Side of a patch, pixels.
        width: Width of the tokens.
        depth: Transformer layers.
        heads: Attention heads.
        train_mask: Share of masked patches in training.
        test_mask: Share of masked patches in scoring; at least one patch stays visible.
        masks: Masks that a score averages over.
        steps: Optimiser steps.
        batch_size: Images per step.
        rate: AdamW's first learning rate.
    """

    side: int = 32
    patch: int = 4
    width: int = 64
    depth: int = 2
    heads: int = 4
    train_mask: float = 0.9
    test_mask: float = 0.99
    masks: int = 4
    steps: int = 250
    batch_size: int = 48
    rate: float = 4e-3

    @property
    def patches(self) -> int:
        """Patches per image."""
        return (self.side // self.patch) ** 2


class MaskedDecoder(nn.Module):
    """A small transformer over one token per patch, with the feature as a token of its own.

    Args:
        dim: Length of a feature.
        config: Its size.
    """

    def __init__(self, dim: int, config: DecoderConfig):
        super().__init__()
        width, values = config.width, 3 * config.patch**2
        self.config = config
        self.feature = nn.Sequential(nn.Linear(dim, width), nn.GELU(), nn.Linear(width, width))
        self.visible = nn.Linear(values, width)
        self.masked = nn.Parameter(0.02 * torch.randn(width))
        self.place = nn.Parameter(0.02 * torch.randn(config.patches, width))
        layer = nn.TransformerEncoderLayer(
            width, config.heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, config.depth, enable_nested_tensor=False)
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, values))

    def forward(self, features: Tensor, patches: Tensor, masks: Tensor) -> Tensor:
        """Return the decoded patches.

        Args:
            features: Standardised ``[B, D]``.
            patches: ``[B, P, 3 p²]``, pixels in [-1, 1].
            masks: Boolean ``[P]`` or ``[B, P]``; True is hidden.

        Returns:
            ``[B, P, 3 p²]``.
        """
        context = self.feature(features)[:, None]  # [B, 1, width]
        tokens = torch.where(masks[..., None], self.masked, self.visible(patches)) + self.place + context
        decoded: Tensor = self.out(self.blocks(torch.cat([context, tokens], dim=1))[:, 1:])
        return decoded

    def errors(self, features: Tensor, patches: Tensor, masks: Tensor) -> Tensor:
        """Return the mean squared error ``[B]`` over the masked pixels; arguments as :meth:`forward`."""
        decoded: Tensor = self(features, patches, masks)
        squares = (decoded - patches).square().mean(dim=2)  # [B, P]
        hidden = masks.to(squares).expand_as(squares)
        return (squares * hidden).sum(dim=1) / hidden.sum(dim=1)

    def to_patches(self, images: Tensor) -> Tensor:
        """Return uint8 images ``[N, 3, H, W]`` as patches ``[N, P, 3 p²]`` in [-1, 1]."""
        side, patch = self.config.side, self.config.patch
        unit = images.float() / 127.5 - 1.0
        if unit.shape[-2:] != (side, side):
            unit = F.interpolate(unit, (side, side), mode="bilinear", antialias=True, align_corners=False)
        return F.unfold(unit, patch, stride=patch).transpose(1, 2)

    def mask(self, share: float, generator: torch.Generator, rows: int | None = None) -> Tensor:
        """Return random masks, boolean ``[P]``, or ``[rows, P]``; ``share`` of the patches is hidden."""
        count = self.config.patches
        visible = max(1, round((1.0 - share) * count))
        shape: Sequence[int] = (count,) if rows is None else (rows, count)
        ranks = torch.rand(shape, generator=generator).argsort(dim=-1).argsort(dim=-1)
        return ranks >= visible

    @torch.no_grad()
    def score(self, features: Tensor, images: Tensor, masks: Sequence[Tensor]) -> Tensor:
        """Return the error ``[N]`` float64 of standardised features, averaged over masks.

        Args:
            features: ``[N, D]``.
            images: uint8 ``[N, 3, H, W]``.
            masks: Boolean ``[P]`` each, the same for all images, or ``[N, P]``.
        """
        results = []
        for start in range(0, len(images), BLOCK):
            part = slice(start, start + BLOCK)
            patches = self.to_patches(images[part])
            rows = [mask if mask.ndim == 1 else mask[part] for mask in masks]
            errors = [self.errors(features[part], patches, mask) for mask in rows]
            results.append(torch.stack(errors).double().mean(dim=0))
        return torch.cat(results) if results else torch.zeros(0, dtype=torch.float64)


def fit_masked_decoder(
    features: Tensor,
    images: Tensor,
    config: DecoderConfig | None = None,
    *,
    seed: int = 0,
    progress: Progress = SILENT,
) -> MaskedDecoder:
    """Train a decoder on clean samples.

    Args:
        features: Standardised ``[N, D]``.
        images: uint8 ``[N, 3, H, W]``.
        config: Size and training.
        seed: Draws weights, batches and masks.
        progress: Receives the steps.

    Raises:
        UsageError: There are fewer than 64 samples.
    """
    config = config or DecoderConfig()
    if len(images) < MIN_IMAGES:
        raise UsageError(f"a masked decoder needs at least {MIN_IMAGES} clean images, not {len(images)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder = MaskedDecoder(features.shape[1], config)
    generator = torch.Generator().manual_seed(seed)
    patches = decoder.to_patches(images)
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=config.rate, weight_decay=0.01)
    schedule: Any = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.rate, config.steps, pct_start=0.1)
    decoder.train()
    with progress.step("training the masked decoder", config.steps) as task:
        for _ in range(config.steps):
            rows = torch.randint(0, len(images), (config.batch_size,), generator=generator)
            masks = decoder.mask(config.train_mask, generator, len(rows))
            loss = decoder.errors(features[rows], patches[rows], masks).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            task.advance(note=f"loss {float(loss.detach()):.4f}")
    return decoder.eval().requires_grad_(False)


class DedeDetector:
    """Mean squared error over the masked pixels, by a decoder trained on clean samples.

    Args:
        heads: Fitted heads, for the standardisation.
        clean: Clean samples with images, which the decoder is trained on.
        setup: The seed; ``published`` draws one mask per image, in the order of the batch.

    Raises:
        NotApplicable: There are no images.
        UsageError: There are fewer than 64 clean samples.
    """

    name = "dede"
    needs = frozenset({Access.features, Access.images})
    bank = MIN_IMAGES
    description = "Error of the image drawn from the feature: weak where features say little about pixels."
    use_when = "You compare with DeDe; it sees less than the detectors that use references."
    published = "one random mask per image instead of four fixed ones"
    expected_auroc = ExpectedAuroc("white square", 0.80)

    def __init__(self, heads: Heads, clean: FeatureTuples | None = None, setup: Setup = DEFAULT_SETUP):
        bank, _ = require_images(type(self), clean, setup.model)
        self._heads, self._published, self._seed = heads, setup.mode == "published", setup.seed
        self._decoder = fit_masked_decoder(
            heads.standardise_source(bank), pixels_of(bank), seed=setup.seed, progress=setup.progress
        )

    def score(self, tuples: FeatureTuples) -> Tensor:
        """Return float64 ``[N]``; higher is more suspicious."""
        images, decoder = pixels_of(tuples), self._decoder
        generator = torch.Generator().manual_seed(self._seed)
        share, count = decoder.config.test_mask, decoder.config.masks
        if self._published:
            masks = [decoder.mask(share, generator, len(images))]
        else:
            masks = [decoder.mask(share, generator) for _ in range(count)]
        return decoder.score(self._heads.standardise_source(tuples), images, masks)


class DedePurifier:
    """Adam on the feature against the masked reconstruction error (Eq. 28), a new mask at every step.

    Args:
        heads: Fitted heads, for the standardisation.
        options: ``steps`` of Adam and its ``rate``.
        inputs: Clean samples with images.

    Raises:
        UsageError: There are fewer than 64 clean samples.
    """

    name = "dede"
    needs = frozenset({Access.features, Access.images})
    description = (
        "Fits the feature to the image through a decoder: lowers ASR, but cannot find the true class."
    )
    use_when = "You compare with DeDe; it repairs less than the purifiers that use references."

    def __init__(self, heads: Heads, options: PurifyOptions, inputs: PurifierInputs):
        self._heads, self._options = heads, options
        self._decoder = fit_masked_decoder(
            heads.standardise_source(inputs.clean),
            pixels_of(inputs.clean),
            seed=inputs.seed,
            progress=inputs.progress,
        )

    @property
    def evaluations(self) -> int:
        """Forward and backward passes of the decoder per sample."""
        return self._options.steps

    def purify(self, tuples: FeatureTuples, *, generator: torch.Generator) -> Tensor:
        """Return optimised source features ``[N, D_s]`` float32, de-standardised."""
        decoder, images = self._decoder, pixels_of(tuples)
        share = decoder.config.test_mask
        masks = [decoder.mask(share, generator) for _ in range(self._options.steps)]
        standard = self._heads.standardise_source(tuples)
        results = []
        for start in range(0, len(images), BLOCK):
            part = slice(start, start + BLOCK)
            patches = decoder.to_patches(images[part])
            latent = standard[part].clone().requires_grad_(True)
            optimiser = torch.optim.Adam([latent], lr=self._options.rate)
            for mask in masks:
                optimiser.zero_grad()
                # a sum, and Adam works element by element: no row depends on the others of its block
                decoder.errors(latent, patches, mask).sum().backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            results.append(latent.detach())
        return self._heads.source_standardiser.invert(torch.cat(results) if results else standard)
