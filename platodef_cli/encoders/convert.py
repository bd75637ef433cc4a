"""From a research checkpoint to a model folder that can be examined: matched strictly, nothing invented."""

import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platodef_cli.disk import save_tensors
from platodef_cli.encoders.checkpoint import COUNTER, ORDER, Matched, match
from platodef_cli.encoders.checks.limits import Limits
from platodef_cli.encoders.checks.substitutes import refuse_substitute
from platodef_cli.encoders.checks.weights import tensors_of
from platodef_cli.environment import import_without_compiler
from platodef_cli.errors import UnsupportedError, UsageError
from platodef_cli.temporary import TemporaryFolder

if TYPE_CHECKING:
    from torch import Tensor

_CONFIGURED = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std", "fixed_input_size")
_NORMALISED = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_FOREIGN = {
    **dict.fromkeys((".onnx", ".tflite", ".pb", ".h5", ".gguf", ".msgpack", ".npz", ".pdparams", ".mar"), ""),
    ".zip": "; unpack it first",
    ".gz": "; unpack it first",
    ".tgz": "; unpack it first",
}
"""Ends of names of files that ``torch.save`` did not write -> what to do."""


@dataclass(frozen=True)
class Conversion:
    """What became of a checkpoint.

    Attributes:
        folder: The model folder.
        architecture: Name in timm or open_clip.
        prefix: What stood before the names of the weights that were taken.
        taken: Number of weights.
        dropped: First parts of the names that were left out -> how many.
        names: Whose names the weights had, in words; empty where they are the network's own.
        others: Prefixes of further whole networks of this kind in the file.
        preprocessing: Size, mean and std that the folder states, in words.
    """

    folder: Path
    architecture: str
    prefix: str
    taken: int
    dropped: Mapping[str, int]
    names: str
    others: tuple[str, ...]
    preprocessing: str

    @property
    def by_order(self) -> bool:
        """Whether names said nothing, and the weights were matched by order and shape."""
        return self.names == ORDER


@dataclass(frozen=True)
class _Form:
    """A network without memory, and the file that describes it.

    Attributes:
        network: The network.
        name: What it is called.
        config: Content of its main configuration.
        files: Names of the configuration and of the weights.
        before: What stands before the names of weights in the file.
        size: Side of the input, pixels.
        normalised: Mean and std.
    """

    network: Any
    name: str
    config: dict[str, Any]
    files: tuple[str, str]
    before: str
    size: Any
    normalised: Mapping[str, Sequence[float]]


def convert(
    checkpoint: Path,
    architecture: str,
    folder: Path,
    *,
    prefix: str | None = None,
    input_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    memory_limit_gb: float = 8.0,
    force: bool = False,
) -> Conversion:
    """Write a model folder of timm or open_clip from a state dict.

    Args:
        checkpoint: ``.pth`` and the like, read in an isolated process, or ``.safetensors``.
        architecture: ``timm/NAME`` or ``NAME``, or ``open_clip/NAME``: the vision tower of that model.
        folder: It appears complete or not at all.
        prefix: What stands before the weights' names (``module.encoder.``); by default the one under which
            all names of the architecture are found.
        input_size: Side of the input, pixels; by default the architecture's.
        mean: Of red, green and blue, as a share of the pixel range; by default the architecture's.
        std: The same.
        memory_limit_gb: Of the process that reads a pickle.
        force: Replace the folder.

    Raises:
        UsageError: The file is missing, the folder exists, or the weights do not fit the architecture.
        UnsupportedError: There is no such architecture, or the weights are quantised.
        RefusedError: The file needs code to be loaded.
        IncompleteError: The file is damaged, or memory ran out.
    """
    if not checkpoint.is_file():
        raise UsageError(f"{checkpoint}: no such file; give a checkpoint")
    if folder.exists() and not force:
        raise UsageError(f"{folder} exists; choose another folder or give --force")
    stated = {"mean": mean, "std": std}
    normalised = {key: [float(v) for v in value] for key, value in stated.items() if value is not None}
    forms = _forms(architecture, input_size, normalised)
    first = next(forms)  # a name that is wrong is told before a large file is read
    state = _state(checkpoint, memory_limit_gb)
    form, found = _matched(first, forms, state, prefix, checkpoint)
    odd = next((key for key, value in found.weights.items() if not value.is_floating_point()), None)
    if odd is not None:
        raise UnsupportedError(
            f"{checkpoint}: weight {found.prefix + odd!r} is quantised, or no floating point number; give "
            "the checkpoint that it was made from"
        )
    _write(folder, form, found.weights)
    dropped = Counter(".".join(key.split(".")[: 2 if key.count(".") > 1 else 1]) for key in found.left)
    side = form.size if isinstance(form.size, int) else form.size[-1]
    values = (f"{key} {' '.join(f'{v:g}' for v in form.normalised[key])}" for key in ("mean", "std"))
    return Conversion(
        folder=folder,
        architecture=form.name,
        prefix=found.prefix,
        taken=len(found.weights) + sum(key.endswith(COUNTER) for key in form.network.state_dict()),
        dropped=dict(dropped),
        names=found.names,
        others=found.others,
        preprocessing=f"{side} pixels, {', '.join(values)}",
    )


