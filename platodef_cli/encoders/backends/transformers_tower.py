"""Networks of transformers: the row of the ``model_type``, its weights, its preprocessing."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import transformers
from torch import Tensor, nn

from platodef_cli.encoders.backends.processors import Preprocessing, read_preprocessing
from platodef_cli.encoders.backends.transformers_loading import Loaded, configuration, load
from platodef_cli.encoders.backends.transformers_models import ModelFamily, family_of
from platodef_cli.encoders.backends.transformers_pooling import (
    NoFeature,
    Pooled,
    as_wanted,
    choose_pooling,
)
from platodef_cli.encoders.checks.weights import Bundle
from platodef_cli.encoders.local import Tower, freeze, is_convolutional, one_line
from platodef_cli.encoders.pooling import CLASS_TOKEN, MEAN, taken
from platodef_cli.encoders.strict import check_keys
from platodef_cli.errors import UnsupportedError

_CANNOT = (TypeError, ValueError, AttributeError, KeyError, IndexError, NotImplementedError)


def build(bundle: Bundle, device: torch.device, dtype: torch.dtype) -> Tower:
    """Build the network of an allowed ``model_type`` and load it strictly.

    Raises:
        UnsupportedError: The ``model_type`` is not supported.
        UsageError: The preprocessing cannot be reproduced.
        RefusedError: The configuration or the weights do not fit.
    """
    raw = bundle.json("config.json")
    state = bundle.state_dict()
    row = family_of(raw["model_type"], state)
    preprocessing = read_preprocessing(bundle, raw["model_type"])
    if row.build is not None:
        return row.build(bundle, raw, preprocessing, device, dtype)
    config = configuration(bundle, raw, row.attention, row.config)
    kept = {
        key: value
        for key, value in state.items()
        if not key.startswith(row.heads) and not key.endswith(".position_ids")
    }
    tasks = [str(name) for name in raw.get("architectures") or () if name != row.network]
    loaded = load(bundle, getattr(transformers, row.network), config, kept, row.arguments, tasks)
    pooling = _pooling(loaded, row, preprocessing, str(bundle.directory))
    pooling = as_wanted(loaded.network, pooling, bundle.pooling)
    dropped = sorted({*loaded.dropped, *(state.keys() - kept)})
    notes = [*preprocessing.notes, *_told(dropped)]
    if row.pooled is None and pooling[0] in (CLASS_TOKEN, MEAN):
        notes.append(taken("the files hold no trained pooler", pooling[0]))
    return _tower(loaded.network, row.network, pooling, preprocessing, device, dtype, notes)


def _pooling(
    loaded: Loaded, row: ModelFamily, preprocessing: Preprocessing, where: str
) -> tuple[str, Pooled]:
    """Return the pooling of a network and its name.

    Raises:
        RefusedError: Every output depends on a weight that the files lack.
        UnsupportedError: There is no output that is one feature of an image.
    """
    loaded.network.eval()
    if row.pooled is None:
        try:
            return choose_pooling(loaded.network, preprocessing.geometry.size)
        except NoFeature:
            check_keys(where, missing=loaded.missing, unexpected=())
            raise UnsupportedError(
                f"{where}: {row.network} has no output that is one feature of an image; it cannot be audited"
            ) from None
        except _CANNOT as error:
            if row.tried:
                raise
            raise UnsupportedError(
                f"{where}: {row.network} cannot be run on the pixels of an image alone "
                f"({type(error).__name__}: {one_line(error)})"
            ) from error
    if loaded.missing:
        size = preprocessing.geometry.size
        with torch.inference_mode():
            features = row.pooled(loaded.network, torch.zeros(1, 3, *size))
        if not torch.isfinite(features).all():
            check_keys(where, missing=loaded.missing, unexpected=())
    return row.pooling, row.pooled


def _tower(
    network: nn.Module,
    architecture: str,
    pooling: tuple[str, Pooled],
    preprocessing: Preprocessing,
    device: torch.device,
    dtype: torch.dtype,
    notes: Sequence[str],
) -> Tower:
    """Join the network with its preprocessing."""
    convolutional = is_convolutional(network)
    network = freeze(network, device, dtype, convolutional)
    forward = partial(pooling[1], network)
    return Tower(
        module=network,
        forward=_Reversed(forward) if preprocessing.flipped else forward,
        geometry=preprocessing.geometry,
        mean=preprocessing.mean,
        std=preprocessing.std,
        architecture=architecture,
        pooling=pooling[0],
        notes=tuple(notes),
        channels_last=convolutional,
    )


class _Reversed:
    """A network that takes blue, green and red, where the pixels come as red, green and blue."""

    def __init__(self, forward: Callable[[Tensor], Tensor]):
        self._forward = forward

    def __call__(self, pixels: Tensor) -> Tensor:
        return self._forward(pixels.flip(1))


def _told(dropped: Sequence[str]) -> tuple[str, ...]:
    """Say which weights of the files are not part of the encoder."""
    if not dropped:
        return ()
    modules = sorted({key.rpartition(".")[0] or key for key in dropped})
    if len(modules) > 3:
        modules = sorted({key.removeprefix("model.").partition(".")[0] for key in dropped})
    more = f" and {len(modules) - 3} more" if len(modules) > 3 else ""
    return (f"weights of a task, not part of the encoder: {', '.join(modules[:3])}{more}",)
