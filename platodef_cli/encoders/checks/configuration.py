"""Static rules for the JSON files of a model: size, nesting, forbidden keys, bounds of numbers."""

import json
import re
from collections.abc import Iterator
from typing import Any

from platodef_cli.disk import check_json_size
from platodef_cli.encoders.checks.limits import Limits
from platodef_cli.errors import IncompleteError, RefusedError, UsageError

_QUANTISED = (
    "says that the weights are quantised, which other loading code would undo (give the model they are of)"
)
FORBIDDEN = {
    "auto_map": "would run Python code of the repository",
    "custom_pipelines": "would run Python code of the repository",
    "trust_remote_code": "would run Python code of the repository",
    "quantization_config": _QUANTISED,
    "hf_quantizer": _QUANTISED,
    "kernel_config": "would download and run kernels",
    "use_kernels": "would download and run kernels",
    "hub_kernels": "would download and run kernels",
    "hf_hub_filename": "would choose another weight file",
    "checkpoint_path": "would choose another weight file",
    "checkpoint_file": "would choose another weight file",
    "transformers_weights": "would choose another weight file",
    "gguf_file": "would choose another weight file",
    "fusion_config": "would patch the model",
    "distributed_config": "would choose other loading code",
    "custom_generate": "would run Python code of the repository",
    "features_only": "would wrap the model",
    "pruned": "would rebuild the model",
    "hf_model_name": "would fetch another repository",
    "timm_model_pretrained": "would fetch other weights",
    "use_timm_backbone": "would fetch another repository",
    "use_pretrained_backbone": "would fetch another repository",
}
"""Keys that are refused at any depth, unless their value is false, null or empty."""

ATTENTION = ("", "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention", "grouped_mm")
_LABELS = ("id2label", "label2id", "label_names", "label_descriptions", "labels", "task_specific_params")
_LAYERS = re.compile(r"(^|_)(layers|depths?|blocks)$")
_IMAGE = re.compile(
    r"^(test_|min_)?(img|image|input|crop|resize|pool)_?size$|^size$|^(shortest|longest)_edge$"
)
_STD = re.compile(r"^(image_)?std$")
_LARGE = re.compile(r"vocab|position|token|classes|labels|length|pixels|theta|_ids?$|window")
_DIMENSION = re.compile(
    r"size|dim|width|height|channels|chans|heads|features|hidden|intermediate|patch|embed|stride|groups|num_|ratio"
)
_HUGE = 2**40
_BEGUN = re.compile(r"-?|t(ru?)?|f(a(ls?)?)?|n(ul?)?|\\?")
"""What is left of a value in the middle of which a text ends."""
_TEXT_TOWER = (("model_cfg", "text_cfg", "hf_model_name"), ("text_cfg", "hf_model_name"))
"""Where open_clip names the text tower, which is never built."""


def parse_json(data: bytes | bytearray, name: str, limits: Limits) -> dict[str, Any]:
    """Parse a JSON object within the bounds.

    Raises:
        RefusedError: It is too large, too deep, not JSON (a pickle under another name), or no object.
        IncompleteError: It ends in the middle.
    """
    if len(data) > limits.json_bytes:
        raise RefusedError(
            f"{name}: has {len(data)} bytes, more than {limits.json_bytes}; do not use this model"
        )
    try:
        check_json_size(data, limits.json_values)
        value = json.loads(bytes(data).decode("utf-8-sig"), parse_constant=_constant)
    except RecursionError:
        raise RefusedError(f"{name}: nested deeper than {limits.json_depth}; do not use this model") from None
    except json.JSONDecodeError as error:
        if error.doc.lstrip().startswith("{") and _ends_early(error):
            raise IncompleteError(
                f"{name}: ends in the middle ({error}), it was not downloaded to its end; download it again"
            ) from None
        raise RefusedError(f"{name}: not valid JSON ({error}); do not use this model") from None
    except UnicodeDecodeError as error:
        if bytes(data[:2]) in (b"\xff\xfe", b"\xfe\xff"):
            raise UsageError(
                f"{name}: is saved as UTF-16, which no library reads; save it as UTF-8"
            ) from None
        raise RefusedError(f"{name}: not valid JSON ({error}); do not use this model") from None
    except ValueError as error:
        raise RefusedError(f"{name}: not valid JSON ({error}); do not use this model") from None
    if not isinstance(value, dict):
        raise RefusedError(f"{name}: not a JSON object; do not use this model")
    if _depth(value) > limits.json_depth:
        raise RefusedError(f"{name}: nested deeper than {limits.json_depth}; do not use this model")
    return value


def _ends_early(error: json.JSONDecodeError) -> bool:
    """Return whether a text was valid until it ended."""
    rest = error.doc[error.pos :].rstrip()
    return error.msg.startswith("Unterminated string") or bool(_BEGUN.fullmatch(rest))


def check_configuration(value: dict[str, Any], name: str, limits: Limits) -> None:
    """Refuse forbidden keys and numbers out of bounds, at any depth.

    Raises:
        RefusedError: The message names the file, the key and the value.
    """
    native = _is_native(value)
    for path, item in _walk(value):
        key = path[-1]
        if path not in _TEXT_TOWER and not (native and path == ("auto_map",)):
            _check_key(name, path, item)
        if isinstance(item, list) and _LAYERS.search(key) and all(type(v) is int for v in item):
            _require(
                sum(item) <= limits.layers, name, path, item, f"asks for more than {limits.layers} layers"
            )
        if type(item) in (int, float):
            _check_number(name, path, item, value, limits)


