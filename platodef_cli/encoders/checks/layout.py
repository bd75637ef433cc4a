"""Which library a model repository is for, and which of its files that library reads."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from platodef_cli.encoders import BACKENDS
from platodef_cli.encoders.backends.interface import Backend, RepositoryLayout
from platodef_cli.encoders.checks.nothing import nothing
from platodef_cli.errors import IncompleteError, RefusedError, UsageError
from platodef_cli.plugins import blaming

CONFIGURATIONS = ("config.json", "open_clip_config.json", "preprocessor_config.json", "processor_config.json")
SHARD = re.compile(r"^[\w-][\w.-]*\.safetensors\Z", re.ASCII)


def choose(
    config: Mapping[str, Any], names: Collection[str], where: str, inner: Collection[str] = ()
) -> tuple[str, RepositoryLayout]:
    """Decide by ``config.json`` and the file names.

    ``model_type`` means transformers; else ``open_clip_config.json`` means open_clip; else
    ``architecture`` means timm. A library whose weights are absent is passed over.

    Args:
        config: Content of ``config.json``, or empty.
        names: Files at the top of the repository.
        where: The folder or repository, for messages.
        inner: Paths of files in its folders, for messages.

    Returns:
        The row of :data:`platodef_cli.encoders.BACKENDS`, and the files that it reads.

    Raises:
        UsageError: It holds no model.
        IncompleteError: Its weights were not downloaded to their end.
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
    raise nothing(names, where, configured, broken, inner)


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


def shards(index: str, content: Mapping[str, Any], names: Collection[str]) -> list[str]:
    """Return the weight files that an index names, after checking every name.

    Raises:
        RefusedError: A name is a path or not ``*.safetensors``.
        IncompleteError: A file is missing.
    """
    mapping = content.get("weight_map")
    if not isinstance(mapping, dict) or not mapping or not all(isinstance(v, str) for v in mapping.values()):
        raise RefusedError(f"{index}: has no weight_map of tensor names to file names; do not use this model")
    found = sorted(set(mapping.values()))
    for shard in found:
        if not SHARD.match(shard):
            raise RefusedError(f"{index}: names the shard {shard!r}; only plain *.safetensors names are read")
        if shard not in names:
            raise IncompleteError(
                f"{index}: names the shard {shard!r}, which is missing; download the model again"
            )
    return found
