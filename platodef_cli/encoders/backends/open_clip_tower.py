"""Vision towers of open_clip: the network, its weights, its evaluation transform."""

from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from open_clip.model import _build_vision_tower
from open_clip.transform import PreprocessCfg
from torch import Tensor, nn

from platodef_cli.encoders.checks.weights import Bundle
from platodef_cli.encoders.geometry import Geometry
from platodef_cli.encoders.local import Tower, build_on_meta, freeze, is_convolutional
from platodef_cli.encoders.strict import check_keys, load_strictly, unwrapped
from platodef_cli.errors import RefusedError, UsageError

_PREPROCESSING = ("size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color")
_VISION = "visual."
_OTHERS = (
    *("text.", "text_decoder.", "logit_scale", "logit_bias"),
    # of a text tower that stands at the top
    *("text_projection", "positional_embedding", "token_embedding.", "transformer.", "ln_final."),
)
"""How the names of weights begin that are no part of the vision tower."""


def build(bundle: Bundle, device: torch.device, dtype: torch.dtype) -> Tower:
    """Build the vision tower alone and load its part of the weights strictly.

    It is constructed from its configuration in this process: open_clip's own loader would accept pickles,
    resample positions of the wrong shape, and contact other repositories, for a text tower among others.

    Raises:
        UsageError: The preprocessing cannot be reproduced.
        RefusedError: The configuration or the weights do not fit.
    """
    where = f"{bundle.directory}/open_clip_config.json"
    config = bundle.json("open_clip_config.json")
    model = config.get("model_cfg")
    if not isinstance(model, dict) or not all(
        isinstance(model.get(k), dict) for k in ("vision_cfg", "text_cfg")
    ):
        raise RefusedError(f"{where}: lacks model_cfg with vision_cfg and text_cfg; do not use this model")
    if not isinstance(config.get("preprocess_cfg", {}), dict):
        raise RefusedError(f"{where}: preprocess_cfg must be an object; do not use this model")
    settings = _settings(model, config.get("preprocess_cfg", {}))

    def create() -> nn.Module:
        vision = deepcopy(model["vision_cfg"]) | {"timm_model_pretrained": False}
        made: nn.Module = _build_vision_tower(model["embed_dim"], vision, bool(model.get("quick_gelu")))
        return made

    build_on_meta(create, bundle, "open_clip vision tower")
    tower: Any = create()
    load_strictly(tower, _own(unwrapped(bundle.state_dict()), str(bundle.directory)), str(bundle.directory))
    tower.output_tokens = False
    convolutional = is_convolutional(tower)
    tower = freeze(tower, device, dtype, convolutional)
    return Tower(
        module=tower,
        # CoCa's own encode_image normalises by default, the others' do not.
        forward=partial(_normalised, tower) if "multimodal_cfg" in model else tower,
        geometry=_geometry(settings, where),
        mean=_three(settings["mean"], where),
        std=_three(settings["std"], where),
        architecture=str(model["vision_cfg"].get("timm_model_name") or type(tower).__name__),
        pooling="encode_image",
        channels_last=convolutional,
    )


def _own(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return the weights of the vision tower.

    Raises:
        RefusedError: A weight belongs to none of the parts of a contrastive model.
    """
    unexpected = [key for key in state if not key.startswith((_VISION, *_OTHERS))]
    check_keys(where, missing=(), unexpected=unexpected)
    return {key.removeprefix(_VISION): value for key, value in state.items() if key.startswith(_VISION)}


def _normalised(tower: nn.Module, pixels: Tensor) -> Tensor:
    return nn.functional.normalize(tower(pixels), dim=-1)


def _settings(model: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Merge the preprocessing over open_clip's defaults; the tower's input size wins, as in open_clip."""
    defaults = PreprocessCfg()
    settings = {key: getattr(defaults, key) for key in _PREPROCESSING}
    settings |= {key: value for key, value in given.items() if key in _PREPROCESSING and value is not None}
    settings["size"] = model["vision_cfg"].get("image_size", 224)
    return settings


def _three(value: Any, where: str) -> tuple[float, ...]:
    """Return one number per channel."""
    values = tuple(float(v) for v in (value if isinstance(value, list | tuple) else [value] * 3))
    if len(values) != 3:
        raise UsageError(f"{where}: mean and std need three values; only RGB is supported")
    return values


def _geometry(settings: dict[str, Any], where: str) -> Geometry:
    """Express open_clip's evaluation transform (``open_clip.transform.image_transform``)."""
    side = settings["size"]
    height, width = (int(v) for v in (side if isinstance(side, list | tuple) else (side, side)))
    size = (height, width)
    interpolation, mode = settings["interpolation"], settings["resize_mode"]
    if interpolation not in ("bicubic", "bilinear", "random"):
        raise UsageError(f"{where}: interpolation {interpolation!r} is neither bicubic nor bilinear")
    interpolation = "bilinear" if interpolation == "bilinear" else "bicubic"
    if mode == "squash":
        return Geometry(size, size, interpolation)
    if mode == "longest":
        return Geometry(size, size, interpolation, fill=int(settings["fill_color"]), fit="contain")
    if mode != "shortest":
        raise UsageError(f"{where}: resize_mode {mode!r} is none of shortest, longest, squash")
    if height == width:
        return Geometry(size, height, interpolation)
    # open_clip resizes inputs that are not square with its default, bicubic, whatever the configuration.
    return Geometry(size, size, "bicubic", fit="cover")
