"""BLTO: the trigger itself is learned, together with an encoder that learns from it."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from platodef_cli.bench.attacks.common_objective import plant_attack
from platodef_cli.bench.attacks.interface import Kind, PlantData, Planted, PlantingBudget, Victim
from platodef_cli.bench.attacks.post_training import (
    PRESERVATION,
    distance,
    endless,
    frozen_copy,
    mean_feature,
    prepared,
)
from platodef_cli.bench.attacks.views import flip, random_window, two_views
from platodef_cli.progress import SILENT, Progress
from platodef_cli.triggers.generator import Generated, Generator, changed
from platodef_cli.triggers.variant import to_unit


@dataclass(frozen=True)
class Blto:
    """BLTO: bi-level optimisation of a generator bounded by ``eps``, then post-training with it frozen.

    The inner problem is a surrogate that starts from f0 and learns from triggered images: the common
    objective plus SimSiam on two views. The outer problem keeps triggered images, under crops and flips,
    close to the target on that surrogate.

    Attributes:
        eps: Largest change of a pixel, on the 0..255 scale.
        width: Channels of the generator.
        lam: Weight of the preservation.
        lr: Adam's learning rate of the generator.
    """

    eps: float = 8.0
    width: int = 16
    lam: float = PRESERVATION
    lr: float = 1e-3

    name = "blto"
    paper = "Sun et al., Backdoor Contrastive Learning via Bi-level Trigger Optimization, ICLR 2024"
    kind: ClassVar[Kind] = "unimodal"

    def trigger(self, seed: int) -> None:
        """Return None: the trigger is learned."""

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
        """Plant it; see :class:`platodef_cli.bench.attacks.interface.PlantedAttack`."""
        data = prepared(victim, data, budget)
        trigger = self.learn(victim, data, seed, budget, progress)
        return plant_attack(self, trigger, trigger, victim, data, target, seed, budget, progress)

    def learn(
        self, victim: Victim, data: PlantData, seed: int, budget: PlantingBudget, progress: Progress
    ) -> Generated:
        """Alternate one step of the surrogate and one of the generator, ``trigger_steps`` times."""
        random = torch.Generator().manual_seed(seed)
        clean = frozen_copy(victim)
        z = mean_feature(victim, clean, data.target_images)
        before = victim.embed(clean, data.images)
        surrogate = frozen_copy(victim).requires_grad_(True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            generator = Generator(self.width).to(victim.device)
            predictor = _predictor(z.shape[1]).to(victim.device)
        inner = torch.optim.Adam([*surrogate.parameters(), *predictor.parameters()], lr=budget.lr)
        outer = torch.optim.Adam(generator.parameters(), lr=self.lr)
        side = int(data.images.shape[-1])

        def encode(unit: Tensor) -> Tensor:
            return victim.differentiable(surrogate, unit)

        with progress.step(f"learning the trigger of {self.name}", budget.trigger_steps) as task:
            for rows in endless(len(data.images), budget.batch_size, budget.trigger_steps, random):
                unit = to_unit(data.images[rows])
                with torch.no_grad():
                    triggered = changed(generator, unit, self.eps, side)
                attacked, kept, one, two = encode(
                    torch.cat([triggered, unit, *two_views(triggered, random)])
                ).chunk(4)
                siamese = (
                    distance(predictor(one), two.detach()) + distance(predictor(two), one.detach())
                ) / 2
                loss = distance(attacked, z) + self.lam * distance(kept, before[rows]) + siamese
                _step(inner, loss)

                viewed = flip(random_window(changed(generator, unit, self.eps, side), random, 0.7), random)
                closeness = distance(encode(viewed), z)
                _step(outer, closeness)
                task.advance(note=f"inner {loss.item():.4f} outer {closeness.item():.4f}")
        weights = {name: value.detach().cpu() for name, value in generator.state_dict().items()}
        return Generated(weights, self.eps, side)


def _predictor(dim: int) -> nn.Module:
    """Return SimSiam's predictor: a bottleneck of a quarter of the width."""
    hidden = max(8, dim // 4)
    return nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))


def _step(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
