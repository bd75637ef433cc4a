"""Networks of timm: constructor arguments, weights of older versions, evaluation transform."""

import math
import re
import sys
from collections.abc import Callable, Collection, Mapping
from copy import deepcopy
from dataclasses import fields
from difflib import get_close_matches
from functools import partial
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from timm.models import PretrainedCfg
from torch import Tensor, nn

from platodef_cli.encoders.backends import small_stems
from platodef_cli.encoders.checks.weights import Bundle
from platodef_cli.encoders.geometry import INTERPOLATIONS, Geometry
from platodef_cli.encoders.local import Tower, build_on_meta, freeze, is_convolutional
from platodef_cli.encoders.pooling import CLASS_TOKEN, MEAN, POOLINGS, taken
from platodef_cli.encoders.strict import load_strictly, unwrapped, with_shared
from platodef_cli.errors import RefusedError, UnsupportedError

_SOURCES = {"url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load"}
SMALL = small_stems.SMALL  # its networks are architectures of timm as well
_OPTIONS = {f.name for f in fields(PretrainedCfg)} - _SOURCES
_WRAPPER = "timm_model."  # prefix of weights that transformers saved
_NO_POOLING = "the folder asks for no pooling (global_pool)"
_LAYER_SCALE = re.compile(r"blocks\.\d+\.ls[12]\.gamma")
AS_PRETRAINED: dict[str, dict[str, Any]] = {"fbnetc_100": {"bn_eps": 1e-3}}
"""Architecture -> arguments that timm gives it only where it loads weights itself, and no weight shows.

timm is never asked to load: some of its architectures would fetch parts of theirs from the Hub then.
"""
_REFUSED_ARGUMENTS = (
    "pretrained",
    "cache_dir",
    "checkpoint",
    "feature",
    "out_indices",
    "device",
    "dtype",
    "scriptable",
)


def build(bundle: Bundle, device: torch.device, dtype: torch.dtype) -> Tower:
    """Build the network from its configuration, load it strictly and cut the classifier off.

    The network is made with its own number of classes, because timm loads any other number loosely.

    Raises:
        UnsupportedError: timm cannot build it from what the folder says.
        RefusedError: The configuration or the weights do not fit, or name what is never loaded.
    """
    name, options, arguments = _read(bundle)
    state = _own_names(bundle.state_dict())
    arguments = {**AS_PRETRAINED.get(name, {}), **arguments}

    def create() -> nn.Module:
        network: nn.Module = timm.create_model(
            name, pretrained=False, pretrained_cfg=deepcopy(options), **deepcopy(arguments)
        )
        return network

    meta = build_on_meta(create, bundle, f"timm {name}")
    implied = _implied(state, meta.state_dict().keys())
    if implied:
        arguments |= implied
        meta = build_on_meta(create, bundle, f"timm {name}")
    if getattr(meta, "in_chans", 3) != 3 or options.get("input_size", (3,))[0] != 3:
        raise RefusedError(
            f"{bundle.directory}: takes {options['input_size'][0]} channels; only RGB is supported"
        )
    network = create()
    if _gated(state, network):
        raise UnsupportedError(
            f"{bundle.directory}: its weights are of gated layers (SwiGLU), which its model card "
            "builds with mlp_layer=...; config.json does not say so, and timm reads no such layer there; "
            "not supported"
        )
    state = with_shared(network, state)
    heads = options.get("classifier") or ()
    load_strictly(
        network,
        _converted(state, network, str(bundle.directory)),
        str(bundle.directory),
        ignored=(heads,) if isinstance(heads, str) else heads,
    )
    network.reset_classifier(0)  # type: ignore[operator]
    settings = resolve_model_data_config(network)
    geometry = _geometry(settings, str(bundle.directory))
    convolutional = is_convolutional(network)
    network = freeze(network, device, dtype, convolutional)
    forward, chosen = _pooled(network, geometry.size, bundle.pooling)
    stated = arguments.get("global_pool") or bundle.json("config.json").get("global_pool") or "native"
    return Tower(
        module=network,
        forward=forward,
        geometry=geometry,
        mean=_three(settings["mean"], str(bundle.directory)),
        std=_three(settings["std"], str(bundle.directory)),
        architecture=name,
        pooling=chosen or str(stated)[:40],
        notes=(*_told(implied), *((taken(_NO_POOLING, chosen),) if chosen else ())),
        channels_last=convolutional,
    )


