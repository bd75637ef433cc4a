"""ZIP (Shi et al. 2023): redraw the image by diffusion, keep what is too coarse for a trigger.

An unconditional diffusion model draws a picture whose coarse part, the range of a linear operator A, is
fixed to that of the suspicious image; the suspect's feature of the new picture replaces the old feature.
The model is a small one trained on clean images, or a pipeline of diffusers.

Needs images, the suspect, and either small images (at most 64 pixels) or a diffusion model.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from platodef_cli.defences.interface import PurifierInputs, PurifyOptions
from platodef_cli.errors import NotApplicable, UsageError
from platodef_cli.features.access import Access, pixels_of
from platodef_cli.features.interface import FeatureTuples
from platodef_cli.heads.heads import Heads
from platodef_cli.progress import SILENT, Progress

MIN_IMAGES = 64
MAX_SIDE = 64  # pixels; larger images need a diffusion model that was trained elsewhere
STEPS = 1000  # times of the small model
BLOCK = 128  # images per pass of the diffusion model
POOL = 4  # side of the blocks that the operator ``pool`` averages over, pixels


class ImageDiffusion(Protocol):
    """A model that predicts the noise in a picture.

    Attributes:
        size: Height and width.
        retained: ``[T]``, share of the picture's variance at every time (alpha bar), decreasing.
    """

    size: tuple[int, int]
    retained: Tensor

    def noise(self, x: Tensor, time: int) -> Tensor:
        """Return the predicted noise ``[B, 3, H, W]`` in ``x``, pixels in [-1, 1] noised to ``time``."""


class SmallDiffusion(nn.Module):
    """A convolutional U-shape over 2x2 blocks of pixels (DDPM, Ho et al. 2020), for sides up to 64.

    Args:
        size: Height and width, divisible by 4.
        width: Channels.
    """

    def __init__(self, size: tuple[int, int], width: int = 32):
        super().__init__()
        self.size = size
        self.retained = (1.0 - torch.linspace(1e-4, 0.02, STEPS)).cumprod(dim=0)
        self.time = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, 4 * width))
        self.enter = nn.Conv2d(12, width, 3, padding=1)
        self.fine = nn.ModuleList([ResidualBlock(width, width) for _ in range(2)])
        self.coarse = nn.ModuleList([ResidualBlock(width, width), ResidualBlock(width, width)])
        self.leave = ResidualBlock(2 * width, width)
        self.out = nn.Conv2d(width, 12, 3, padding=1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return the noise in ``x`` ``[B, 3, H, W]`` at times int64 ``[B]``."""
        angles = time[:, None].float() * torch.logspace(0, -4, 16).to(x)
        waves = self.time(torch.cat([angles.sin(), angles.cos()], dim=1))
        shifts = waves[:, :, None, None].chunk(4, dim=1)
        h = self.enter(F.pixel_unshuffle(x, 2))
        for block, shift in zip(self.fine, shifts[:2], strict=True):
            h = block(h, shift)
        low = F.avg_pool2d(h, 2)
        for block in self.coarse:
            low = block(low, shifts[2])
        h = self.leave(torch.cat([h, F.interpolate(low, scale_factor=2.0)], dim=1), shifts[3])
        return F.pixel_shuffle(self.out(F.silu(h)), 2)

    @torch.no_grad()
    def noise(self, x: Tensor, time: int) -> Tensor:
        """Return the predicted noise; see :class:`ImageDiffusion`."""
        noise: Tensor = self(x, torch.full((len(x),), time))
        return noise


