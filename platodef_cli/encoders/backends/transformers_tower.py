"""Networks of transformers: the row of the ``model_type``, its weights, its preprocessing."""

from functools import partial

import torch
import transformers
from torch import nn

from platodef_cli.encoders.backends.processors import Preprocessing, read_preprocessing
from platodef_cli.encoders.backends.transformers_loading import configuration, load
from platodef_cli.encoders.backends.transformers_models import FAMILIES, ModelFamily
from platodef_cli.encoders.checks.weights import Bundle
from platodef_cli.encoders.local import Tower, freeze, is_convolutional
from platodef_cli.errors import UnknownNameError


def build(bundle: Bundle, device: torch.device, dtype: torch.dtype) -> Tower:
    """Build the network of an allowed ``model_type`` and load it strictly.

    Raises:
        UnknownNameError: The ``model_type`` is not in the table.
        UsageError: The preprocessing cannot be reproduced.
        RefusedError: The configuration or the weights do not fit.
    """
    raw = bundle.json("config.json")
    kind = raw["model_type"]
    if kind not in FAMILIES:
        raise UnknownNameError(f"model_type of {bundle.directory}", kind, FAMILIES)
    preprocessing = read_preprocessing(bundle)
    row = FAMILIES[kind]
    if row.build is not None:
        return row.build(bundle, raw, preprocessing, device, dtype)
    config = configuration(bundle, raw, row.attention, row.config)
    state = {
        key: value
        for key, value in bundle.state_dict().items()
        if not key.startswith(row.heads) and not key.endswith(".position_ids")
    }
    network = load(bundle, getattr(transformers, row.network), config, state, row.arguments)
    return _tower(network, row, preprocessing, device, dtype)


def _tower(
    network: nn.Module,
    row: ModelFamily,
    preprocessing: Preprocessing,
    device: torch.device,
    dtype: torch.dtype,
) -> Tower:
    """Join the network with its preprocessing."""
    convolutional = is_convolutional(network)
    network = freeze(network, device, dtype, convolutional)
    return Tower(
        module=network,
        forward=partial(row.pooled, network),
        geometry=preprocessing.geometry,
        mean=preprocessing.mean,
        std=preprocessing.std,
        architecture=row.network,
        pooling=row.pooling,
        notes=preprocessing.notes,
        channels_last=convolutional,
    )
