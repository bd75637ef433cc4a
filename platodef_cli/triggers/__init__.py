"""Changes of images that an audit needs: triggers, benign controls, and the battery of both."""

from platodef_cli.registry import Registry

_REQUIRES = ("()", "name", "__call__(pixels, seeds)")


TRIGGERS = Registry(
    "trigger",
    {
        "patch": "platodef_cli.triggers.triggers:Patch",
        "patches": "platodef_cli.triggers.patches:Patches",
        "blend": "platodef_cli.triggers.triggers:Blend",
        "ctrl": "platodef_cli.triggers.triggers:Ctrl",
        "sig": "platodef_cli.triggers.triggers:Sig",
        "noise": "platodef_cli.triggers.triggers:Noise",
        "wanet": "platodef_cli.triggers.triggers:WaNet",
        "filter": "platodef_cli.triggers.triggers:ColourFilter",
        "text": "platodef_cli.triggers.text:Text",
        "greyscale": "platodef_cli.triggers.semantic:Greyscale",
        "rotation": "platodef_cli.triggers.semantic:Rotation",
        "flip": "platodef_cli.triggers.semantic:Flip",
        "pattern": "platodef_cli.triggers.triggers:Pattern",
        "generator": "platodef_cli.triggers.generator:Generated",
    },
    group="platodef.triggers",
    requires=_REQUIRES,
    fault="platodef_cli.triggers.variant:fault_of",
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
    fault="platodef_cli.triggers.variant:fault_of",
)
