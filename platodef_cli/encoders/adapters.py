"""A LoRA adapter (PEFT) and the model that it belongs to become one folder, which can be examined.

transformers with peft would apply an adapter while it loads; what is examined has to be what runs, so the two
are merged here, from safetensors and JSON, without any code of peft: ``W + alpha / r * B @ A``. Source: Hu et
al., *LoRA*, ICLR 2022; files: https://huggingface.co/docs/peft/developer_guides/checkpoint.
"""

import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platodef_cli.disk import explaining, open_regular, resolve_inside
from platodef_cli.encoders.checks.configuration import parse_json
from platodef_cli.encoders.checks.limits import Limits
from platodef_cli.encoders.checks.preflight import Preflight
from platodef_cli.encoders.checks.weights import read_verified, tensors_of
from platodef_cli.errors import IncompleteError, RefusedError, UnsupportedError, UsageError
from platodef_cli.temporary import TemporaryFolder

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FILES = (CONFIG, WEIGHTS)
_LARGEST_RANK = 1024
_LARGEST_ALPHA = 2**16
_NAME = re.compile(r"base_model\.model\.([\w.]+)\.lora_([AB])(?:\.default)?\.weight", re.ASCII)
_KNOWN = frozenset(
    "peft_type r lora_alpha target_modules lora_dropout bias task_type inference_mode "
    "base_model_name_or_path revision auto_mapping layers_to_transform layers_pattern exclude_modules "
    "peft_version init_lora_weights fan_in_fan_out use_rslora use_dora modules_to_save rank_pattern "
    "alpha_pattern loftq_config runtime_config megatron_core corda_config eva_config "
    "qalora_group_size".split()
)
"""Settings that are either checked below, or decide nothing once the adapter is trained."""
_REFUSED = {
    "use_dora": "DoRA, which changes lengths as well",
    "use_rslora": "rank-stabilised LoRA, which scales differently",
    "fan_in_fan_out": "transposed weights",
    "modules_to_save": "whole modules that replace those of the model",
    "rank_pattern": "ranks of single layers",
    "alpha_pattern": "scales of single layers",
    "loftq_config": "a quantised model",
}
_HARMLESS_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights that leave the model's own weights as they are."""
_RENAMED = (
    ("model.language_model.", "model."),
    ("model.visual.", "visual."),
    ("model.vision_tower.", "vision_tower."),
)
"""What newer versions of transformers call a part in memory -> what its files call it."""


@dataclass(frozen=True)
class Merged:
    """What was merged.

    Attributes:
        folder: The new model folder.
        rank: Of the adapter.
        scale: ``alpha / r``.
        layers: Weights that were changed.
    """

    folder: Path
    rank: int
    scale: float
    layers: int


@dataclass(frozen=True)
class _Adapter:
    rank: int
    scale: float
    pairs: "Mapping[str, tuple[Tensor, Tensor]]"  # module -> A [r, in], B [out, r]


def merge(adapter: Path, base: Preflight, folder: Path, *, base_uri: str, force: bool = False) -> Merged:
    """Write a model folder from an examined base and a LoRA adapter.

    Args:
        adapter: Folder with ``adapter_config.json`` and ``adapter_model.safetensors``.
        base: The model that the adapter was trained on, examined.
        folder: It appears complete or not at all.
        base_uri: What the base is called in the card of the folder.
        force: Replace the folder.

    Raises:
        UsageError: A file is missing, the folder exists, or the adapter is one of another model.
        UnsupportedError: The adapter is of a kind that is not merged here; its setting is named.
        RefusedError: A file is malformed, or out of bounds.
        IncompleteError: The folder cannot be written.
    """
    if folder.exists() and not force:
        raise UsageError(f"{folder} exists; choose another folder or give --force")
    read = _read(adapter)
    names = _names(base)
    targets: dict[str, str] = {}
    for module in read.pairs:
        key = _key_of(module, names, adapter, base_uri)
        if key in targets:
            raise RefusedError(f"{adapter / WEIGHTS}: changes {key!r} twice; do not use this adapter")
        targets[key] = module
    with explaining(f"cannot write {folder}", IncompleteError):
        _write(
            folder, base, {key: read.pairs[module] for key, module in targets.items()}, read.scale, base_uri
        )
    return Merged(folder, read.rank, read.scale, len(targets))


def claimed_base(adapter: Path) -> str:
    """Return which base an adapter says that it belongs to; empty where it says nothing."""
    return str(_configuration(adapter).get("base_model_name_or_path") or "")


def _bytes(adapter: Path, name: str, most: int) -> bytearray:
    path = adapter / name
    if not os.path.lexists(path):
        raise UsageError(f"{adapter}: has no {name}; give a folder with a LoRA adapter in safetensors")
    with open_regular(resolve_inside(adapter, name)) as (descriptor, size):
        if size > most:
            raise RefusedError(f"{path}: has {size} bytes, more than {most}; do not use this adapter")
        with open(descriptor, "rb", closefd=False) as stream:
            return bytearray(stream.read(size))


def _configuration(adapter: Path) -> dict[str, Any]:
    limits = Limits()
    return parse_json(_bytes(adapter, CONFIG, limits.json_bytes), str(adapter / CONFIG), limits)