class ResidualBlock(nn.Module):
    """Two convolutions with a shift by time between them."""

    def __init__(self, incoming: int, width: int):
        super().__init__()
        self.first = nn.Conv2d(incoming, width, 3, padding=1)
        self.norm = nn.GroupNorm(8, width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.skip = nn.Conv2d(incoming, width, 1) if incoming != width else nn.Identity()

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        """Return ``[B, width, H, W]``."""
        inner = F.silu(self.norm(self.first(F.silu(x))) + shift)
        out: Tensor = self.skip(x) + self.second(inner)
        return out


def fit_small_diffusion(
    images: Tensor,
    *,
    steps: int = 300,
    batch_size: int = 32,
    rate: float = 2e-3,
    seed: int = 0,
    progress: Progress = SILENT,
) -> SmallDiffusion:
    """Train the small model on clean images.

    Args:
        images: uint8 ``[N, 3, H, W]``.
        steps: Optimiser steps.
        batch_size: Images per step; every second time they are mirrored.
        rate: Adam's first learning rate.
        seed: Draws weights, batches, times and noise.
        progress: Receives the steps.

    Raises:
        NotApplicable: The images are larger than 64 pixels, or their sides no multiples of 4.
        UsageError: There are fewer than 64 images.
    """
    height, width = images.shape[-2:]
    if max(height, width) > MAX_SIDE or height % 4 or width % 4:
        raise NotApplicable(
            f"images of {height}x{width} pixels need a real diffusion model; give one with --diffusion"
        )
    if len(images) < MIN_IMAGES:
        raise UsageError(f"a diffusion model needs at least {MIN_IMAGES} clean images, not {len(images)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SmallDiffusion((height, width))
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    schedule: Any = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.1)
    with progress.step("training the small diffusion model", steps) as task:
        for step in range(steps):
            rows = torch.randint(0, len(images), (batch_size,), generator=generator)
            clean = images[rows].float() / 127.5 - 1.0
            clean = clean.flip(3) if step % 2 else clean
            times = torch.randint(0, STEPS, (batch_size,), generator=generator)
            noise = torch.randn(clean.shape, generator=generator)
            kept = model.retained[times].reshape(-1, 1, 1, 1)
            loss = (model(kept.sqrt() * clean + (1 - kept).sqrt() * noise, times) - noise).square().mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            task.advance(note=f"loss {float(loss.detach()):.4f}")
    return model.eval().requires_grad_(False)


class PipelineDiffusion:
    """An unconditional pipeline of diffusers, from a local folder, safetensors only.

    Args:
        folder: Holds ``unet/`` and ``scheduler/``, as ``DDPMPipeline.save_pretrained`` writes them.

    Raises:
        NotApplicable: diffusers is not installed.
        UsageError: The folder holds no unconditional RGB model that predicts noise, or a pickle only.
    """

    def __init__(self, folder: str | Path):
        try:
            from diffusers import DDPMScheduler, UNet2DModel
        except ImportError:
            raise NotApplicable("needs diffusers; pip install 'platodef[diffusion]'") from None
        path = Path(folder)
        if not (path / "unet" / "config.json").is_file():
            raise UsageError(f"{folder} is no folder of a diffusers pipeline: it lacks unet/config.json")
        try:
            network: Any = UNet2DModel.from_pretrained(
                path / "unet", use_safetensors=True, local_files_only=True
            )
            scheduler: Any = DDPMScheduler.from_pretrained(path / "scheduler", local_files_only=True)
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(f"{folder}: not an unconditional pipeline in safetensors ({reason})") from None
        config = network.config
        kind = scheduler.config.prediction_type
        if config.in_channels != 3 or config.num_class_embeds or kind != "epsilon":
            raise UsageError(f"{folder}: only unconditional RGB models that predict noise can be used")
        side = config.sample_size
        self.size: tuple[int, int] = (side, side) if isinstance(side, int) else (side[0], side[1])
        self.retained: Tensor = scheduler.alphas_cumprod
        self._network = network.eval().requires_grad_(False)

    @torch.no_grad()
    def noise(self, x: Tensor, time: int) -> Tensor:
        """Return the predicted noise; see :class:`ImageDiffusion`."""
        noise: Tensor = self._network(x, time).sample[:, :3]
        return noise


def ddim_times(count: int, total: int) -> Sequence[int]:
    """Return ``count`` times from the last one down to 0, evenly spaced."""
    return [round(value) for value in torch.linspace(total - 1, 0, count).tolist()]


Projection = Callable[[Tensor], Tensor]
"""``x -> A+ A x`` for pixels ``[B, 3, H, W]``: the part of a picture that a linear operator A keeps."""


def grey(x: Tensor) -> Tensor:
    """Return ``A+ A x`` for the mean over colours, ``[B, 3, H, W]``."""
    return x.mean(dim=1, keepdim=True).expand_as(x)


def pooled(x: Tensor) -> Tensor:
    """Return ``A+ A x`` for the average over blocks of 4x4 pixels, ``[B, 3, H, W]``."""
    return F.interpolate(F.avg_pool2d(x, POOL), scale_factor=float(POOL))


PROJECTIONS: dict[str, Projection] = {"grey": grey, "pool": pooled}
"""Operators of :class:`~platodef_cli.defences.interface.PurifyOptions`."""


class ZipPurifier:
    """20 DDIM steps from noise, the range of A fixed to the suspicious image; then the suspect's feature.

    Args:
        heads: Not used.
        options: ``steps`` of DDIM; ``operator``.
        inputs: The suspect, clean images to train a small diffusion model on, or a ready one.

    Raises:
        NotApplicable: The model does not fit the suspect's images.
    """

    name = "zip"
    needs = frozenset({Access.images})
    description = (
        "Redraws the image by diffusion: needs no features, costs clean accuracy, keeps large triggers."
    )
    use_when = "You have no reference encoder, and the time to redraw every image by diffusion."

    def __init__(self, heads: Heads, options: PurifyOptions, inputs: PurifierInputs):
        self._options, self._model = options, inputs.model
        self._project = PROJECTIONS[options.operator]
        self._diffusion: ImageDiffusion = inputs.diffusion or fit_small_diffusion(
            pixels_of(inputs.clean), seed=inputs.seed, progress=inputs.progress
        )
        if self._diffusion.size != tuple(inputs.model.size):
            raise NotApplicable(
                f"the diffusion model draws {self._diffusion.size[0]}x{self._diffusion.size[1]} pixels, "
                f"the encoder takes {inputs.model.size[0]}x{inputs.model.size[1]}"
            )

    @property
    def evaluations(self) -> int:
        """Passes of the diffusion model per sample."""
        return self._options.steps

    def purify(self, tuples: FeatureTuples, *, generator: torch.Generator) -> Tensor:
        """Return the suspect's features ``[N, D_s]`` float32 of the redrawn images."""
        images = self.redraw(pixels_of(tuples), generator=generator)
        return self._model.features(((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))

    def redraw(self, images: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return redrawn images float32 ``[N, 3, H, W]``, about [-1, 1], of uint8 ``[N, 3, H, W]``.

        ``A`` of the result equals ``A`` of the input; only rounding to bytes changes that.
        """
        if not len(images):
            return images.float()
        return torch.cat([self._redraw(part, generator) for part in torch.split(images, BLOCK)])

    def _redraw(self, images: Tensor, generator: torch.Generator) -> Tensor:
        observed = images.float() / 127.5 - 1.0
        kept = self._project(observed)
        retained = self._diffusion.retained.double()
        x = torch.randn(observed.shape, generator=generator)
        times = [*ddim_times(self._options.steps, len(retained)), -1]
        for now, after in zip(times[:-1], times[1:], strict=True):
            share = float(retained[now])
            noise = self._diffusion.noise(x, now)
            clean = ((x - (1 - share) ** 0.5 * noise) / share**0.5).clamp(-1, 1)
            clean = kept + clean - self._project(clean)
            # the noise that leads to the corrected estimate, so that both stay consistent
            noise = (x - share**0.5 * clean) / (1 - share) ** 0.5
            left = float(retained[after]) if after >= 0 else 1.0
            x = left**0.5 * clean + (1 - left) ** 0.5 * noise
        return x
