"""Configurations and strict loading, for every network of transformers."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.utils import logging

from platodef_cli.encoders.checks.weights import INTEGER_BUFFER, Bundle
from platodef_cli.encoders.local import build_on_meta, one_line
from platodef_cli.encoders.strict import check_finite, check_keys
from platodef_cli.errors import RefusedError

_OWN_KEYS = ("auto_map", "architectures", "dtype", "torch_dtype", "_name_or_path", "transformers_version")
_COMMON_HEADS = ("classifier.", "head.", "decoder.", "lm_head.", "fc.")
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


@dataclass(frozen=True)
class Loaded:
    """A network with its weights.

    Attributes:
        network: Weights that the files lack are NaN in it.
        missing: Their names.
        dropped: Tensors of the files that belong to the head of a task.
    """

    network: nn.Module
    missing: tuple[str, ...]
    dropped: tuple[str, ...]


def load(
    bundle: Bundle,
    network: Any,
    config: Any,
    state: dict[str, Tensor],
    arguments: Mapping[str, Any],
    tasks: Sequence[str] = (),
) -> Loaded:
    """Build a network from its configuration and from tensors that were already verified.

    Args:
        bundle: Names the files.
        network: Class of transformers.
        config: Its configuration.
        state: The tensors.
        arguments: Further arguments of the class.
        tasks: Classes of transformers that the configuration names; their heads may be in the files.

    Raises:
        RefusedError: It is larger than its files, or a weight is unexpected, mis-shaped, an integer or not
            finite.
    """
    where = str(bundle.directory)
    build_on_meta(partial(network, config, **arguments), bundle, f"transformers {network.__name__}")
    for key, value in state.items():
        if not value.is_floating_point() and not INTEGER_BUFFER.search(key):
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
    if info["mismatched_keys"] or info.get("error_msgs"):
        raise RefusedError(f"{where}: a weight has the wrong shape; do not use this model")
    dropped = sorted(info["unexpected_keys"])
    heads = _heads_of(tasks, config, loaded) if dropped else set()
    check_keys(where, missing=(), unexpected=[key for key in dropped if not _belongs(key, heads)])
    missing = sorted(info["missing_keys"])
    own = loaded.state_dict()
    check_finite(loaded, own.keys() - set(missing), where)
    module: nn.Module = loaded
    for tensor in (*module.parameters(), *module.buffers()):
        # Still views on the bytes of the file, whose alignment differs from process to process, and with
        # it the last bits of some kernels.
        tensor.data = tensor.data.clone()
    own = module.state_dict()
    lost = [key for key in missing if key in own and not own[key].is_floating_point()]
    check_keys(where, missing=[key for key in lost if not key.endswith("num_batches_tracked")], unexpected=())
    for key in missing:
        if key in own and own[key].is_floating_point():
            own[key].fill_(torch.nan)  # random numbers must not become a feature; NaN shows where they would
    return Loaded(module, tuple(missing), tuple(dropped))


def _heads_of(tasks: Sequence[str], config: Any, network: nn.Module) -> set[str]:
    """Return the names of the weights of the classes that a configuration names.

    And those of the parts that the network itself has not, with a dot at the end.
    """
    own = {name for name, _ in network.named_children()}
    names: set[str] = set()
    for task in tasks[:4]:
        kind: Any = getattr(transformers, str(task), None)
        fits = isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)
        if not fits or not isinstance(config, kind.config_class or ()):
            continue
        with torch.device("meta"), contextlib.suppress(Exception):
            # a head that cannot be built from it explains no weights
            made = kind(config)
            names |= set(made.state_dict())
            # files may hold older names of the same weights, which the library renames
            parts = {name for name, _ in made.named_children()} - own - {kind.base_model_prefix}
            names |= {f"{name}." for name in parts}
    return names


def _belongs(key: str, heads: set[str]) -> bool:
    """Tell whether a weight that the network does not have is known: the head of a task, or a common one."""
    own = tuple(name for name in heads if name.endswith("."))
    return key in heads or key.startswith(own) or (not heads and key.startswith(_COMMON_HEADS))


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
