"""What each model type of this transformers gives as a feature: rows of the page about encoders."""

import importlib.util
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_MAPPING_NAMES, MODEL_MAPPING_NAMES

from platodef_cli.encoders.backends.transformers_models import FAMILIES, LEFT_OUT, family_of
from platodef_cli.encoders.backends.transformers_pooling import possible_poolings
from platodef_cli.encoders.pooling import CLASS_TOKEN, MEAN
from platodef_cli.errors import UnsupportedError

_PER_TOKEN = "mean of image features"
ALSO_TESTED: Mapping[str, str] = {
    **dict.fromkeys(("altclip", "blip", "chinese_clip", "chinese_clip_vision_model", "internvl_vision"), ""),
    "metaclip_2": "",
    **dict.fromkeys(("align", "blip-2", "clipseg", "groupvit", "owlvit", "tipsv2"), "image features"),
    "vision-text-dual-encoder": "image features",
    **dict.fromkeys(("aya_vision", "flava", "florence2", "gemma3", "kosmos-2", "ovis2"), _PER_TOKEN),
    "qianfan_ocr": _PER_TOKEN,
    **dict.fromkeys(("cvt", "pvt_v2", "radio", "sam3_vision_model", "sam3_vit_model"), MEAN),
    **dict.fromkeys(("sam_hq_vision_model", "sam_vision_model"), MEAN),
    **dict.fromkeys(("maskformer-swin", "sapiens2"), "pooler_output"),
    "qianfan_ocr_vision": CLASS_TOKEN,
}
"""Types outside the mapping and without a row that tests hold to the library -> the feature.

Empty where a network of the usual configuration is asked; that of some types cannot be built.
"""
_TILES = "its processor cuts an image into tiles or patches with places of their own, which is refused"
_PADS = "its processor pads images or turns them, which is refused; it loads with a plain processor"
_ANY_SIZE = "its processor gives inputs of any size; it loads where one size is set"
_LARGE = "its tower is a network of timm with more than 100 million parameters, whatever the configuration"
_NO_FEATURE = "no output of it is one vector per image, which is refused"
NOT_COMPARED = {
    **dict.fromkeys(("aria", "deepseek_ocr2", "fuyu", "idefics2", "idefics3", "inkling_mm_model"), _TILES),
    **dict.fromkeys(("modernvbert", "neomme", "perception_lm", "smolvlm", "step3p7", "ultravbert"), _TILES),
    **dict.fromkeys(("embedding_gemma2", "gemma4", "gemma4_unified", "unlimited_ocr"), _TILES),
    **dict.fromkeys(("minicpm_ocr_vision", "minicpmv4_7_vision"), _TILES),
    **dict.fromkeys(("deepseek_vl", "donut-swin", "janus", "owlv2"), _PADS),
    **dict.fromkeys(("pixtral", "textnet"), _ANY_SIZE),
    **dict.fromkeys(("fast_vlm", "gemma3n", "gemma3n_vision"), _LARGE),
    **dict.fromkeys(("chameleon", "hgnet_v2"), _NO_FEATURE),
    "video_llava": "its processor gives frames of videos, which is refused",
}
"""Types that are run by the same rule, but that no test compares -> why."""
NEEDS = {"dinat": "natten"}
"""Type -> library that its class needs."""
_ELSEWHERE = "timm_wrapper"
_SIDE = 224


@dataclass(frozen=True)
class SupportedType:
    """A type that loads.

    Attributes:
        kind: The ``model_type``.
        network: Class of transformers that runs.
        pooling: Which output is the feature.
        otherwise: Which one is, where the weights of the first are not in the files; empty where none is.
        needs: A library that has to be installed.
        mapped: Whether transformers' own mapping of image features has it.
    """

    kind: str
    network: str
    pooling: str
    otherwise: str = ""
    needs: str = ""
    mapped: bool = False


@dataclass(frozen=True)
class Catalogue:
    """All types of this transformers that take images.

    Attributes:
        supported: Those that load, with a test of each.
        untested: Those that are run by the same rule, but that no test compares -> why.
        left_out: Type -> why it does not load.
    """

    supported: tuple[SupportedType, ...]
    untested: Mapping[str, str]
    left_out: Mapping[str, str]


def catalogue() -> Catalogue:
    """Return what loads, from this installation of transformers; classes are built without weights."""
    tested = sorted({*MODEL_FOR_IMAGE_MAPPING_NAMES, *FAMILIES, *ALSO_TESTED} - {*LEFT_OUT, _ELSEWHERE})
    untested: dict[str, str] = {}
    left_out = dict(LEFT_OUT)
    for kind in sorted({*MODEL_MAPPING_NAMES} - {*tested, *LEFT_OUT, _ELSEWHERE}):
        try:
            family_of(kind, ())
        except UnsupportedError as error:
            if "takes more than" in str(error):
                wanted = str(error).rpartition("(")[2].rstrip(")")
                left_out[kind] = f"it takes more than pixels: {wanted}"
        else:
            untested[kind] = NOT_COMPARED.get(kind, "it is new in this transformers")
    return Catalogue(tuple(_supported(kind) for kind in tested), untested, left_out)


def _supported(kind: str) -> SupportedType:
    """Describe a type that loads; the common rule is asked with a network of the usual configuration."""
    row = family_of(kind, ("visual_projection.weight", "head.probe"))  # nothing is absent
    mapped = kind in MODEL_FOR_IMAGE_MAPPING_NAMES
    if row.pooling:
        otherwise = "pooler_output" if kind.startswith("clip") else ""
        otherwise = "mean of patches" if kind.startswith("siglip2") else otherwise
        return SupportedType(kind, row.network, row.pooling, otherwise, mapped=mapped)
    if stated := ALSO_TESTED.get(kind):
        return SupportedType(kind, row.network, stated, mapped=mapped)
    needs = NEEDS.get(kind, "")
    if needs and importlib.util.find_spec(needs) is None:
        return SupportedType(kind, row.network, "", needs=needs, mapped=mapped)
    config: Any = transformers.CONFIG_MAPPING[kind]()
    config = row.config(config) if row.config else config
    with torch.device("meta"):
        network: Any = getattr(transformers, row.network)(config, **row.arguments).eval()
    side = _side(config)
    names = possible_poolings(network, torch.zeros(1, 3, side, side, device="meta"))
    # an output of averages has no weights that could be absent
    weighty = any("pooler" in name or "head." in name for name, _ in network.named_parameters())
    otherwise = names[1] if len(names) > 1 and names[0] == "pooler_output" and weighty else ""
    return SupportedType(kind, row.network, names[0], otherwise, needs, mapped)


def _side(config: Any) -> int:
    """Return the side of the input that a configuration is made for, pixels."""
    side: Any = None
    for holder in (config, getattr(config, "vision_config", None)):
        side = side or getattr(holder, "image_size", None)
    with suppress(TypeError, KeyError):
        side = side[0]
    return side if isinstance(side, int) else _SIDE