def _is_native(value: dict[str, Any]) -> bool:
    """Tell whether transformers itself has the architecture, so that code beside it is not needed.

    The same for an image processor: its own class is built, whatever a file says about others.
    """
    kind = value.get("model_type")
    if not value.get("auto_map"):
        return False
    if not isinstance(kind, str):
        inner = value.get("image_processor")
        holder = inner if isinstance(inner, dict) else value
        return _is_native_processor(
            holder.get("image_processor_type") or holder.get("feature_extractor_type")
        )
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return kind in CONFIG_MAPPING_NAMES


def _is_native_processor(kind: Any) -> bool:
    """Tell whether transformers has an image processor of a name."""
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    name = str(kind).removesuffix("Fast").replace("FeatureExtractor", "ImageProcessor")
    known: Any = IMAGE_PROCESSOR_MAPPING_NAMES.values()
    return any(name in classes.values() for classes in known)


def _check_key(name: str, path: tuple[str, ...], item: Any) -> None:
    """Refuse keys and strings that choose code, kernels or other repositories."""
    key, place = path[-1], f"{name}: key {'.'.join(path)!r}"
    if key in FORBIDDEN and item not in (None, False, "", 0) and item != {} and item != []:
        raise RefusedError(f"{place} {FORBIDDEN[key]}; this is never loaded")
    if key == "pretrained_strict" and item not in (None, True):
        raise RefusedError(f"{place} would switch strict loading off; this is never loaded")
    if "implementation" in key:
        for value in _strings(item):
            if value not in ATTENTION:
                raise RefusedError(f"{place} names the hub kernel {value[:80]!r}; this is never loaded")
    elif "kernel" in key and any(_strings(item)):
        raise RefusedError(f"{place} names the kernel {next(_strings(item))[:80]!r}; this is never loaded")
    if key == "timm_model_name" and item is not None and not re.fullmatch(r"[A-Za-z0-9_.]+", str(item)):
        raise RefusedError(f"{place} = {str(item)[:80]!r} names another repository; this is never loaded")


def _strings(value: Any) -> Iterator[str]:
    """Yield every string inside a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


def _check_number(
    name: str, path: tuple[str, ...], item: float, root: dict[str, Any], limits: Limits
) -> None:
    """Check one number against the bound that its key has."""
    key = path[-1]
    # not math.isfinite, which integers beyond floating point overflow; infinities and NaN fail this as well
    _require(abs(item) < _HUGE, name, path, item, "is out of any sensible range")
    if path[0] == "video_processor":
        return  # never read; its sizes are areas
    if _STD.match(key):
        # Without rescaling, std is in pixel levels instead of shares of the range.
        low, high = limits.standard_deviation
        _require(low <= item <= high, name, path, item, f"must lie in [{low}, {high}]")
    elif _LAYERS.search(key):
        _require(item <= limits.layers, name, path, item, f"asks for more than {limits.layers} layers")
    elif any(_IMAGE.match(part) for part in path[-2:]) and not _is_pixel_budget(path, root):
        low = 0 if "pool" in key else 1
        _require(
            low <= item <= limits.image_size,
            name,
            path,
            item,
            f"must lie in [{low}, {limits.image_size}] pixels",
        )
    elif key == "num_labels":
        # transformers names every label, before anything is built
        _require(item <= limits.vocabulary, name, path, item, f"is more than {limits.vocabulary}")
    elif _LARGE.search(key):
        _require(item <= 2**31, name, path, item, f"is more than {2**31}")
    elif type(item) is int and _DIMENSION.search(key):
        _require(item <= limits.dimension, name, path, item, f"is more than {limits.dimension}")


def _is_pixel_budget(path: tuple[str, ...], root: dict[str, Any]) -> bool:
    """Tell whether ``size.shortest_edge`` counts pixels of the area, as for Qwen-VL and GLM-V."""
    holder = root.get("image_processor", root) if "image_processor" in path else root
    kind = str(holder.get("image_processor_type", ""))
    return kind.startswith(("Qwen2VL", "Glm4v", "Glm46V")) and path[-1] in ("shortest_edge", "longest_edge")


def _require(good: bool, name: str, path: tuple[str, ...], item: Any, problem: str) -> None:
    if not good:
        raise RefusedError(f"{name}: {'.'.join(path)} = {str(item)[:60]} {problem}; do not use this model")


def _walk(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every value with its path of keys; list items carry the key of their list."""
    if isinstance(value, dict):
        for key, item in value.items():
            if path or item is not None:
                yield (*path, str(key)), item
            if key not in _LABELS:
                yield from _walk(item, (*path, str(key)))
    elif isinstance(value, list):
        for item in value:
            if not isinstance(item, dict | list):
                yield path, item
            else:
                yield from _walk(item, path)


def _depth(value: Any) -> int:
    """Return the nesting depth, without recursion."""
    deepest, level = 0, [value]
    while level:
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        deepest += 1
    return deepest


def _constant(text: str) -> float:
    raise ValueError(f"the constant {text} is not a number")
