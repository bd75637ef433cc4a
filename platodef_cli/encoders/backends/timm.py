"""timm folders: ``config.json`` with ``architecture`` and ``pretrained_cfg``, ``model.safetensors``."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from platodef_cli.encoders.backends.interface import Builder, RepositoryLayout
from platodef_cli.environment import import_without_compiler

_WRAPPER = "timm_wrapper"


class TimmBackend:
    """Implements :class:`platodef_cli.encoders.backends.interface.Backend` for timm."""

    def layouts(self, config: Mapping[str, Any], names: Collection[str]) -> Iterable[RepositoryLayout]:
        """Recognise ``architecture``; where there is a ``model_type`` too, the folder is transformers'.

        Its ``timm_wrapper`` is a network of timm as transformers saves it.
        """
        if isinstance(config.get("architecture"), str) and config.get("model_type", _WRAPPER) == _WRAPPER:
            yield RepositoryLayout(("config.json",), "model.safetensors")

    def architecture(self, configuration: Mapping[str, Any]) -> str:
        """Return the name in timm's registry."""
        return str(configuration["architecture"])

    def builder(self) -> Builder:
        """Import timm."""
        import_without_compiler("torchvision", "timm")
        from platodef_cli.encoders.backends.timm_tower import build

        return build
