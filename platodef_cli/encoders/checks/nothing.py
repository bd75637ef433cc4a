"""Why a folder or repository holds no model that can be loaded, and what to do about it."""

import re
from collections.abc import Collection, Sequence

from platodef_cli.errors import IncompleteError, PlatodefError, RefusedError, UnsupportedError, UsageError

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npz", ".msgpack", ".h5",
           ".ot", ".pt2", ".ptl", ".torchscript", ".keras", ".mar", ".pdparams")  # fmt: skip
_PARTIAL = (".incomplete", ".crdownload", ".part", ".partial", ".aria2", ".download", ".tmp")
"""How the names of unfinished downloads end: of huggingface_hub, browsers, wget and aria2."""
_VARIANT = re.compile(
    r"^(?:open_clip_)?model\.(?!safetensors)([\w-]+?)(-\d{5}-of-\d{5})?\.safetensors$", re.ASCII
)
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.safetensors$", re.ASCII)
_INDEX = ".safetensors.index.json"
_FOREIGN = {".gguf": "GGUF", ".onnx": "ONNX", ".tflite": "TensorFlow Lite", ".mlpackage": "Core ML",
            ".mlmodel": "Core ML", ".engine": "TensorRT", ".plan": "TensorRT", ".pb": "TensorFlow",
            ".safetensors.gz": "compressed", ".pte": "ExecuTorch"}  # fmt: skip
"""Ends of names of weights in formats that no backend reads -> the format."""
_LOADED = re.compile(r"^(open_clip_)?(pytorch_)?model[\w.-]*\.(bin|pt|pth)$", re.ASCII)
"""Names of pickles that loaders take where there is no safetensors file."""


def variants(names: Collection[str]) -> list[str]:
    """Return the weight files that loaders take only where they are told a variant (``model.fp16...``)."""
    return sorted(name for name in names if _VARIANT.match(name))


def nothing(
    names: Collection[str], where: str, configured: bool, broken: str, inner: Collection[str] = ()
) -> PlatodefError:
    """Say why nothing in a repository can be loaded.

    Args:
        names: Files at its top.
        where: The folder or repository, for messages.
        configured: Whether there is a configuration that a backend knows.
        broken: What plug-ins failed with.
        inner: Paths of files below it, as far as they are known.
    """
    partial = sorted(name for name in names if name.endswith(_PARTIAL))
    if partial:
        return IncompleteError(
            f"{where}: {partial[0]} is an unfinished download and there are no other weights that can be "
            "read; download the model again, e.g. with `hf download`"
        )
    folders = _model_folders(inner)
    if not configured and folders:
        more = f" (or {', '.join(folders[1:4])})" if len(folders) > 1 else ""
        return UsageError(
            f"{where}: holds no model itself; give the folder in it, {_inside(where, folders[0])}{more}"
        )
    unsafe = sorted(name for name in names if name.endswith(PICKLES))
    weights = sorted(name for name in names if name.endswith(".safetensors"))
    if unsafe and (not weights or any(_LOADED.match(name) for name in unsafe)):
        return RefusedError(
            f"{where}: its weights are only in {', '.join(unsafe[:3])}, a format that can run code; "
            "ask the authors for safetensors"
        )
    if configured:
        return _without_weights(names, weights, where)
    if "config.json" in names:
        return UsageError(
            f"{where}: holds no model that is known: its config.json has neither model_type (transformers) "
            "nor architecture (timm), and there is no open_clip_config.json; get the model's own "
            f"config.json{broken}"
        )
    if weights:
        return UsageError(
            f"{where}: holds no model: {weights[0]} are weights without a configuration (config.json with "
            "model_type or architecture, or open_clip_config.json); get it from where the model comes from, "
            f"or write one with `platodef convert {weights[0]} --architecture timm/NAME -o FOLDER`{broken}"
        )
    packed = sorted(name for name in names if name.endswith((".zip", ".tar", ".tar.gz", ".tgz", ".7z")))
    hint = f"; unpack {packed[0]} first" if packed else ""
    return UsageError(
        f"{where}: holds no model: expected config.json (with model_type or architecture) or "
        f"open_clip_config.json, beside safetensors weights{hint}{broken}"
    )


def _without_weights(names: Collection[str], weights: Sequence[str], where: str) -> PlatodefError:
    """Say what lies in place of the weights of a configured model."""
    found = variants(names)
    if found:
        told = f"loaders take {found[0]} only where they are told so (variant=...)"
        if _SHARD.search(found[0]):
            named = _VARIANT.match(found[0])
            assert named is not None
            return UsageError(
                f"{where}: has a configuration but no model.safetensors; {told}; load it with "
                f"variant={named[1]!r}, save it with save_pretrained(FOLDER), and give that folder"
            )
        return UsageError(
            f"{where}: has a configuration but no model.safetensors; {told}; copy the folder with that file "
            "as model.safetensors, and give the copy"
        )
    lacking = f"{where}: has a configuration but no model.safetensors"
    if any(_SHARD.search(name) for name in weights) or any(name.endswith(_INDEX) for name in names):
        if any(name.endswith(_INDEX) for name in names):
            return UsageError(f"{lacking}; its library reads no shards; join them into one model.safetensors")
        return IncompleteError(
            f"{where}: holds shards ({weights[0]}) without their model.safetensors.index.json; download the "
            "model again, e.g. with `hf download`"
        )
    if weights:
        return UsageError(
            f"{lacking}; loaders do not look for {weights[0]}: if these are the weights, copy the folder "
            "with that file as model.safetensors, and give the copy"
        )
    for name in sorted(names):
        end = next((end for end in _FOREIGN if name.endswith(end)), None)
        if end is not None:
            return UnsupportedError(
                f"{where}: its weights are only in {name} ({_FOREIGN[end]}), which is not supported; give "
                "the safetensors that they were made from"
            )
    return UsageError(f"{lacking}; get the weights too")


def _model_folders(inner: Collection[str]) -> list[str]:
    """Return the folders that hold a configuration, among paths below a repository; the nearest first."""
    found = {
        path.rpartition("/")[0]
        for path in inner
        if path.rpartition("/")[2] in ("config.json", "open_clip_config.json") and "/" in path
    }
    return sorted(found, key=lambda path: (path.count("/"), path))


def _inside(where: str, folder: str) -> str:
    """Return the id of a folder in a repository, which stands before the revision."""
    name, at, revision = where.partition("@")
    return f"{name.rstrip('/')}/{folder}{at}{revision}"
