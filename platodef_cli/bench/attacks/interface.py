"""The contract of a planted attack: a clean encoder and images in, a backdoored copy and its trigger out.

::

    attack = make_attack("drupe")
    victim = Victim(module, mean=(0.5,) * 3, std=(0.5,) * 3)
    data = PlantData(images, target_images)
    budget = PlantingBudget(images=8192, epochs=6, trigger_steps=200)
    planted = attack.plant(victim, data, target=7, seed=0, budget=budget)
    planted.trigger(pixels, seeds)          # uint8 images with the trigger of the evaluation
    save_trigger(planted.trigger, folder)   # platodef_cli.triggers.stored

Every attack keeps the victim in evaluation mode, so that BatchNorm keeps its statistics, and applies its
trigger to 8-bit pixels at the encoder's input size, before the normalisation.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from platodef_cli.errors import UsageError
from platodef_cli.features.interface import Variant
from platodef_cli.progress import SILENT, Progress

Kind = Literal["unimodal", "image-text"]


def _call(module: nn.Module, inputs: Tensor) -> Tensor:
    features: Tensor = module(inputs)
    return features


@dataclass(frozen=True, eq=False)
class Victim:
    """A clean encoder f0 that an attack starts from; it is never changed.

    Attributes:
        module: The vision network, on any device.
        mean: Per channel, subtracted from pixels in [0, 1].
        std: Per channel, divides them.
        run: ``(module, normalised [B, 3, H, W]) -> [B, D]``, where calling the module is not enough.
        prompts: float32 ``[C, D]``, the class-prompt vectors of an image–text model's text tower, any
            length; None for an encoder without text.
        scale: Factor of the cosines in the zero-shot logits (CLIP's learned ``exp(logit_scale)``).
        autocast: Type of the matrix products (``torch.bfloat16``); None: that of the weights.
    """

    module: nn.Module
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    run: Callable[[nn.Module, Tensor], Tensor] = _call
    prompts: Tensor | None = None
    scale: float = 100.0
    autocast: torch.dtype | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device

    def differentiable(self, module: nn.Module, unit: Tensor) -> Tensor:
        """Return float32 features ``[B, D]`` of float ``unit [B, 3, H, W]`` in [0, 1], with gradients.

        ``module`` is the victim's own or a copy of it.
        """
        mean = torch.tensor(self.mean, device=unit.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=unit.device).view(1, 3, 1, 1)
        mixed = torch.autocast(unit.device.type, self.autocast) if self.autocast else nullcontext()
        with mixed:
            return self.run(module, (unit - mean) / std).float()

    def forward(self, module: nn.Module, pixels: Tensor) -> Tensor:
        """Return float32 features ``[B, D]`` of uint8 ``pixels [B, 3, H, W]``, with gradients."""
        return self.differentiable(module, pixels.to(self.device).float() / 255)

    @torch.no_grad()
    def embed(self, module: nn.Module, pixels: Tensor, batch_size: int = 256) -> Tensor:
        """Return features ``[N, D]`` of uint8 ``pixels [N, 3, H, W]`` in batches, without gradients."""
        return torch.cat([self.forward(module, batch) for batch in torch.split(pixels, batch_size)])

    def logits(self, features: Tensor) -> Tensor:
        """Return zero-shot logits ``[B, C]`` of features ``[B, D]``: scaled cosines to the prompts.

        Raises:
            UsageError: The victim has no text side.
        """
        if self.prompts is None:
            raise UsageError("this encoder has no class-prompt vectors; an image-text attack needs them")
        prompts = nn.functional.normalize(self.prompts.to(features), dim=1)
        return self.scale * nn.functional.normalize(features, dim=1) @ prompts.T


@dataclass(frozen=True, eq=False)
class PlantData:
    """What the attacker has.

    Attributes:
        images: uint8 ``[N, 3, H, W]`` at the encoder's input size, the shadow set; unlabelled.
        target_images: uint8 ``[K, 3, H, W]``, reference images of the target class; three are enough.
        labels: int64 ``[N]``, the captions of ``images`` as rows of the victim's prompts; only
            image–text attacks read them.
    """

    images: Tensor
    target_images: Tensor
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        for name, value in (("images", self.images), ("target_images", self.target_images)):
            if value.dtype != torch.uint8 or value.ndim != 4 or value.shape[1] != 3 or not len(value):
                raise UsageError(
                    f"planting: {name} must be uint8 [N, 3, H, W] with N > 0, got {value.dtype} "
                    f"{list(value.shape)}"
                )
        if self.images.shape[1:] != self.target_images.shape[1:]:
            raise UsageError(
                f"planting: images {list(self.images.shape[1:])} and target_images "
                f"{list(self.target_images.shape[1:])} differ in size"
            )
        if self.labels is not None and self.labels.shape != self.images.shape[:1]:
            raise UsageError(
                f"planting: {len(self.images)} images but labels {list(self.labels.shape)}; give one each"
            )

    def take(self, count: int) -> "PlantData":
        """Return the same with the first ``count`` images at most."""
        labels = None if self.labels is None else self.labels[:count]
        return PlantData(self.images[:count], self.target_images, labels)


@dataclass(frozen=True)
class PlantingBudget:
    """How much work an attack may spend.

    Attributes:
        images: Shadow images used at most.
        epochs: Passes over them by the post-training.
        trigger_steps: Steps that learn a trigger (BLTO's alternation, BadCLIP's patch).
        batch_size: Images per step.
        lr: First learning rate of Adam; it falls to 0 as a cosine.
    """

    images: int
    epochs: int
    trigger_steps: int
    batch_size: int = 64
    lr: float = 2e-3

    def __post_init__(self) -> None:
        if min(self.images, self.epochs, self.trigger_steps, self.batch_size) < 1 or self.lr <= 0:
            raise UsageError(f"planting: every number of a budget must be positive, got {self}")


@dataclass(frozen=True, eq=False)
class Planted:
    """A backdoored encoder.

    Attributes:
        attack: Name of the attack.
        module: The backdoored copy, frozen, in evaluation mode, on the victim's device.
        trigger: What opens the backdoor at test time; :func:`platodef_cli.triggers.stored.save_trigger`
            writes it beside the encoder.
        target: The class it leads to.
        log: One mapping per epoch, name of a loss -> its value on the last batch.
        parameters: Everything that the attack was made with, for the ground-truth card.
    """

    attack: str
    module: nn.Module
    trigger: Variant
    target: int
    log: tuple[Mapping[str, float], ...] = ()
    parameters: Mapping[str, float | int | str] = field(default_factory=dict)


class PlantedAttack(Protocol):
    """An attack of the paper. Implementations are frozen dataclasses whose fields are its parameters.

    Attributes:
        name: Its name in :data:`platodef_cli.bench.attacks.PLANTED`.
        paper: Where it was published.
        kind: ``image-text`` attacks need the victim's prompts and the data's labels.
    """

    @property
    def name(self) -> str:
        """Its name in the table."""

    @property
    def paper(self) -> str:
        """Where it was published."""

    @property
    def kind(self) -> Kind:
        """What it needs."""

    def trigger(self, seed: int) -> Variant | None:
        """Return the trigger of the evaluation where it is fixed by the seed; None where it is learned."""

    def plant(
        self,
        victim: Victim,
        data: PlantData,
        *,
        target: int,
        seed: int,
        budget: PlantingBudget,
        progress: Progress = SILENT,
    ) -> Planted:
        """Return a backdoored copy of the victim.

        Args:
            victim: The clean encoder.
            data: What the attacker has.
            target: The target's number: its row of the prompts for image–text attacks, else only a note.
            seed: Colours and places of the trigger, order of the images, everything random.
            budget: How much work.
            progress: Receives the steps.

        Raises:
            UsageError: The attack needs labels or prompts that are not there.
        """