def _read(adapter: Path) -> _Adapter:
    """Read an adapter, strictly: what is not understood is refused."""
    import torch

    config, where = _configuration(adapter), adapter / CONFIG
    if str(config.get("peft_type", "")).upper() != "LORA":
        raise UnsupportedError(f"{where}: peft_type is {config.get('peft_type')!r}; only LORA is merged")
    for name, what in _REFUSED.items():
        if config.get(name):
            raise UnsupportedError(
                f"{where}: {name} asks for {what}, which is not merged here; use peft for it"
            )
    if config.get("bias", "none") != "none":
        raise UnsupportedError(
            f"{where}: bias is {config['bias']!r}; only adapters without biases are merged"
        )
    start = config.get("init_lora_weights")
    if not any(start is value or start == value for value in _HARMLESS_STARTS):
        raise UnsupportedError(
            f"{where}: init_lora_weights {start!r} changes the model itself; use peft for it"
        )
    for name, value in config.items():
        if name not in _KNOWN and value not in (None, False, "", 0) and value not in ([], {}):
            raise UnsupportedError(f"{where}: the setting {name!r} is not known here; use peft for it")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or not 1 <= rank <= _LARGEST_RANK:
        raise RefusedError(f"{where}: r is {rank!r}, not a number from 1 to {_LARGEST_RANK}")
    if (
        not isinstance(alpha, int | float)
        or isinstance(alpha, bool)
        or not math.isfinite(alpha)
        or not 0 < alpha <= _LARGEST_ALPHA
    ):
        raise RefusedError(f"{where}: lora_alpha is {alpha!r}, not a number from 0 to {_LARGEST_ALPHA}")
    tensors = tensors_of(_bytes(adapter, WEIGHTS, Limits().total_bytes), str(adapter / WEIGHTS), Limits())
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise UnsupportedError(f"{adapter / WEIGHTS}: {name!r} is no LoRA matrix of a linear layer")
        side = 0 if match[2] == "A" else 1
        if tensor.ndim != 2 or tensor.shape[side] != rank or not tensor.is_floating_point():
            raise RefusedError(f"{adapter / WEIGHTS}: {name!r} has shape {list(tensor.shape)}, rank {rank}")
        if not bool(torch.isfinite(tensor).all()):
            raise RefusedError(f"{adapter / WEIGHTS}: {name!r} has values that are not finite")
        if match[2] in found.setdefault(match[1], {}):
            raise RefusedError(f"{adapter / WEIGHTS}: names {match[1]!r} twice; do not use this adapter")
        found[match[1]][match[2]] = tensor
    for module, sides in found.items():
        if len(sides) != 2:
            raise RefusedError(f"{adapter / WEIGHTS}: {module!r} has only one of lora_A and lora_B")
    if not found:
        raise UsageError(f"{adapter / WEIGHTS}: holds no LoRA matrices")
    return _Adapter(rank, alpha / rank, {name: (both["A"], both["B"]) for name, both in found.items()})


def _names(base: Preflight) -> "dict[str, tuple[int, ...]]":
    """Return the shapes of the base's weights, one file in memory at a time."""
    shapes = {}
    for record in base.files:
        if record.path.endswith(".safetensors"):
            data = read_verified(Path(base.directory), record, follow_links=base.follow_links)
            for name, tensor in tensors_of(data, record.path, Limits()).items():
                shapes[name] = tuple(tensor.shape)
    return shapes


def _key_of(module: str, names: Mapping[str, tuple[int, ...]], adapter: Path, base_uri: str) -> str:
    """Return the name of the weight that an adapter's module changes."""
    own = f"{module}.weight"
    spellings = [own]
    for new, old in _RENAMED:
        spellings += [old + own.removeprefix(new)] if own.startswith(new) else []
        spellings += [new + own.removeprefix(old)] if own.startswith(old) else []
    there = [name for name in dict.fromkeys(spellings) if name in names]
    if len(there) != 1:
        raise UsageError(
            f"{adapter / WEIGHTS}: changes {module!r}, which {base_uri} does not have; its own base is "
            f"{claimed_base(adapter) or 'not named'}"
        )
    return there[0]


def _write(
    folder: Path,
    base: Preflight,
    changes: "Mapping[str, tuple[Tensor, Tensor]]",
    scale: float,
    base_uri: str,
) -> None:
    """Write the merged folder beside its place, and move it there when it is complete."""
    from safetensors.torch import save_file

    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryFolder("merged", inside=folder.parent) as place:
        temporary = place / folder.name
        temporary.mkdir()
        for record in base.files:
            data = read_verified(Path(base.directory), record, follow_links=base.follow_links)
            if not record.path.endswith(".safetensors"):
                (temporary / record.path).write_bytes(data)
                continue
            tensors = tensors_of(data, record.path, Limits())
            done = {
                name: _merged(name, tensor, changes[name], scale) if name in changes else tensor.clone()
                for name, tensor in tensors.items()
            }
            save_file(done, temporary / record.path, metadata={"format": "pt"})
        card = f"---\nbase_model: {json.dumps(base_uri)}\n---\n\nA LoRA adapter, merged by platodef.\n"
        (temporary / "README.md").write_text(card, encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)


def _merged(name: str, weight: "Tensor", pair: "tuple[Tensor, Tensor]", scale: float) -> "Tensor":
    """Return ``W + scale * B @ A``, computed in float32, in the weight's own precision."""
    first, second = (matrix.float() for matrix in pair)
    if weight.ndim != 2 or tuple(weight.shape) != (second.shape[0], first.shape[1]):
        raise UsageError(
            f"the adapter changes {name!r} by {second.shape[0]} x {first.shape[1]} numbers, and the base has "
            f"{list(weight.shape)} there; it is another model"
        )
    if not weight.is_floating_point():
        raise UnsupportedError(
            f"{name!r} is stored as {weight.dtype}; merge into a base that is not quantised"
        )
    return (weight.float() + scale * (second @ first)).to(weight.dtype)
