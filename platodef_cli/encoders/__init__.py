"""Encoder backends: resolving, checking and running vision encoders, trusted or not."""

from platodef_cli.registry import Registry

BACKENDS = Registry(
    "encoder backend",
    {
        "transformers": "platodef_cli.encoders.backends.transformers:TransformersBackend",
        "open_clip": "platodef_cli.encoders.backends.open_clip:OpenClipBackend",
        "timm": "platodef_cli.encoders.backends.timm:TimmBackend",
    },
    group="platodef.backends",
    requires=("()", "layouts(config, names)", "architecture(configuration)", "builder()"),
)
"""Rows implement :class:`platodef_cli.encoders.backends.interface.Backend`.

A folder goes to the first row that recognises it and finds its weights; a plug-in's row is asked after these,
so it cannot change how a folder is read that platodef knows.
"""
