"""Qwen-VL models as image encoders (VLM2Vec): the last token of an image followed by a short instruction."""

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from torch import Tensor

from platodef_cli.encoders.backends.grid_towers import build_grid_tower, merged_patches
from platodef_cli.encoders.backends.processors import Preprocessing
from platodef_cli.encoders.backends.transformers_loading import configuration, load
from platodef_cli.encoders.checks.weights import Bundle
from platodef_cli.encoders.local import Tower, freeze, one_line
from platodef_cli.encoders.pooling import LAST, POOLINGS
from platodef_cli.encoders.strict import check_keys
from platodef_cli.errors import RefusedError, UsageError

_IMAGE = "<|image_pad|>"
PROMPT = f"<|vision_start|>{_IMAGE}<|vision_end|> Represent the given image."
"""The instruction for a lone image; its exact wording in VLM2Vec's evaluation is not confirmed."""


def build_tower_or_last(
    tower: str,
    network: str,
    bundle: Bundle,
    raw: Mapping[str, Any],
    preprocessing: Preprocessing,
    device: torch.device,
    dtype: torch.dtype,
) -> Tower:
    """Build the vision tower of a Qwen-VL, or with ``--pooling last`` all of it, as embedding models use it.

    Args:
        tower: Class of the tower in transformers.
        network: Class of the whole network.
        bundle: The files.
        raw: Their ``config.json``.
        preprocessing: Of images to squares of patches.
        device: Where it runs.
        dtype: Of its weights.

    Raises:
        UsageError: The tokenizer is missing or lacks the image token.
        RefusedError: The configuration, tokenizer or weights do not fit.
    """
    if POOLINGS[bundle.pooling] == LAST and "vision_config" in raw:
        return build_last_token(network, bundle, raw, preprocessing, device, dtype)
    return build_grid_tower(tower, bundle, raw, preprocessing, device, dtype)


def build_last_token(
    network: str,
    bundle: Bundle,
    raw: Mapping[str, Any],
    preprocessing: Preprocessing,
    device: torch.device,
    dtype: torch.dtype,
) -> Tower:
    """Build and strictly load a Qwen-VL, and encode its prompt.

    Args:
        network: Class of transformers.
        bundle: The files.
        raw: Their ``config.json``.
        preprocessing: Of images to squares of patches.
        device: Where it runs.
        dtype: Of its weights.

    Raises:
        UsageError: The tokenizer is missing or lacks the image token.
        RefusedError: The configuration, tokenizer or weights do not fit.
    """
    tokens = _prompt_tokens(bundle)
    config = configuration(bundle, raw, "sdpa")
    loaded = load(bundle, getattr(transformers, network), config, bundle.state_dict(), {})
    check_keys(str(bundle.directory), missing=loaded.missing, unexpected=loaded.dropped)
    body: Any = loaded.network.model
    if tokens.count(config.image_token_id) != 1:
        raise UsageError(f"{bundle.directory}/tokenizer.json: {_IMAGE} is not one token with the image's id")
    if max(tokens) >= body.get_input_embeddings().num_embeddings:
        raise RefusedError(f"{bundle.directory}/tokenizer.json: has more tokens than the network has rows")
    body = freeze(body, device, dtype, channels_last=False)
    reader = LastTokenReader(body, tokens, preprocessing.settings, preprocessing.geometry.size)
    return Tower(
        module=body,
        forward=reader,
        geometry=preprocessing.geometry,
        mean=preprocessing.mean,
        std=preprocessing.std,
        architecture=network,
        pooling=LAST,
        notes=(*preprocessing.notes, f"prompt: {PROMPT}"),
    )


def _prompt_tokens(bundle: Bundle) -> list[int]:
    """Return the tokens of the prompt, with one image token."""
    if not bundle.has("tokenizer.json"):
        raise UsageError(f"{bundle.directory}: lacks tokenizer.json, which the prompt needs")
    try:
        tokenizer = Tokenizer.from_buffer(bytes(bundle.read("tokenizer.json")))
        tokens: list[int] = tokenizer.encode(PROMPT, add_special_tokens=False).ids
    except Exception as error:
        raise RefusedError(f"{bundle.directory}/tokenizer.json: malformed ({one_line(error)})") from None
    return tokens


class LastTokenReader:
    """Runs the network on batches of images of one size, with gradients where they are asked for.

    Args:
        body: The network without the head of its language model.
        tokens: Of the prompt, with one image token.
        settings: ``patch_size``, ``merge_size`` and ``temporal_patch_size`` of the image processor.
        size: Height and width of the images, pixels.

    Every sequence has the same length, so no padding exists and the last token is the last position.
    """

    def __init__(self, body: Any, tokens: list[int], settings: Mapping[str, Any], size: tuple[int, int]):
        self._body = body
        self._patch, self._merge = settings["patch_size"], settings["merge_size"]
        self._frames = settings["temporal_patch_size"]
        self._grid = (size[0] // self._patch, size[1] // self._patch)
        image: int = self._body.config.image_token_id
        count = self._grid[0] * self._grid[1] // self._merge**2
        at = tokens.index(image)
        self._tokens = tokens[:at] + [image] * count + tokens[at + 1 :]
        self._image = image

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return ``[B, D]`` of normalised pixels ``[B, 3, H, W]``."""
        return self.hidden(pixels)[:, -1]

    def hidden(self, pixels: Tensor, answers: Tensor | None = None) -> Tensor:
        """Return what the network holds at every token, ``[B, T, D]``.

        Args:
            pixels: Normalised, ``[B, 3, H, W]``.
            answers: Tokens ``[B, A]`` that follow the prompt.
        """
        batch = len(pixels)
        tokens = torch.tensor([self._tokens] * batch, device=pixels.device)
        if answers is not None:
            tokens = torch.cat([tokens, answers], dim=1)
        output = self._body(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            mm_token_type_ids=tokens.eq(self._image).int(),
            pixel_values=merged_patches(pixels, self._patch, self._merge, self._frames),
            image_grid_thw=torch.tensor([[1, *self._grid]] * batch, device=pixels.device),
            use_cache=False,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden
