"""Which library a model repository is for, and which of its files that library reads."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from platodef_cli.errors import PlatodefError, RefusedError, UsageError

CONFIGURATIONS = ("config.json", "open_clip_config.json", "preprocessor_config.json", "processor_config.json")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npz", ".msgpack", ".h5")
SHARD = re.compile(r"^[\w-][\w.-]*\.safetensors$", re.ASCII)


@dataclass(frozen=True)
class RepositoryLayout:
    """The files that a load reads.

    Attributes:
        backend: timm, open_clip or transformers.
        configurations: JSON files, the main one first.
        weights: The weight file, or the index that names its shards.
    """

    backend: str
    configurations: tuple[str, ...]
    weights: str


def choose(config: Mapping[str, Any], names: Collection[str], where: str) -> RepositoryLayout:
    """Decide by ``config.json`` and the file names.

    ``model_type`` means transformers; else ``open_clip_config.json`` means open_clip; else
    ``architecture`` means timm. A library whose weights are absent is passed over.

    Args:
        config: Content of ``config.json``, or empty.
        names: Files at the top of the repository.
        where: The folder or repository, for messages.

    Raises:
        UsageError: It holds no model.
        RefusedError: Its weights exist only in formats that can run code.
    """
    choices = list(_choices(config, names))
    for layout in choices:
        if layout.weights in names:
            return layout
    raise _nothing(names, where, bool(choices))


def _choices(config: Mapping[str, Any], names: Collection[str]) -> Iterable[RepositoryLayout]:
    """Yield the ways in which the repository could be read, the best first."""
    whole = "model.safetensors"
    if isinstance(config.get("model_type"), str):
        extra = ["preprocessor_config.json", "processor_config.json"]
        extra += ["tokenizer.json"] if config["model_type"] == "qwen2_vl" else []
        files = ("config.json", *(name for name in extra if name in names))
        yield RepositoryLayout("transformers", files, whole)
        yield RepositoryLayout("transformers", files, f"{whole}.index.json")
    if "open_clip_config.json" in names:
        for weights in ("open_clip_model.safetensors", whole):
            yield RepositoryLayout("open_clip", ("open_clip_config.json",), weights)
    if isinstance(config.get("architecture"), str) and "model_type" not in config:
        yield RepositoryLayout("timm", ("config.json",), whole)


def _nothing(names: Collection[str], where: str, configured: bool) -> PlatodefError:
    """Say why nothing in the repository can be loaded."""
    unsafe = sorted(name for name in names if name.endswith(PICKLES))
    if unsafe:
        return RefusedError(
            f"{where}: its weights are only in {', '.join(unsafe[:3])}, a format that can run code; "
            "ask the authors for safetensors"
        )
    if configured:
        return UsageError(f"{where}: has a configuration but no model.safetensors; get the weights too")
    return UsageError(
        f"{where}: holds no model: expected config.json (with model_type or architecture) or "
        "open_clip_config.json, beside safetensors weights"
    )


def shards(index: str, content: Mapping[str, Any], names: Collection[str]) -> list[str]:
    """Return the weight files that an index names, after checking every name.

    Raises:
        RefusedError: A name is a path or not ``*.safetensors``, or the file is missing.
    """
    mapping = content.get("weight_map")
    if not isinstance(mapping, dict) or not mapping or not all(isinstance(v, str) for v in mapping.values()):
        raise RefusedError(f"{index}: has no weight_map of tensor names to file names; do not use this model")
    found = sorted(set(mapping.values()))
    for shard in found:
        if not SHARD.match(shard):
            raise RefusedError(f"{index}: names the shard {shard!r}; only plain *.safetensors names are read")
        if shard not in names:
            raise RefusedError(f"{index}: names the shard {shard!r}, which is missing; download it again")
    return found
