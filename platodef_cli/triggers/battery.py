"""The trigger battery: known trigger families, and benign controls of equal strength."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from platodef_cli.errors import UnknownNameError, UsageError
from platodef_cli.features.interface import Variant
from platodef_cli.images.shapes import render
from platodef_cli.plugins import Plugin
from platodef_cli.registry import Registry
from platodef_cli.triggers import CONTROLS, TRIGGERS
from platodef_cli.triggers.controls import Blur, Crop, Jpeg, MildNoise
from platodef_cli.triggers.semantic import Flip, Greyscale, Rotation
from platodef_cli.triggers.text import Text
from platodef_cli.triggers.triggers import Blend, ColourFilter, Ctrl, Noise, Patch, Sig, WaNet
from platodef_cli.triggers.variant import parameters

HTBA_SIDE = 0.2232  # 50 of 224 pixels, 7 of 32
BADENCODER_SIDE = 0.3125  # 10 of 32 pixels


@dataclass(frozen=True)
class BatteryItem:
    """One change that an audit tries.

    Attributes:
        variant: The change of images.
        family: Its family (``patch``, ``ctrl``, ``jpeg``).
        kind: A trigger, or a benign control.
    """

    variant: Variant
    family: str
    kind: Literal["trigger", "control"]

    @property
    def parameters(self) -> dict[str, float | int | str]:
        """The numbers and words that define the variant, for :class:`ProbeRecord`."""
        return parameters(self.variant)


@dataclass(frozen=True)
class Strength:
    """How much a change alters images on average.

    Attributes:
        l2: Mean Euclidean norm of the change, pixels in [0, 1], 32 x 32.
        psnr: Peak signal-to-noise ratio of the mean squared error, dB.
    """

    l2: float
    psnr: float


_QUICK = (
    BatteryItem(Patch("white", BADENCODER_SIDE, "bottom-right"), "patch", "trigger"),
    BatteryItem(Patch("random", HTBA_SIDE, "random"), "patch", "trigger"),
    BatteryItem(Blend(0.15), "blend", "trigger"),
    BatteryItem(Ctrl(100), "ctrl", "trigger"),
    BatteryItem(Sig(20), "sig", "trigger"),
    BatteryItem(Noise(8), "noise", "trigger"),
    BatteryItem(Patch("grey", BADENCODER_SIDE, "bottom-right"), "patch", "control"),
    BatteryItem(Jpeg(50), "jpeg", "control"),
    BatteryItem(Blur(0.025), "blur", "control"),
    BatteryItem(Crop(0.85), "crop", "control"),
)
_MORE = (
    BatteryItem(Patch("white", 5 / 32, "bottom-right"), "patch", "trigger"),
    *(
        BatteryItem(Patch("white", BADENCODER_SIDE, place), "patch", "trigger")
        for place in ("top-left", "top-right", "bottom-left", "centre")
    ),
    BatteryItem(Patch("black", BADENCODER_SIDE, "bottom-right"), "patch", "trigger"),
    BatteryItem(Patch("random", BADENCODER_SIDE, "centre"), "patch", "trigger"),
    BatteryItem(Patch("random", 4 / 32, "random"), "patch", "trigger"),
    BatteryItem(Ctrl(50), "ctrl", "trigger"),
    BatteryItem(Noise(8, cells=8, smooth=True), "noise", "trigger"),
    BatteryItem(WaNet(), "wanet", "trigger"),
    BatteryItem(ColourFilter(), "filter", "trigger"),
    BatteryItem(Text(), "text", "trigger"),
    BatteryItem(Greyscale(), "greyscale", "trigger"),
    BatteryItem(Rotation(15), "rotation", "trigger"),
    BatteryItem(Flip(), "flip", "trigger"),
    BatteryItem(Patch("grey", HTBA_SIDE, "random"), "patch", "control"),
    BatteryItem(Patch("grey", BADENCODER_SIDE, "centre"), "patch", "control"),
    BatteryItem(MildNoise(8), "mild-noise", "control"),
)
_BATTERIES = {"standard": (*_QUICK, *_MORE), "quick": _QUICK}


def battery(kind: str = "standard", extra: Sequence[str] = ()) -> tuple[BatteryItem, ...]:
    """Return the changes of a battery: ``standard``, or ``quick`` with the fewest that cover each kind.

    Args:
        kind: Name of the battery.
        extra: Names of plug-ins; the triggers and controls that they add follow, with their default
            parameters. What else they add is not looked at.

    Raises:
        UnknownNameError: There is no battery of that name.
        UsageError: A plug-in's trigger or control cannot be loaded, or is named like another one.
    """
    if kind not in _BATTERIES:
        raise UnknownNameError("battery", kind, _BATTERIES)
    items = {item.variant.name: item for item in _BATTERIES[kind]}
    # a found trigger and a feature file know a change by its name alone
    taken = {item.variant.name for item in _BATTERIES["standard"]} | {"clean"}
    for item, plugin in _of_plugins(extra):
        name = item.variant.name
        if name in taken:
            raise UsageError(f"{plugin}: its {item.kind} is called {name!r}, as another one of the battery")
        taken.add(name)
        items[name] = item
    return tuple(items.values())


def _of_plugins(names: Sequence[str]) -> Iterator[tuple[BatteryItem, Plugin]]:
    """Return the triggers, then the controls, of plug-ins in the order of their names."""
    kinds: tuple[tuple[Registry, Literal["trigger", "control"]], ...] = (
        (TRIGGERS, "trigger"),
        (CONTROLS, "control"),
    )
    for table, kind in kinds:
        for name in sorted(set(names) & set(table.plugins())):
            plugin = table.plugin(name)
            assert plugin is not None
            yield BatteryItem(table.load(name)(), name, kind), plugin


def strength(item: BatteryItem, count: int = 128) -> Strength:
    """Measure a change on ``count`` images of ``builtin:shapes``, to compare controls with triggers."""
    pixels = torch.from_numpy(render(0, np.arange(count))[0])
    changed = item.variant(pixels, torch.arange(count))
    difference = (changed.double() - pixels.double()) / 255
    mse = float(difference.square().mean())
    l2 = float(difference.flatten(1).norm(dim=1).mean())
    return Strength(l2=l2, psnr=float("inf") if mse == 0 else -10 * float(np.log10(mse)))
