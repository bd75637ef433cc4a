"""Preprocessing of transformers repositories: their processor's settings as a geometry, mean and std.

The settings are read from the processor class of this installation; nothing of the repository is run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import transformers
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

from platodef_cli.encoders.backends.processor_fitting import INTERPOLATIONS, Fitted, fit, settle
from platodef_cli.encoders.checks.weights import Bundle
from platodef_cli.encoders.geometry import Geometry
from platodef_cli.errors import RefusedError, UnsupportedError, UsageError

PLAIN = (
    *("BitImageProcessor", "CLIPImageProcessor", "ViTImageProcessor", "SiglipImageProcessor"),
    *("ConvNextImageProcessor", "DINOv3ViTImageProcessor", "DeiTImageProcessor"),
)
PATCHED = ("Siglip2ImageProcessor", "Qwen2VLImageProcessor", "Glm4vImageProcessor", "Glm46VImageProcessor")
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
        flipped: The network takes blue, green, red; mean and std are in that order.
    """

    geometry: Geometry
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...]
    settings: Mapping[str, Any]
    flipped: bool = False


def read_preprocessing(bundle: Bundle, model_type: str) -> Preprocessing:
    """Return the preprocessing of a transformers repository.

    Args:
        bundle: The repository.
        model_type: Of its network; it says which class processes where the file does not.

    Raises:
        UsageError: It is missing, of an unknown class, or does what a geometry cannot express; the
            message names the key.
        RefusedError: A value is malformed.
    """
    raw, where = _raw(bundle)
    name, kind = _class_of(raw, model_type, where)
    if name in PLAIN:
        for key, value in raw.items():
            if (key.startswith("do_") and key not in _STEPS and value) or (key == "pad_size" and value):
                raise UnsupportedError(f"{where}: {key} = {value!r} is a step that platodef cannot reproduce")
    made = None
    try:
        made = kind(**_usable(raw, kind))
        settings = {key: getattr(made, key, None) for key in _SETTINGS}
        if name in PATCHED:
            geometry, notes = _square(name, settings, INTERPOLATIONS.get(int(settings["resample"] or 2), ""))
            fitted = Fitted(geometry, *_normalisation(settings, where))
        elif name in PLAIN:
            stated = Fitted(_geometry(name, settings, where), *_normalisation(settings, where))
            fitted, notes = settle(made, stated, where), ()
        else:
            fitted, notes = fit(made, where), ()
    except ImportError:
        raise UnsupportedError(
            f"{where}: {name} needs a library that is not installed; it does more than resize"
        ) from None
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        if made is not None and name not in (*PLAIN, *PATCHED):
            raise UnsupportedError(
                f"{where}: {name} does not turn a plain image into one input ({reason}); it is not supported"
            ) from None
        raise RefusedError(f"{where}: malformed preprocessing ({reason}); do not use this model") from None
    return Preprocessing(fitted.geometry, fitted.mean, fitted.std, notes, settings, fitted.flipped)


def check_processor(bundle: Bundle, model_type: str) -> None:
    """Check that a repository has an image processor of a known class, without running it.

    Raises:
        UsageError: It has none, or one of another class.
        RefusedError: A file is malformed.
    """
    raw, where = _raw(bundle)
    _class_of(raw, model_type, where)


def _class_of(raw: Mapping[str, Any], model_type: str, where: str) -> tuple[str, Any]:
    """Return the class of transformers that processes images, as its own loader chooses it."""
    stated = str(raw.get("image_processor_type") or raw.get("feature_extractor_type") or "")
    name = stated.removesuffix("Fast").replace("FeatureExtractor", "ImageProcessor")
    if not name:
        known: Any = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type) or {}
        name = str(known.get("torchvision") or known.get("pil") or "")
    kind = getattr(transformers, name, None) if name.isidentifier() else None
    if not isinstance(kind, type) or not issubclass(kind, transformers.BaseImageProcessor):
        what = f"image_processor_type {stated!r}" if stated else f"no image_processor_type for {model_type!r}"
        raise UnsupportedError(
            f"{where}: {what} is not supported; supported are the image processors of transformers "
            f"{transformers.__version__}, such as {', '.join(PLAIN)}"
        )
    return name, kind


