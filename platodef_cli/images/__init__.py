"""Image sources: where an audit gets its calibration images from.

:func:`platodef_cli.images.open.open_source` opens a folder, a ``.parquet`` file, ``hf://datasets/...`` or
``builtin:shapes``.
"""

from platodef_cli.registry import Registry

SOURCES = Registry(
    "image source",
    {
        "folder": "platodef_cli.images.folder:FolderSource",
        "shards": "platodef_cli.images.shards:ShardsSource",
        "tar": "platodef_cli.images.tar:TarSource",
        "parquet": "platodef_cli.images.parquet:ParquetSource",
        "datasets": "platodef_cli.images.datasets:DatasetsSource",
        "shapes": "platodef_cli.images.shapes:ShapesSource",
    },
    group="platodef.image_sources",
    requires=("(uri, *, limit, seed, offline)",),
)
"""Rows implement :class:`platodef_cli.images.interface.ImageSource`; a plug-in's gets ``NAME://...``."""