def _matched(
    first: _Form, more: Iterator[_Form], state: "Mapping[str, Tensor]", prefix: str | None, checkpoint: Path
) -> tuple[_Form, Matched]:
    """Return the form of the network that the weights fit, the plainest first.

    Raises:
        UsageError: They fit none; why not the plainest.
    """
    problem: UsageError | None = None
    known = [first]
    tries = itertools.chain([(first, False)], ((form, False) for form in more))
    if checkpoint.suffix != ".safetensors":  # which sorts names, so that their order says nothing
        tries = itertools.chain(tries, ((form, True) for form in known))
    for form, by_order in tries:
        if form not in known:
            known.append(form)
        try:
            found = match(form.network, state, prefix, str(checkpoint), form.name, by_order=by_order)
        except UsageError as error:
            problem = problem or error
        else:
            return form, found
    assert problem is not None
    raise problem


def _forms(
    architecture: str, input_size: int | None, normalised: Mapping[str, Sequence[float]]
) -> Iterator[_Form]:
    """Yield the network that is asked for, and what its checkpoints may hold in its place."""
    library, slash, name = architecture.partition("/")
    if not slash or library == "timm":
        yield from _of_timm(architecture.removeprefix("timm/").partition(".")[0], input_size, normalised)
    elif library == "open_clip":
        yield _of_open_clip(name, input_size, normalised)
    else:
        raise UnsupportedError(
            f"--architecture {architecture!r}: only networks of timm, as in timm/resnet18, and vision towers "
            "of open_clip, as in open_clip/ViT-B-32-quickgelu"
        )


def _of_timm(name: str, input_size: int | None, normalised: Mapping[str, Sequence[float]]) -> Iterator[_Form]:
    """Yield a network of timm, with parts that only its weights tell of, and for small images."""
    import_without_compiler("torchvision", "timm")
    import timm

    from platodef_cli.encoders.backends.timm_tower import SMALL, check_name

    check_name(name, "--architecture")
    yield _timm_form(name, {}, input_size, normalised)
    for arguments in (
        {"init_values": 1e-5},
        {"global_pool": "avg"},
        {"init_values": 1e-5, "global_pool": "avg"},
    ):
        try:
            yield _timm_form(name, arguments, input_size, normalised)
        except (TypeError, ValueError, AssertionError, RuntimeError):
            continue  # an argument that this architecture does not take
    if timm.is_model(name + SMALL):
        yield _timm_form(name + SMALL, {}, input_size, normalised)


