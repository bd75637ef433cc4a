"""Image sources: where an audit gets its calibration images from.

:func:`open_source` opens a folder, a ``.parquet`` file, ``hf://datasets/...`` or ``builtin:shapes``.
"""

from typing import TYPE_CHECKING

from platodef_cli.registry import Registry

if TYPE_CHECKING:
    from platodef_cli.images.interface import ImageSource

SOURCES = Registry(
    "image source",
    {
        "folder": "platodef_cli.images.folder:FolderSource",
        "parquet": "platodef_cli.images.parquet:ParquetSource",
        "datasets": "platodef_cli.images.datasets:DatasetsSource",
        "shapes": "platodef_cli.images.shapes:ShapesSource",
    },
)


def open_source(uri: str, *, limit: int | None = None, seed: int = 0, offline: bool = False) -> "ImageSource":
    """Open an image source; see :func:`platodef_cli.images.open.open_source`."""
    from platodef_cli.images.open import open_source as implementation

    return implementation(uri, limit=limit, seed=seed, offline=offline)