def _usable(raw: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """Return the settings that a class knows, in the types that it takes."""
    known = {*getattr(getattr(kind, "valid_kwargs", None), "__annotations__", ()), *_SETTINGS}
    values = {key: value for key, value in raw.items() if key in known and value is not None}
    if isinstance(values.get("resample"), str):
        names = {"box": 4, "hamming": 5, **{name: number for number, name in INTERPOLATIONS.items()}}
        named = values["resample"].rpartition(".")[2].lower()  # PILImageResampling.BICUBIC
        if named not in names:
            raise ValueError(f"resample = {named[:40]!r} is the name of no interpolation")
        values["resample"] = names[named]
    for key in ("image_mean", "image_std"):
        stated = values.get(key)
        if isinstance(stated, list | tuple) and len(stated) == 1:
            stated = stated[0]
        if isinstance(stated, int | float):
            values[key] = [float(stated)] * 3
    return values


def _raw(bundle: Bundle) -> tuple[dict[str, Any], str]:
    """Return the settings of the image processor and the file that holds them.

    As transformers 5 does, the part of ``processor_config.json`` for images comes before
    ``preprocessor_config.json``.
    """
    joined = bundle.json("processor_config.json") if bundle.has("processor_config.json") else {}
    inner = joined.get("image_processor")
    if isinstance(inner, dict):
        return inner, f"{bundle.directory}/processor_config.json"
    if bundle.has("preprocessor_config.json"):
        raw = bundle.json("preprocessor_config.json")
        inner = raw.get("image_processor")
        return inner if isinstance(inner, dict) else raw, f"{bundle.directory}/preprocessor_config.json"
    if "image_processor_type" in joined or "feature_extractor_type" in joined:
        return joined, f"{bundle.directory}/processor_config.json"
    raise UsageError(
        f"{bundle.directory}: lacks preprocessor_config.json, so its input size and normalisation are "
        "unknown; get it from where the model comes from"
    )


def _geometry(name: str, settings: Mapping[str, Any], where: str) -> Geometry:
    """Express the resize and crop of a processor."""
    resample = int(settings["resample"])
    if resample not in INTERPOLATIONS:
        raise UnsupportedError(
            f"{where}: resample = {resample} is none of nearest (0), lanczos (1), bilinear (2), bicubic (3)"
        )
    if not settings["do_resize"]:
        raise UnsupportedError(
            f"{where}: do_resize = false leaves the input size open, which is not supported"
        )
    interpolation = INTERPOLATIONS[resample]
    size = {key: value for key, value in dict(settings["size"]).items() if value is not None}
    if name == "ConvNextImageProcessor":
        edge = int(size["shortest_edge"])
        if edge >= 384:
            return Geometry((edge, edge), (edge, edge), interpolation, crop="floor")
        return Geometry((edge, edge), int(edge / settings["crop_pct"]), interpolation, crop="floor")
    crop = dict(settings["crop_size"]) if settings["do_center_crop"] else None
    if set(size) == {"shortest_edge"}:
        if crop is None:
            raise UnsupportedError(
                f"{where}: size.shortest_edge without do_center_crop gives inputs of any size; not supported "
                "(a copy with do_center_crop and crop_size has one size)"
            )
        target: tuple[int, int] | int = int(size["shortest_edge"])
    elif set(size) == {"height", "width"}:
        target = (int(size["height"]), int(size["width"]))
    else:
        raise UnsupportedError(
            f"{where}: size = {size} cannot be expressed; height and width, or shortest_edge"
        )
    final = (int(crop["height"]), int(crop["width"])) if crop else target
    assert isinstance(final, tuple)
    if min(*final, *(target if isinstance(target, tuple) else (target,))) < 1:
        raise ValueError(f"size = {size} leaves no pixels")
    return Geometry(final, target, interpolation, crop="floor")


def _square(name: str, settings: Mapping[str, Any], interpolation: str) -> tuple[Geometry, tuple[str, ...]]:
    """Choose the fixed square of a network that takes a different size per image."""
    if name == "Siglip2ImageProcessor":
        side = int(settings["max_num_patches"] ** 0.5) * settings["patch_size"]
    else:
        unit = settings["patch_size"] * settings["merge_size"]
        # GLM's areas are those of all frames, as which an image is repeated
        frames = settings["temporal_patch_size"] if name.startswith("Glm") else 1
        most = min((settings["size"]["longest_edge"] / frames) ** 0.5, _LARGEST_SQUARE)
        least = (settings["size"]["shortest_edge"] / frames) ** 0.5
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
