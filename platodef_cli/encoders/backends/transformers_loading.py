"""Configurations and strict loading, for every network of transformers."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.utils import logging

from platodef_cli.encoders.checks.weights import Bundle
from platodef_cli.encoders.local import build_on_meta, check_finite, check_keys, one_line
from platodef_cli.errors import RefusedError

_OWN_KEYS = ("architectures", "dtype", "torch_dtype", "_name_or_path", "transformers_version")
_quiet = threading.Lock()


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