def _told(implied: Mapping[str, Any]) -> tuple[str, ...]:
    """Say which arguments were taken from the weights."""
    if not implied:
        return ()
    return (f"{', '.join(implied)}: not stated in config.json, taken from the weights",)


def _own_names(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return weights under timm's own names where transformers or distributed training saved them."""
    state = unwrapped(state)
    if not state or not all(key.startswith(_WRAPPER) for key in state):
        return state
    return {key.removeprefix(_WRAPPER): value for key, value in state.items()}


def _implied(state: Mapping[str, Tensor], own: Collection[str]) -> dict[str, Any]:
    """Return constructor arguments that the folder does not state and its weights show.

    Model cards tell users to pass them (``create_model(..., init_values=1e-5)``). Layer scale and register
    tokens are weights themselves, so that nothing but their presence has to be known.

    Args:
        state: The weights.
        own: Names of the weights of the network as it is configured.
    """
    found: dict[str, Any] = {}
    if any(_LAYER_SCALE.fullmatch(key) for key in state if key not in own):
        found["init_values"] = 1.0
    registers = state.get("reg_token")
    if "reg_token" not in own and registers is not None and registers.ndim == 3:
        found["reg_tokens"] = int(registers.shape[1])
    return found


def _gated(state: Mapping[str, Tensor], network: nn.Module) -> bool:
    """Tell that the weights are of gated layers (SwiGLU) where the network, as configured, has plain ones."""
    key = "blocks.0.mlp.fc2.weight"
    mine, theirs = network.state_dict().get(key), state.get(key)
    first = state.get("blocks.0.mlp.fc1.weight")
    if mine is None or theirs is None or first is None or min(theirs.ndim, first.ndim) != 2:
        return False
    return mine.shape != theirs.shape and first.shape[0] == 2 * theirs.shape[1]


def _pooled(network: Any, size: tuple[int, int], wanted: str) -> tuple[Callable[[Tensor], Tensor], str]:
    """Return what gives one vector per image, and how it pools where the network itself does not.

    Args:
        network: Without a classifier, frozen.
        size: Height and width of its input, pixels.
        wanted: A key of :data:`platodef_cli.encoders.pooling.POOLINGS`.
    """
    weight = next(network.parameters())
    with torch.inference_mode():
        output = network(torch.zeros(1, 3, *size, device=weight.device, dtype=weight.dtype))
    if not isinstance(output, Tensor) or output.ndim not in (3, 4):
        return network, ""
    token = output.ndim == 3 and getattr(network, "cls_token", None) is not None
    if token and POOLINGS[wanted] != MEAN:
        return partial(_class_token, network), CLASS_TOKEN
    return partial(_mean, network, _channels_last(network, output)), MEAN


def _channels_last(network: Any, output: Tensor) -> bool:
    """Tell a map ``[B, H, W, C]`` from ``[B, C, H, W]``."""
    width = getattr(network, "num_features", None)
    if output.ndim == 4 and (output.shape[1] == width) != (output.shape[3] == width):
        return bool(output.shape[3] == width)
    return getattr(network, "output_fmt", "NCHW") == "NHWC"


def _class_token(network: nn.Module, pixels: Tensor) -> Tensor:
    tokens: Tensor = network(pixels)
    return tokens[:, 0]


def _mean(network: Any, channels_last: bool, pixels: Tensor) -> Tensor:
    output: Tensor = network(pixels)
    if output.ndim == 3:
        return output[:, getattr(network, "num_prefix_tokens", 0) :].mean(1)
    return output.mean((1, 2) if channels_last else (2, 3))


def _read(bundle: Bundle) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return the architecture, the ``pretrained_cfg`` without sources, and the constructor arguments."""
    config = bundle.json("config.json")
    where = f"{bundle.directory}/config.json"
    name = config["architecture"]
    options = config.get("pretrained_cfg", config)
    arguments = config.get("model_args") or {}
    if not isinstance(options, dict) or not isinstance(arguments, dict):
        raise RefusedError(f"{where}: pretrained_cfg and model_args must be objects; do not use this model")
    check_name(name, where)
    options = {key: value for key, value in options.items() if key in _OPTIONS}
    if "num_classes" in config:
        options["num_classes"] = config["num_classes"]
    for key, value in arguments.items():
        plain = isinstance(value, int | float | str | None) or (
            isinstance(value, list) and all(isinstance(v, int | float | str | list | None) for v in value)
        )
        if key.startswith(_REFUSED_ARGUMENTS) or not (plain or isinstance(value, dict)):
            raise RefusedError(f"{where}: model_args.{key} is not an argument that a model folder may set")
    _target(options, arguments)
    return name, options, arguments


def check_name(name: str, where: str) -> None:
    """Check that timm has an architecture.

    Raises:
        UnsupportedError: It has not; the message names the nearest.
    """
    if timm.is_model(name):
        return
    close = get_close_matches(name, timm.list_models(), n=1)
    hint = f"; the nearest one is {close[0]!r}" if close else ""
    raise UnsupportedError(
        f"{where}: architecture {name!r} is not one of this timm ({timm.__version__}){hint}; update timm "
        "if it is a new one"
    )


def _target(options: dict[str, Any], arguments: dict[str, Any]) -> None:
    """Let the saved constructor arguments correct the saved input size, as timm does."""
    flexible = arguments.get("dynamic_img_size") or arguments.get("use_naflex")
    if flexible or arguments.get("strict_img_size") is False:
        options["fixed_input_size"] = False
    size = tuple(options.get("input_size") or (3, 224, 224))
    if arguments.get("in_chans") is not None:
        size = (arguments["in_chans"], *size[1:])
    image = arguments.get("img_size")
    if image is not None and options.get("fixed_input_size", False):
        size = (size[0], *((image, image) if isinstance(image, int) else image))
    options["input_size"] = size


def _converted(state: Mapping[str, Tensor], network: nn.Module, where: str) -> Mapping[str, Tensor]:
    """Rename weights of an older timm with the architecture's own filter, where names differ.

    Such a filter may also resample tensors of the wrong shape, drop some and invent others, all of
    which strict loading forbids. So it may only rename and reshape: the number of elements has to stay.
    """
    own = network.state_dict().keys()
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if convert is None or not own - state.keys():
        return state
    try:
        converted: dict[str, Tensor] = convert(dict(state), network)
        elements = sum(value.numel() for value in converted.values())
    except Exception as error:
        raise RefusedError(
            f"{where}: its weights do not fit its architecture ({type(error).__name__}); do not use it"
        ) from error
    kept = {key: value for key, value in state.items() if key != "mask_token"}
    odd = [key for key in converted if key in kept and kept[key].numel() != converted[key].numel()]
    if odd:
        raise RefusedError(f"{where}: weight {odd[0]!r} has shape {list(kept[odd[0]].shape)}; do not use it")
    if elements != sum(value.numel() for value in kept.values()):
        # Strict loading of the weights as they are names the one that is missing or unexpected.
        return state
    return converted


def _three(value: Any, where: str) -> tuple[float, ...]:
    """Return one number per channel; one number stands for all, as in timm."""
    values = tuple(float(v) for v in (value if isinstance(value, list | tuple) else [value]))
    values = values * 3 if len(values) == 1 else values
    if len(values) != 3:
        raise RefusedError(f"{where}: mean and std need three values; only RGB is supported")
    return values


def _geometry(settings: Mapping[str, Any], where: str) -> Geometry:
    """Express timm's evaluation transform (``timm.data.create_transform``)."""
    height, width = (int(v) for v in settings["input_size"][1:])
    interpolation, mode, share = settings["interpolation"], settings["crop_mode"], settings["crop_pct"]
    if interpolation not in INTERPOLATIONS:
        raise RefusedError(f"{where}: interpolation {interpolation!r} is none of {', '.join(INTERPOLATIONS)}")
    if not 0.05 <= share <= 20 or min(height, width) < 1:
        raise RefusedError(f"{where}: crop_pct {share} or input_size {height}x{width} is out of range")
    scaled = (math.floor(height / share), math.floor(width / share))
    size = (height, width)
    if mode == "squash":
        return Geometry(size, scaled, interpolation)
    if mode == "border":
        means = _three(settings["mean"], where)
        red, green, blue = (max(0, min(255, round(255 * value))) for value in means)
        return Geometry(size, scaled, interpolation, fill=(red, green, blue), fit="contain")
    if scaled[0] == scaled[1]:
        return Geometry(size, scaled[0], interpolation)
    return Geometry(size, scaled, interpolation, fit="cover")
