"""A backdoor that a smooth warp opens: WaNet's trigger with the common objective."""

from dataclasses import dataclass
from typing import ClassVar

from platodef_cli.bench.attacks.common_objective import plant_attack
from platodef_cli.bench.attacks.interface import Kind, PlantData, Planted, PlantingBudget, Victim
from platodef_cli.bench.attacks.post_training import PRESERVATION
from platodef_cli.progress import SILENT, Progress
from platodef_cli.triggers.triggers import WaNet


@dataclass(frozen=True)
class WarpAttack:
    """WaNet: a fixed smooth displacement of the whole image, without the paper's noise mode.

    Attributes:
        shift: Mean displacement along each axis, as a fraction of the image's side.
        cells: Control points per side.
        lam: Weight of the preservation.
    """

    shift: float = 0.03
    cells: int = 4
    lam: float = PRESERVATION

    name = "warp"
    paper = "Nguyen and Tran, WaNet: Imperceptible Warping-based Backdoor Attack, ICLR 2021"
    kind: ClassVar[Kind] = "unimodal"

    def trigger(self, seed: int) -> WaNet:
        """Return the warp; the seed draws its field."""
        return WaNet(self.shift, self.cells, seed)

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
        trigger = self.trigger(seed)
        return plant_attack(self, trigger, trigger, victim, data, target, seed, budget, progress)
