"""Triggers and planted attacks."""

from platodef_cli.registry import Table

TRIGGERS = Table(
    "trigger",
    {
        "patch": "platodef_cli.attacks.triggers:Patch",
        "blend": "platodef_cli.attacks.triggers:Blend",
        "ctrl": "platodef_cli.attacks.triggers:Ctrl",
        "sig": "platodef_cli.attacks.triggers:Sig",
        "noise": "platodef_cli.attacks.triggers:Noise",
        "wanet": "platodef_cli.attacks.triggers:WaNet",
        "filter": "platodef_cli.attacks.triggers:ColourFilter",
        "text": "platodef_cli.attacks.text:Text",
        "pattern": "platodef_cli.attacks.triggers:Pattern",
    },
)
CONTROLS = Table(
    "control",
    {
        "jpeg": "platodef_cli.attacks.controls:Jpeg",
        "blur": "platodef_cli.attacks.controls:Blur",
        "crop": "platodef_cli.attacks.controls:Crop",
        "mild-noise": "platodef_cli.attacks.controls:MildNoise",
    },
)
