"""Preprocessing of transformers repositories: their processor's settings as a geometry, mean and std.

The settings are read from the processor class of this installation; nothing of the repository is run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import transformers

from platodef_cli.encoders.checks.weights import Bundle
from platodef_cli.encoders.geometry import Geometry
from platodef_cli.errors import RefusedError, UsageError

PLAIN = (
    *("BitImageProcessor", "CLIPImageProcessor", "ViTImageProcessor", "SiglipImageProcessor"),
    *("ConvNextImageProcessor", "DINOv3ViTImageProcessor", "DeiTImageProcessor"),
)
PATCHED = ("Siglip2ImageProcessor", "Qwen2VLImageProcessor")
_INTERPOLATIONS = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")
_SETTINGS = (
    *_STEPS,
    *("size", "crop_size", "crop_pct", "resample", "rescale_factor", "image_mean", "image_std"),
    *("patch_size", "max_num_patches", "min_pixels", "max_pixels", "temporal_patch_size", "merge_size"),
)
_LARGEST_SQUARE = 448


@dataclass(frozen=True)
class Preprocessing:
    """What happens to an image before the network.

    Attributes:
        geometry: Resize and crop.
        mean: Per channel, as a share of the pixel range.
        std: Per channel, as a share of the pixel range.
        notes: Where a fixed size replaces the library's size per image.
        settings: The processor's attributes (``patch_size`` ...).
    """

    geometry: Geometry
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...]
    settings: Mapping[str, Any]


def read_preprocessing(bundle: Bundle) -> Preprocessing:
    """Return the preprocessing of a transformers repository.

    Raises:
        UsageError: It is missing, of an unknown class, or does what a geometry cannot express; the
            message names the key.
        RefusedError: A value is malformed.
    """
    raw, where = _raw(bundle)
    kind = str(raw.get("image_processor_type") or raw.get("feature_extractor_type") or "")
    name = kind.removesuffix("Fast").replace("FeatureExtractor", "ImageProcessor")
    if name not in PLAIN + PATCHED:
        known = ", ".join(PLAIN + PATCHED)
        raise UsageError(f"{where}: image_processor_type {kind!r} is not supported; supported are {known}")
    for key, value in raw.items():
        if (key.startswith("do_") and key not in _STEPS and value) or (key == "pad_size" and value):
            raise UsageError(f"{where}: {key} = {value!r} is a step that platodef cannot reproduce")
    try:
        made = getattr(transformers, name)(**{k: v for k, v in raw.items() if k in _SETTINGS})
        settings = {key: getattr(made, key, None) for key in _SETTINGS}
        geometry, notes = _geometry(name, settings, where)
        mean, std = _normalisation(settings, where)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise RefusedError(f"{where}: malformed preprocessing ({reason}); do not use this model") from None
    return Preprocessing(geometry, mean, std, notes, settings)


def _raw(bundle: Bundle) -> tuple[dict[str, Any], str]:
    """Return the settings of the image processor and the file that holds them."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if not bundle.has(name):
            continue
        raw = bundle.json(name)
        inner = raw.get("image_processor", raw)
        if isinstance(inner, dict) and ("image_processor_type" in inner or "feature_extractor_type" in inner):
            return inner, f"{bundle.directory}/{name}"
    raise UsageError(
        f"{bundle.directory}: lacks preprocessor_config.json, so its input size and normalisation are unknown"
    )


def _geometry(name: str, settings: Mapping[str, Any], where: str) -> tuple[Geometry, tuple[str, ...]]:
    """Express the resize and crop of a processor."""
    resample = int(settings["resample"])
    if resample not in _INTERPOLATIONS:
        raise UsageError(f"{where}: resample = {resample} is none of lanczos (1), bilinear (2), bicubic (3)")
    if not settings["do_resize"]:
        raise UsageError(f"{where}: do_resize = false leaves the input size open, which is not supported")
    interpolation = _INTERPOLATIONS[resample]
    if name in PATCHED:
        return _square(name, settings, interpolation)
    size = {key: value for key, value in dict(settings["size"]).items() if value is not None}
    if name == "ConvNextImageProcessor":
        edge = int(size["shortest_edge"])
        if edge >= 384:
            return Geometry((edge, edge), (edge, edge), interpolation, crop="floor"), ()
        return Geometry((edge, edge), int(edge / settings["crop_pct"]), interpolation, crop="floor"), ()
    crop = dict(settings["crop_size"]) if settings["do_center_crop"] else None
    if set(size) == {"shortest_edge"}:
        if crop is None:
            raise UsageError(
                f"{where}: size.shortest_edge without do_center_crop gives inputs of any size; not supported"
            )
        target: tuple[int, int] | int = int(size["shortest_edge"])
    elif set(size) == {"height", "width"}:
        target = (int(size["height"]), int(size["width"]))
    else:
        raise UsageError(f"{where}: size = {size} cannot be expressed; height and width, or shortest_edge")
    final = (int(crop["height"]), int(crop["width"])) if crop else target
    assert isinstance(final, tuple)
    return Geometry(final, target, interpolation, crop="floor"), ()


def _square(name: str, settings: Mapping[str, Any], interpolation: str) -> tuple[Geometry, tuple[str, ...]]:
    """Choose the fixed square of a network that takes a different size per image."""
    if name == "Siglip2ImageProcessor":
        side = int(settings["max_num_patches"] ** 0.5) * settings["patch_size"]
    else:
        unit = settings["patch_size"] * settings["merge_size"]
        most = min(settings["size"]["longest_edge"] ** 0.5, _LARGEST_SQUARE)
        least = settings["size"]["shortest_edge"] ** 0.5
        side = unit * max(1, int(most // unit), -int(-least // unit))
    note = f"images are resized to a square of {side} pixels; {name} itself keeps their aspect ratio"
    return Geometry((side, side), (side, side), interpolation, crop="floor"), (note,)


def _normalisation(settings: Mapping[str, Any], where: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std for pixels in [0, 1].

    The processor computes ``(levels * factor - mean) / std``; with ``levels = 255 x`` this is
    ``(x - mean / (255 factor)) / (std / (255 factor))``.
    """
    factor = 255 * (float(settings["rescale_factor"]) if settings["do_rescale"] else 1.0)
    mean = [float(v) for v in settings["image_mean"]] if settings["do_normalize"] else [0.0] * 3
    std = [float(v) for v in settings["image_std"]] if settings["do_normalize"] else [1.0] * 3
    if len(mean) != 3 or len(std) != 3 or not 0 < factor < 1e6 or min(std) <= 0:
        raise UsageError(f"{where}: image_mean, image_std or rescale_factor do not fit three colour channels")
    return tuple(v / factor for v in mean), tuple(v / factor for v in std)
