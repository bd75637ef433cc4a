"""Which library a model repository is for, and which of its files that library reads."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from platodef_cli.encoders import BACKENDS
from platodef_cli.encoders.backends.interface import Backend, RepositoryLayout
from platodef_cli.errors import IncompleteError, PlatodefError, RefusedError, UsageError
from platodef_cli.plugins import blaming

CONFIGURATIONS = ("config.json", "open_clip_config.json", "preprocessor_config.json", "processor_config.json")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npz", ".msgpack", ".h5")
_PARTIAL = (".incomplete", ".crdownload", ".part", ".partial", ".aria2", ".download", ".tmp")
"""How the names of unfinished downloads end: of huggingface_hub, browsers, wget and aria2."""
_VARIANT = re.compile(r"\.[\w-]+\.safetensors$", re.ASCII)
SHARD = re.compile(r"^[\w-][\w.-]*\.safetensors$", re.ASCII)


def choose(config: Mapping[str, Any], names: Collection[str], where: str) -> tuple[str, RepositoryLayout]:
    """Decide by ``config.json`` and the file names.

    ``model_type`` means transformers; else ``open_clip_config.json`` means open_clip; else
    ``architecture`` means timm. A library whose weights are absent is passed over.

    Args:
        config: Content of ``config.json``, or empty.
        names: Files at the top of the repository.
        where: The folder or repository, for messages.

    Returns:
        The row of :data:`platodef_cli.encoders.BACKENDS`, and the files that it reads.

    Raises:
        UsageError: It holds no model.
        RefusedError: Its weights exist only in formats that can run code.
    """
    configured, broken = False, ""
    for name in BACKENDS.names():
        try:
            layouts = _layouts(name, config, names)
        except (UsageError, IncompleteError) as error:
            if BACKENDS.plugin(name) is None:
                raise
            broken += f"; {error}"
            continue
        for layout in layouts:
            _check_files(name, layout)
            configured = True
            if layout.weights in names:
                return name, layout
    raise _nothing(names, where, configured, broken)


def _layouts(name: str, config: Mapping[str, Any], names: Collection[str]) -> Iterable[RepositoryLayout]:
    """Return how a backend could read a folder.

    Raises:
        UsageError: It is a plug-in's that cannot be loaded.
        IncompleteError: It is a plug-in's that fails.
    """
    plugin = BACKENDS.plugin(name)
    backend: Backend = BACKENDS.load(name)()
    if plugin is None:
        return backend.layouts(config, names)
    with blaming(plugin):
        layouts = list(backend.layouts(config, names))
        for layout in layouts:
            if not isinstance(layout, RepositoryLayout):
                raise TypeError(f"it gave {type(layout).__name__}, not a RepositoryLayout")
            if not layout.configurations or not all(map(str.strip, (*layout.configurations, layout.weights))):
                raise ValueError("it gave a layout without names of files")
    return layouts


def _check_files(backend: str, layout: RepositoryLayout) -> None:
    """Refuse what a plug-in's backend would read beyond JSON and safetensors."""
    odd = [name for name in layout.configurations if not name.endswith(".json")]
    if not layout.weights.endswith((".safetensors", ".index.json")):
        odd.append(layout.weights)
    if odd:
        raise UsageError(
            f"the encoder backend {backend!r} asks for {odd[0]!r}; only *.json and *.safetensors are read"
        )


def _nothing(names: Collection[str], where: str, configured: bool, broken: str) -> PlatodefError:
    """Say why nothing in the repository can be loaded."""
    partial = sorted(name for name in names if name.endswith(_PARTIAL))
    if partial:
        return IncompleteError(
            f"{where}: {partial[0]} is an unfinished download and there are no other weights that can be "
            "read; download the model again, e.g. with `hf download`"
        )
    unsafe = sorted(name for name in names if name.endswith(PICKLES))
    if unsafe:
        return RefusedError(
            f"{where}: its weights are only in {', '.join(unsafe[:3])}, a format that can run code; "
            "ask the authors for safetensors"
        )
    variants = sorted(name for name in names if _VARIANT.search(name))
    if configured and variants:
        return UsageError(
            f"{where}: has a configuration but no model.safetensors; loaders take {variants[0]} only where "
            "they are told so (variant=...); copy the folder with that file as model.safetensors, and "
            "give the copy"
        )
    if configured:
        return UsageError(f"{where}: has a configuration but no model.safetensors; get the weights too")
    return UsageError(
        f"{where}: holds no model: expected config.json (with model_type or architecture) or "
        f"open_clip_config.json, beside safetensors weights{broken}"
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