def _timm_form(
    name: str, arguments: dict[str, Any], input_size: int | None, normalised: Mapping[str, Sequence[float]]
) -> _Form:
    """Return a network of timm without memory, and its configuration."""
    import timm
    import torch

    made = timm.models.get_pretrained_cfg(name)
    options = dict(made.to_dict()) if made else {}
    settings = {key: options[key] for key in _CONFIGURED if options.get(key) is not None}
    arguments = dict(arguments)
    if input_size is not None:
        settings["input_size"] = [3, input_size, input_size]
        if settings.get("fixed_input_size"):
            arguments["img_size"] = input_size
    settings |= {key: list(value) for key, value in normalised.items()}
    with torch.device("meta"):
        network: Any = timm.create_model(name, pretrained=False, num_classes=0, **arguments)
    if not made:  # of our own; its class knows
        settings.setdefault("input_size", list(network.pretrained_cfg["input_size"]))
    config = {
        "architecture": name,
        "num_classes": 0,
        "num_features": int(network.num_features),
        "model_args": arguments,
        "pretrained_cfg": {**settings, "num_classes": 0},
    }
    shown = {key: settings.get(key) or value for key, value in _NORMALISED.items()}
    size = settings.get("input_size") or (3, 224, 224)
    return _Form(network, name, config, ("config.json", "model.safetensors"), "", size, shown)


def _of_open_clip(name: str, input_size: int | None, normalised: Mapping[str, Sequence[float]]) -> _Form:
    """Return a vision tower of open_clip without memory, and its configuration."""
    from difflib import get_close_matches

    import open_clip
    import torch
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    from open_clip.model import _build_vision_tower

    model = open_clip.get_model_config(name)
    if model is None:
        close = get_close_matches(name, open_clip.list_models(), n=1)
        hint = f"; the nearest one is {close[0]!r}" if close else ""
        raise UnsupportedError(f"--architecture 'open_clip/{name}' is not one of this open_clip{hint}")
    vision = model["vision_cfg"]
    if input_size is not None:
        vision["image_size"] = input_size
    for key in ("timm_model_pretrained", "hf_model_pretrained"):
        vision.pop(key, None)
    with torch.device("meta"):
        network = _build_vision_tower(
            model["embed_dim"], {**vision, "timm_model_pretrained": False}, bool(model.get("quick_gelu"))
        )
    shown = {"mean": OPENAI_DATASET_MEAN, "std": OPENAI_DATASET_STD, **normalised}
    config = {"model_cfg": model, "preprocess_cfg": {key: list(value) for key, value in shown.items()}}
    files = ("open_clip_config.json", "open_clip_model.safetensors")
    return _Form(network, name, config, files, "visual.", vision.get("image_size", 224), shown)


def _state(checkpoint: Path, memory_limit_gb: float) -> "dict[str, Tensor]":
    """Return the tensors of a checkpoint; those of a pickle in its order."""
    suffix = checkpoint.suffix.lower()
    if suffix in _FOREIGN:
        raise UnsupportedError(
            f"{checkpoint}: {suffix} is no file of torch.save or safetensors{_FOREIGN[suffix]}; give the "
            "state dict of the network, as torch.save(model.state_dict(), FILE) writes it"
        )
    with checkpoint.open("rb") as stream:
        refuse_substitute(stream.read(256), checkpoint)
    if suffix == ".safetensors":
        return tensors_of(bytearray(checkpoint.read_bytes()), str(checkpoint), Limits())
    from platodef_cli.encoders.isolation.unpickle import read_pickled

    data = bytearray(read_pickled(checkpoint, memory_limit_gb=memory_limit_gb))
    numbered = sorted(tensors_of(data, str(checkpoint), Limits()).items())
    return {key.partition(" ")[2]: value for key, value in numbered}


def _write(folder: Path, form: _Form, weights: "Mapping[str, Tensor]") -> None:
    """Write the folder beside its place, and move it there when it is complete."""
    import torch

    folder.parent.mkdir(parents=True, exist_ok=True)
    configuration, file = form.files
    with TemporaryFolder("model", inside=folder.parent) as temporary:
        copies = {form.before + key: value.contiguous().clone() for key, value in weights.items()}
        for key, value in form.network.state_dict().items():
            if key.endswith(COUNTER):
                copies[form.before + key] = torch.zeros(value.shape, dtype=value.dtype)
        save_tensors(copies, temporary / file)
        (temporary / configuration).write_text(json.dumps(form.config, indent=2) + "\n")
        temporary.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
