"""Vision towers of the Qwen family, which take a sequence of patches and its grid instead of an image."""

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import Tensor

from platodef_cli.encoders.backends.processors import Preprocessing
from platodef_cli.encoders.backends.transformers_loading import configuration, load
from platodef_cli.encoders.checks.weights import Bundle
from platodef_cli.encoders.local import Tower, freeze
from platodef_cli.encoders.strict import check_keys
from platodef_cli.errors import RefusedError

_PREFIXES = ("model.visual.", "visual.")
MEAN_OF_TOKENS = "mean of image features"


def merged_patches(pixels: Tensor, patch: int, merge: int, frames: int) -> Tensor:
    """Cut images into the sequence of patches that the processor of Qwen2-VL makes.

    Args:
        pixels: ``[B, 3, H, W]``, H and W multiples of ``patch * merge``.
        patch: Side of a patch, pixels.
        merge: Side of the squares of patches that become one token; they stand beside each other.
        frames: How often the image is repeated along time.

    Returns:
        ``[B N, 3 frames patch²]`` with ``N = H W / patch²``.
    """
    batch, channels, height, width = pixels.shape
    rows, columns = height // patch // merge, width // patch // merge
    patches = pixels.reshape(batch, channels, rows, merge, patch, columns, merge, patch)
    # [B, row, column, merge, merge, channel, patch, patch]
    patches = patches.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)
    patches = patches.expand(*(-1,) * 6, frames, -1, -1)
    return patches.reshape(batch * rows * columns * merge**2, -1)


def build_grid_tower(
    name: str,
    bundle: Bundle,
    raw: Mapping[str, Any],
    preprocessing: Preprocessing,
    device: torch.device,
    dtype: torch.dtype,
) -> Tower:
    """Build the vision tower of a repository of the Qwen family, whole or tower alone, strictly.

    Its feature is the mean of the tokens that the language model would be given.

    Args:
        name: Class of the tower in transformers.
        bundle: The files.
        raw: Their ``config.json``.
        preprocessing: Of images to squares of patches.
        device: Where it runs.
        dtype: Of its weights.

    Raises:
        RefusedError: The configuration or the weights do not fit.
    """
    network = getattr(transformers, name)
    whole = "vision_config" in raw
    config = configuration(bundle, raw, "sdpa", (lambda both: both.vision_config) if whole else None)
    state = bundle.state_dict()
    prefix = next((each for each in _PREFIXES if any(key.startswith(each) for key in state)), "")
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    loaded = load(bundle, network, config, own, {})
    check_keys(str(bundle.directory), missing=loaded.missing, unexpected=loaded.dropped)
    for key in ("patch_size", "spatial_merge_size", "temporal_patch_size"):
        stated = preprocessing.settings[key.removeprefix("spatial_")]
        if getattr(config, key) != stated:
            raise RefusedError(
                f"{bundle.directory}: {key} is {getattr(config, key)} in config.json but {stated} for the "
                "image processor; do not use this model"
            )
    tower = freeze(loaded.network, device, dtype, channels_last=False)
    alone = ("only the vision tower is examined, not the language model",) if whole else ()
    return Tower(
        module=tower,
        forward=_Reader(tower, config),
        geometry=preprocessing.geometry,
        mean=preprocessing.mean,
        std=preprocessing.std,
        architecture=name,
        pooling=MEAN_OF_TOKENS,
        notes=(*preprocessing.notes, *alone),
    )


class _Reader:
    """Runs a tower on batches of images of one size."""

    def __init__(self, tower: Any, config: Any):
        self._tower = tower
        self._patch, self._merge = config.patch_size, config.spatial_merge_size
        self._frames = config.temporal_patch_size

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return ``[B, D]`` of normalised pixels ``[B, 3, H, W]``."""
        batch, _, height, width = pixels.shape
        grid = [1, height // self._patch, width // self._patch]
        output = self._tower(
            merged_patches(pixels, self._patch, self._merge, self._frames),
            grid_thw=torch.tensor([grid] * batch, device=pixels.device),
        )
        tokens: Tensor = output.pooler_output
        return tokens.reshape(batch, -1, tokens.shape[-1]).mean(1)
