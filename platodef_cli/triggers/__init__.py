"""Changes of images that an audit needs: triggers, benign controls, and the battery of both."""

from dataclasses import is_dataclass
from typing import Any

from platodef_cli.registry import Registry

_REQUIRES = ("()", "name", "__call__(pixels, seeds)")


def _fault(kind: Any) -> str:
    """Return what is wrong with a plug-in's change of images, tried on two grey images."""
    import torch

    made: Any = kind()
    if not is_dataclass(kind):
        return "it is no dataclass, whose fields are its parameters"
    name = getattr(made, "name", None)
    if not isinstance(name, str) or not name:
        return f"its name is {name!r:.60}, not a text"
    pixels = torch.full((2, 3, 64, 64), 128, dtype=torch.uint8)
    changed = made(pixels.clone(), torch.arange(2))
    if not isinstance(changed, torch.Tensor):
        return f"it gives {type(changed).__name__}, not a tensor"
    if changed.dtype != torch.uint8 or changed.shape != pixels.shape:
        return f"it gives {changed.dtype} {list(changed.shape)} for uint8 {list(pixels.shape)}"
    return ""


TRIGGERS = Registry(
    "trigger",
    {
        "patch": "platodef_cli.triggers.triggers:Patch",
        "blend": "platodef_cli.triggers.triggers:Blend",
        "ctrl": "platodef_cli.triggers.triggers:Ctrl",
        "sig": "platodef_cli.triggers.triggers:Sig",
        "noise": "platodef_cli.triggers.triggers:Noise",
        "wanet": "platodef_cli.triggers.triggers:WaNet",
        "filter": "platodef_cli.triggers.triggers:ColourFilter",
        "text": "platodef_cli.triggers.text:Text",
        "pattern": "platodef_cli.triggers.triggers:Pattern",
        "generator": "platodef_cli.triggers.generator:Generated",
    },
    group="platodef.triggers",
    requires=_REQUIRES,
    fault=_fault,
)

CONTROLS = Registry(
    "control",
    {
        "jpeg": "platodef_cli.triggers.controls:Jpeg",
        "blur": "platodef_cli.triggers.controls:Blur",
        "crop": "platodef_cli.triggers.controls:Crop",
        "mild-noise": "platodef_cli.triggers.controls:MildNoise",
    },
    group="platodef.controls",
    requires=_REQUIRES,
    fault=_fault,
)
