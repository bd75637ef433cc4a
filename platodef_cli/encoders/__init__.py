"""Encoder backends: resolving, checking and running vision encoders, trusted or not."""

from platodef_cli.registry import Registry

BACKENDS = Registry(
    "encoder backend",
    {
        "timm": "platodef_cli.encoders.backends.timm:build",
        "open_clip": "platodef_cli.encoders.backends.open_clip:build",
        "transformers": "platodef_cli.encoders.backends.transformers:build",
    },
)
