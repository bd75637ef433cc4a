"""Vision towers of open_clip: the contrastive model, its weights, its evaluation transform."""

from copy import deepcopy
from functools import partial
from typing import Any

import open_clip
import torch
from open_clip.model import _build_vision_tower
from open_clip.transform import PreprocessCfg
from torch import Tensor, nn

from platodef_cli.encoders.checks.weights import Bundle
from platodef_cli.encoders.geometry import Geometry
from platodef_cli.encoders.local import (
    Tower,
    build_on_meta,
    check_keys,
    freeze,
    is_convolutional,
    load_strictly,
)
from platodef_cli.errors import RefusedError, UsageError

_PREPROCESSING = ("size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color")
_OLD_TEXT = ("text_projection", "positional_embedding", "token_embedding", "transformer", "ln_final")


def build(bundle: Bundle, device: torch.device, dtype: torch.dtype) -> Tower:
    """Build the whole contrastive model, load it strictly and keep its vision tower.

    The model is constructed from its configuration in this process: open_clip's own loader would accept
    pickles, resample positions of the wrong shape, and contact other repositories.

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
        return _create(model)

    notes: tuple[str, ...] = ()
    if model["text_cfg"].get("hf_model_name"):
        # the text tower would come from another repository; nothing of it is needed
        tower: Any = _vision_alone(model, bundle)
        network: Any = None
        notes = ("the text tower, which is another repository's architecture, is not part of the encoder",)
    else:
        build_on_meta(create, bundle, "open_clip model")
        network = create()
        load_strictly(network, _converted(bundle.state_dict(), network), str(bundle.directory))
        tower = network.visual
    tower.output_tokens = False
    convolutional = is_convolutional(tower)
    tower = freeze(tower, device, dtype, convolutional)
    return Tower(
        module=tower,
        # CoCa's own encode_image normalises by default, the others' do not.
        forward=partial(_normalised, tower) if isinstance(network, open_clip.CoCa) else tower,
        geometry=_geometry(settings, where),
        mean=_three(settings["mean"], where),
        std=_three(settings["std"], where),
        architecture=str(model["vision_cfg"].get("timm_model_name") or type(tower).__name__),
        pooling="encode_image",
        notes=notes,
        channels_last=convolutional,
    )


def _vision_alone(model: dict[str, Any], bundle: Bundle) -> nn.Module:
    """Build the vision tower alone and load its part of the weights strictly."""

    def create() -> nn.Module:
        vision = deepcopy(model["vision_cfg"]) | {"timm_model_pretrained": False}
        made: nn.Module = _build_vision_tower(model["embed_dim"], vision, bool(model.get("quick_gelu")))
        return made

    build_on_meta(create, bundle, "open_clip vision tower")
    tower = create()
    state = bundle.state_dict()
    check_keys(
        str(bundle.directory),
        missing=(),
        unexpected=[key for key in state if not key.startswith(("visual.", "text.", "logit_"))],
    )
    own = {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}
    load_strictly(tower, own, str(bundle.directory))
    return tower


def _normalised(tower: nn.Module, pixels: Tensor) -> Tensor:
    return nn.functional.normalize(tower(pixels), dim=-1)


def _create(model: dict[str, Any]) -> nn.Module:
    """Construct the model, as ``open_clip.create_model`` does without weights."""
    values = deepcopy(model)
    custom = values.pop("custom_text", False)
    values["vision_cfg"]["timm_model_pretrained"] = False
    if not custom:
        kind = open_clip.CLIP
    elif "multimodal_cfg" in values:
        kind = open_clip.CoCa
    else:
        kind = open_clip.CustomTextCLIP
    network: nn.Module = kind(**values)
    return network


def _converted(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Give weights of older open_clip versions their present names; shapes of scalars alone may change."""
    own = network.state_dict()
    if "text_projection" in state and "text.text_projection" in own:
        state = {f"text.{k}" if k.startswith(_OLD_TEXT) else k: v for k, v in state.items()}
    for key in ("logit_scale", "logit_bias"):
        if key in state and key in own and state[key].numel() == own[key].numel() == 1:
            state[key] = state[key].reshape(own[key].shape)
    return {key: value for key, value in state.items() if not key.endswith("embeddings.position_ids")}


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
