"""Text towers of open_clip, built from their configuration alone, with the tokenizer that it carries."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from open_clip.model import _build_text_tower
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from platodef_cli.encoders.checks.weights import Bundle
from platodef_cli.encoders.local import build_on_meta, freeze
from platodef_cli.encoders.strict import check_keys, load_strictly, unwrapped
from platodef_cli.errors import RefusedError, UnsupportedError

_TEXT = "text."
_AT_THE_TOP = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")
"""How the names of a text tower begin that has no name of its own."""
_OTHERS = ("visual.", "logit_scale", "logit_bias")
_DEFAULT_LENGTH = 77


class OpenClipText(nn.Module):
    """A text tower of open_clip under the name by which transformers calls it.

    Args:
        tower: Text transformer of open_clip.
    """

    def __init__(self, tower: nn.Module):
        super().__init__()
        self.tower = tower
        self.platodef_missing: tuple[str, ...] = ()

    def get_text_features(self, input_ids: Tensor) -> Tensor:
        """Return ``[B, D]`` of token numbers ``[B, L]``."""
        features: Tensor = self.tower(input_ids)
        return features


class OpenClipWords:
    """CLIP's own tokenizer, which open_clip ships; texts are padded with 0 to one length.

    Args:
        length: Of every text, tokens.
    """

    padded = True

    def __init__(self, length: int):
        self._tokenizer = SimpleTokenizer(context_length=length)

    def numbers(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token numbers of every text."""
        found: list[list[int]] = self._tokenizer(list(texts)).tolist()
        return found


def load_open_clip_text(
    bundle: Bundle, device: torch.device, dtype: torch.dtype
) -> tuple[OpenClipText, OpenClipWords]:
    """Build the text tower alone and load its part of the weights strictly.

    Raises:
        UnsupportedError: It, or its tokenizer, is of another repository, or it is CoCa's.
        RefusedError: The configuration or the weights do not fit.
    """
    where = f"{bundle.directory}/open_clip_config.json"
    model = bundle.json("open_clip_config.json").get("model_cfg")
    if not isinstance(model, dict) or not isinstance(model.get("text_cfg"), dict):
        raise RefusedError(f"{where}: lacks model_cfg with text_cfg; do not use this model")
    text: Mapping[str, Any] = model["text_cfg"]
    elsewhere = text.get("hf_model_name") or text.get("hf_tokenizer_name") or text.get("tokenizer_kwargs")
    if elsewhere or "multimodal_cfg" in model:
        what = "it is CoCa's" if "multimodal_cfg" in model else f"it needs {str(elsewhere)[:80]!r}"
        raise UnsupportedError(
            f"{where}: its text tower cannot be read alone ({what}); give the model in the format of "
            "transformers"
        )

    def create() -> nn.Module:
        made: nn.Module = _build_text_tower(
            model["embed_dim"], deepcopy(dict(text)), bool(model.get("quick_gelu"))
        )
        return made

    build_on_meta(create, bundle, "open_clip text tower")
    tower: Any = create()
    load_strictly(tower, _own(unwrapped(bundle.state_dict()), str(bundle.directory)), str(bundle.directory))
    tower.output_tokens = False
    frozen = freeze(tower, device, dtype, channels_last=False)
    return OpenClipText(frozen), OpenClipWords(int(text.get("context_length", _DEFAULT_LENGTH)))


def _own(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return the weights of the text tower, under their names in it."""
    named = {key.removeprefix(_TEXT): value for key, value in state.items() if key.startswith(_TEXT)}
    if named:
        return named
    unexpected = [key for key in state if not key.startswith((*_AT_THE_TOP, *_OTHERS))]
    check_keys(where, missing=(), unexpected=unexpected)
    return {key: value for key, value in state.items() if key.startswith(_AT_THE_TOP)}
