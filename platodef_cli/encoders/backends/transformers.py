"""transformers folders: ``config.json`` with ``model_type``, ``preprocessor_config.json``, safetensors."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from platodef_cli.encoders.backends.interface import Builder, RepositoryLayout


class TransformersBackend:
    """Implements :class:`platodef_cli.encoders.backends.interface.Backend` for transformers."""

    def layouts(self, config: Mapping[str, Any], names: Collection[str]) -> Iterable[RepositoryLayout]:
        """Recognise ``model_type``; weights are one file, or shards with an index."""
        if isinstance(config.get("model_type"), str) and config["model_type"] != "timm_wrapper":
            extra = ["preprocessor_config.json", "processor_config.json"]
            # their last token follows an instruction
            prompted = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
            extra += ["tokenizer.json"] if config["model_type"] in prompted else []
            files = ("config.json", *(name for name in extra if name in names))
            yield RepositoryLayout(files, "model.safetensors")
            yield RepositoryLayout(files, "model.safetensors.index.json")

    def architecture(self, configuration: Mapping[str, Any]) -> str:
        """Return the ``model_type``."""
        return str(configuration["model_type"])

    def builder(self) -> Builder:
        """Import transformers."""
        from platodef_cli.encoders.backends.transformers_tower import build

        return build
