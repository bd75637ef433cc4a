"""From a research checkpoint to a model folder that can be examined: matched strictly, nothing invented."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platodef_cli.disk import save_tensors
from platodef_cli.encoders.checks.limits import Limits
from platodef_cli.encoders.checks.weights import tensors_of
from platodef_cli.environment import import_without_compiler
from platodef_cli.errors import UnsupportedError, UsageError
from platodef_cli.temporary import TemporaryFolder

if TYPE_CHECKING:
    from torch import Tensor

_COUNTER = "num_batches_tracked"
_CONFIGURED = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std", "fixed_input_size")


@dataclass(frozen=True)
class Conversion:
    """What became of a checkpoint.

    Attributes:
        folder: The model folder.
        architecture: Name in timm.
        prefix: What stood before the names of the weights that were taken.
        taken: Number of weights.
        dropped: First parts of the names that were left out -> how many.
        by_order: The names were another library's; the weights were matched by order and shape.
    """

    folder: Path
    architecture: str
    prefix: str
    taken: int
    dropped: Mapping[str, int]
    by_order: bool


def convert(
    checkpoint: Path,
    architecture: str,
    folder: Path,
    *,
    prefix: str | None = None,
    input_size: int | None = None,
    memory_limit_gb: float = 8.0,
    force: bool = False,
) -> Conversion:
    """Write a timm model folder from a state dict.

    Args:
        checkpoint: ``.pth`` and the like, read in an isolated process, or ``.safetensors``.
        architecture: ``timm/NAME`` or ``NAME``.
        folder: It appears complete or not at all.
        prefix: What stands before the weights' names (``module.encoder.``); by default the one under which
            most names of the architecture are found.
        input_size: Side of the input, pixels; by default the architecture's.
        memory_limit_gb: Of the process that reads a pickle.
        force: Replace the folder.

    Raises:
        UsageError: The file is missing, the folder exists, or the weights do not fit the architecture.
        UnsupportedError: timm has no such architecture.
        RefusedError: The file needs code to be loaded.
        IncompleteError: The file is damaged, or memory ran out.
    """
    if not checkpoint.is_file():
        raise UsageError(f"{checkpoint}: no such file; give a checkpoint")
    if folder.exists() and not force:
        raise UsageError(f"{folder} exists; choose another folder or give --force")
    network, config = _network(architecture, input_size)
    state = _state(checkpoint, memory_limit_gb)
    name = config["architecture"]
    found, taken, by_order = _match(network.state_dict(), state, prefix, str(checkpoint), name)
    _write(folder, taken, config)
    used = {id(value) for value in taken.values()}
    left = [key.removeprefix(found) for key, value in state.items() if id(value) not in used]
    dropped = Counter(".".join(key.split(".")[: 2 if key.count(".") > 1 else 1]) for key in left)
    return Conversion(folder, name, found, len(taken), dict(dropped), by_order)


def _network(architecture: str, input_size: int | None) -> tuple[Any, dict[str, Any]]:
    """Return the network without memory, and its configuration."""
    import_without_compiler("torchvision", "timm")
    import timm
    import torch

    from platodef_cli.encoders.backends.timm_tower import check_name

    name = architecture.removeprefix("timm/").partition(".")[0]
    if not architecture.startswith("timm/") and "/" in architecture:
        raise UnsupportedError(f"--architecture {architecture!r}: only networks of timm, as in timm/resnet18")
    check_name(name, "--architecture")
    options = dict(timm.models.get_pretrained_cfg(name).to_dict()) if timm.get_pretrained_cfg(name) else {}
    settings = {key: options[key] for key in _CONFIGURED if options.get(key) is not None}
    arguments: dict[str, Any] = {}
    if input_size is not None:
        settings["input_size"] = [3, input_size, input_size]
        if settings.get("fixed_input_size"):
            arguments["img_size"] = input_size
    with torch.device("meta"):
        network = timm.create_model(name, pretrained=False, num_classes=0, **arguments)
    config = {
        "architecture": name,
        "num_classes": 0,
        "num_features": int(network.num_features),
        "model_args": arguments,
        "pretrained_cfg": {**settings, "num_classes": 0},
    }
    return network, config


def _state(checkpoint: Path, memory_limit_gb: float) -> "dict[str, Tensor]":
    """Return the tensors of a checkpoint; those of a pickle in its order."""
    if checkpoint.suffix == ".safetensors":
        return tensors_of(bytearray(checkpoint.read_bytes()), str(checkpoint), Limits())
    from platodef_cli.encoders.isolation.unpickle import read_pickled

    data = bytearray(read_pickled(checkpoint, memory_limit_gb=memory_limit_gb))
    numbered = sorted(tensors_of(data, str(checkpoint), Limits()).items())
    return {key.partition(" ")[2]: value for key, value in numbered}


def _match(
    own: "Mapping[str, Tensor]", state: "Mapping[str, Tensor]", prefix: str | None, where: str, name: str
) -> "tuple[str, dict[str, Tensor], bool]":
    """Return the prefix, every weight of the architecture, and whether they were matched by order."""
    import torch

    if prefix is None:
        found = Counter(key[: -len(k)] for key in state for k in own if key == k or key.endswith(f".{k}"))
        prefix = max(found, key=lambda entry: (found[entry], -len(entry))) if found else ""
    counters = {key: value for key, value in own.items() if key.endswith(_COUNTER)}
    wanted = {key: value for key, value in own.items() if key not in counters}
    missing = [key for key in wanted if f"{prefix}{key}" not in state]
    zeros = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in counters.items()}
    if not missing:
        taken = {key: state[f"{prefix}{key}"] for key in own if f"{prefix}{key}" in state}
        for key, value in taken.items():
            if value.shape != own[key].shape:
                raise UsageError(
                    f"{where}: weight {prefix + key!r} has shape {list(value.shape)}, and {name} has "
                    f"{list(own[key].shape)} there; it is another architecture"
                )
        return prefix, zeros | taken, False
    for group in dict.fromkeys(["", *(key[: key.index(".") + 1] for key in state if "." in key)]):
        given = [v for k, v in state.items() if k.startswith(group) and not k.endswith(_COUNTER)]
        given = given[: len(wanted)]
        if [value.shape for value in given] == [value.shape for value in wanted.values()]:
            return group, zeros | dict(zip(wanted, given, strict=True)), True
    share = f"{len(wanted) - len(missing)} of {len(wanted)} weights are there"
    raise UsageError(
        f"{where}: does not fit {name}: with the prefix {prefix!r} {share}, {missing[0]!r} is missing; it "
        f"has names such as {next(iter(state))!r}; give another --architecture or --prefix"
    )


def _write(folder: Path, weights: "Mapping[str, Tensor]", config: Mapping[str, Any]) -> None:
    """Write the folder beside its place, and move it there when it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryFolder("model", inside=folder.parent) as temporary:
        copies = {key: value.contiguous().clone() for key, value in weights.items()}
        save_tensors(copies, temporary / "model.safetensors")
        (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        temporary.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
