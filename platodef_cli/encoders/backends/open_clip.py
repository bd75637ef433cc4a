"""open_clip folders: ``open_clip_config.json`` and ``open_clip_model.safetensors``."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from platodef_cli.encoders.backends.interface import Builder, RepositoryLayout


class OpenClipBackend:
    """Implements :class:`platodef_cli.encoders.backends.interface.Backend` for open_clip."""

    def layouts(self, config: Mapping[str, Any], names: Collection[str]) -> Iterable[RepositoryLayout]:
        """Recognise ``open_clip_config.json``."""
        if "open_clip_config.json" in names:
            for weights in ("open_clip_model.safetensors", "model.safetensors"):
                yield RepositoryLayout(("open_clip_config.json",), weights)

    def architecture(self, configuration: Mapping[str, Any]) -> str:
        """Return the name of the vision tower, where the configuration gives it one."""
        model = configuration.get("model_cfg", {})
        vision = model.get("vision_cfg", {}) if isinstance(model, dict) else {}
        if not isinstance(vision, dict):
            return "open_clip"
        return f"open_clip {vision.get('timm_model_name') or 'vision tower'}"

    def builder(self) -> Builder:
        """Import open_clip."""
        from platodef_cli.encoders.backends.open_clip_tower import build

        return build
