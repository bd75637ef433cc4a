"""What other loaders would make of a folder: adapters that are applied unasked, and other weights.

An audit examines certain bytes. Who later loads the folder with another library, or with the same one and a
package more, may run others; the report says so.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from platodef_cli.disk import read_at_most
from platodef_cli.encoders.checks.configuration import parse_json
from platodef_cli.encoders.checks.limits import Limits
from platodef_cli.encoders.checks.nothing import variants
from platodef_cli.errors import PlatodefError, RefusedError, UnsupportedError
from platodef_cli.records import Finding

_ADAPTER = "adapter_config.json"
_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt")
_ORDERS = {
    "transformers": ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                     "pytorch_model.bin.index.json"),
    "timm": ("model.safetensors", "pytorch_model.bin"),
    "open_clip": ("open_clip_model.safetensors", "model.safetensors", "open_clip_pytorch_model.bin",
                  "pytorch_model.bin"),
}  # fmt: skip
"""Library -> files that its loader looks for, in its order."""


def refuse_adapters(names: Collection[str], where: str) -> None:
    """Refuse a folder whose weights transformers changes while it loads them.

    transformers with peft applies an adapter that lies beside the weights, without being asked.

    Raises:
        RefusedError: There is one.
        UnsupportedError: There is nothing else.
    """
    if _ADAPTER in names and not {"config.json", "open_clip_config.json"} & {*names}:
        raise UnsupportedError(
            f"{where}: is an adapter (LoRA) without the model that it belongs to; merge it into that model "
            "(platodef convert ADAPTER --base MODEL -o FOLDER) and examine the result"
        )
    if _ADAPTER in names:
        weights = [name for name in _ADAPTER_WEIGHTS if name in names]
        found = " with ".join([_ADAPTER, *weights[:1]])
        raise RefusedError(
            f"{where}: holds an adapter ({found}), which transformers applies to the weights unasked, so "
            "what would be examined is not what would run; merge it (peft: merge_and_unload(), then "
            f"save_pretrained) and examine the result, or remove {_ADAPTER} if it is never used"
        )
    loose = sorted(name for name in names if name in _ADAPTER_WEIGHTS)
    if loose:
        raise RefusedError(
            f"{where}: holds the weights of an adapter, {loose[0]}; merge them into the model and examine "
            "the result, or remove them if they are never used"
        )


def other_loaders(
    backend: str, used: Collection[str], names: Collection[str], directory: Path, limits: Limits
) -> tuple[Finding, ...]:
    """Return a finding for every usual loader that would load other bytes than those that are examined.

    Args:
        backend: Library that the folder was taken to be for.
        used: The files that are examined.
        names: All files at the top of the folder.
        directory: The folder.
        limits: Bounds of configurations.
    """
    config = _content(directory, "config.json", names, limits)
    loads = {
        library: weights
        for library, order in _ORDERS.items()
        if _configured(library, config, names) and (weights := _first(order, names))
    }
    findings = [
        Finding(
            id="other-loader",
            severity="medium",
            message=f"{library} would load {weights}, which was not examined (examined: "
            f"{', '.join(sorted(name for name in used if not name.endswith('.json')))})",
        )
        for library, weights in loads.items()
        if library != backend and weights not in used
    ]
    if config.get("auto_map"):
        findings.append(
            Finding(
                id="repository-code",
                severity="low",
                message="config.json names code of the repository (auto_map), never run here; a loader with "
                "trust_remote_code=True would run it",
            )
        )
    return (*findings, *_variants(used, names), *_sentence_transformers(directory, names))


def _variants(used: Collection[str], names: Collection[str]) -> tuple[Finding, ...]:
    """Return which weights a loader takes that is told a variant."""
    found = [name for name in variants(names) if name not in used]
    if not found:
        return ()
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    message = f"loaders that are told a variant would load {found[0]}{more}, which was not examined"
    return (Finding(id="other-loader", severity="low", message=message),)


def _sentence_transformers(directory: Path, names: Collection[str]) -> tuple[Finding, ...]:
    """Return what a pipeline of sentence-transformers adds to the network."""
    if "modules.json" not in names:
        return ()
    try:
        content = json.loads(read_at_most(directory / "modules.json", 2**16))
        paths = [str(entry.get("path", "")) for entry in content]
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        paths = ["an unreadable modules.json"]
    further = [path[:60] for path in paths if path]
    if not further:
        return ()
    message = f"sentence-transformers would load and apply {', '.join(further[:5])}, which was not examined"
    return (Finding(id="other-loader", severity="medium", message=message),)


def _configured(library: str, config: Mapping[str, Any], names: Collection[str]) -> bool:
    if library == "open_clip":
        return "open_clip_config.json" in names
    if library == "timm":
        return "architecture" in config
    return "model_type" in config or "architecture" in config  # it runs timm's folders as well


def _first(order: tuple[str, ...], names: Collection[str]) -> str | None:
    return next((name for name in order if name in names), None)


def _content(directory: Path, name: str, names: Collection[str], limits: Limits) -> dict[str, Any]:
    if name not in names:
        return {}
    try:
        return parse_json(read_at_most(directory / name, limits.json_bytes), name, limits)
    except (OSError, PlatodefError):
        return {}
