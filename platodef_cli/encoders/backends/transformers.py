"""transformers folders: ``config.json`` with ``model_type``, ``preprocessor_config.json``, safetensors."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.utils import logging

from platodef_cli.encoders.backends.processors import Preprocessing, read_preprocessing
from platodef_cli.encoders.backends.transformers_models import FAMILIES, ModelFamily
from platodef_cli.encoders.checks.weights import Bundle
from platodef_cli.encoders.local import (
    Tower,
    build_on_meta,
    check_finite,
    check_keys,
    freeze,
    is_convolutional,
    one_line,
)
from platodef_cli.errors import RefusedError, UnknownNameError

_OWN_KEYS = ("architectures", "dtype", "torch_dtype", "_name_or_path", "transformers_version")
_quiet = threading.Lock()


def build(bundle: Bundle, device: torch.device, dtype: torch.dtype) -> Tower:
    """Build the network of an allowed ``model_type`` and load it strictly.

    Raises:
        UnknownNameError: The ``model_type`` is not in the table.
        UsageError: The preprocessing cannot be reproduced.
        RefusedError: The configuration or the weights do not fit.
    """
    raw = bundle.json("config.json")
    kind = raw["model_type"]
    if kind not in FAMILIES and kind != "qwen2_vl":
        raise UnknownNameError(f"model_type of {bundle.directory}", kind, (*FAMILIES, "qwen2_vl"))
    preprocessing = read_preprocessing(bundle)
    if kind == "qwen2_vl":
        from platodef_cli.encoders.backends.qwen2_vl import build_qwen2_vl

        return build_qwen2_vl(bundle, raw, preprocessing, device, dtype)
    row = FAMILIES[kind]
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


def configuration(
    bundle: Bundle, raw: Mapping[str, Any], attention: str, convert: Callable[[Any], Any] | None = None
) -> Any:
    """Return the configuration object, with the attention implementation that we choose.

    Raises:
        RefusedError: A value has the wrong type or is inconsistent.
    """
    values = {
        key: value
        for key, value in raw.items()
        if key not in _OWN_KEYS and not key.lstrip("_").startswith("attn_implementation")
    }
    try:
        with _silenced():
            config = transformers.CONFIG_MAPPING[raw["model_type"]].from_dict(values)
            config = convert(config) if convert else config
            config._attn_implementation = attention
    except Exception as error:
        raise RefusedError(
            f"{bundle.directory}/config.json: not a valid configuration ({one_line(error)}); do not use it"
        ) from error
    return config


def load(
    bundle: Bundle, network: Any, config: Any, state: dict[str, Tensor], arguments: Mapping[str, Any]
) -> nn.Module:
    """Build a network from its configuration and from tensors that were already verified.

    Raises:
        RefusedError: It is larger than its files, or a weight is missing, unexpected, mis-shaped, an
            integer or not finite.
    """
    where = str(bundle.directory)
    build_on_meta(partial(network, config, **arguments), bundle, f"transformers {network.__name__}")
    for key, value in state.items():
        if not value.is_floating_point() and not key.endswith("num_batches_tracked"):
            raise RefusedError(f"{where}: weight {key!r} is {value.dtype}, not floating point; do not use it")
    try:
        with _silenced():
            loaded, info = network.from_pretrained(
                None,
                config=config,
                state_dict=state,
                dtype=torch.float32,
                output_loading_info=True,
                local_files_only=True,
                trust_remote_code=False,
                **arguments,
            )
    except RuntimeError as error:
        if any(text in str(error) for text in ("allocate memory", "bad_alloc")):
            raise
        raise RefusedError(f"{where}: a weight has the wrong shape ({one_line(error)})") from error
    check_keys(where, missing=info["missing_keys"], unexpected=info["unexpected_keys"])
    if info["mismatched_keys"] or info.get("error_msgs"):
        raise RefusedError(f"{where}: a weight has the wrong shape; do not use this model")
    check_finite(loaded, loaded.state_dict().keys(), where)
    module: nn.Module = loaded
    for tensor in (*module.parameters(), *module.buffers()):
        # Still views on the bytes of the file, whose alignment differs from process to process, and with
        # it the last bits of some kernels.
        tensor.data = tensor.data.clone()
    return module


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep the library's reports and progress bars off the console; failures are reported by errors."""
    with _quiet:
        level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity(logging.CRITICAL)
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()
