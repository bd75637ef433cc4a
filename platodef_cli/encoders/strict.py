"""Strict loading: every weight of a network comes from the files, and every weight of the files is known."""

import itertools
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from platodef_cli.errors import RefusedError

_WRAPPERS = ("_orig_mod.", "module.")


def load_strictly(
    network: nn.Module,
    state: Mapping[str, Tensor],
    where: str,
    *,
    ignored: Iterable[str] = (),
) -> tuple[str, ...]:
    """Copy a state dict into a network; every key, shape and kind of number has to fit.

    Args:
        network: Receives the weights.
        state: Name -> tensor.
        where: Folder, for messages.
        ignored: Prefixes of known heads that the network is built without.

    Returns:
        The names that were left out because they belong to such a head.

    Raises:
        RefusedError: A key is missing, unexpected or mis-shaped, an integer stands for a float, or a
            weight is not finite.
    """
    own = network.state_dict()
    state = with_shared(network, unwrapped(state))
    prefixes = tuple(f"{prefix}." for prefix in ignored)
    heads = tuple(key for key in state if key not in own and key.startswith(prefixes)) if prefixes else ()
    state = {key: value for key, value in state.items() if key not in heads}
    check_keys(where, missing=own.keys() - state.keys(), unexpected=state.keys() - own.keys())
    for key, value in state.items():
        if value.shape != own[key].shape:
            raise RefusedError(
                f"{where}: weight {key!r} has shape {list(value.shape)} instead of {list(own[key].shape)}; "
                "do not use this model"
            )
        if value.is_floating_point() != own[key].is_floating_point():
            raise RefusedError(
                f"{where}: weight {key!r} is {value.dtype} instead of {own[key].dtype}; do not use this model"
            )
    bounds = [key for key, value in state.items() if _same_infinities(value, own[key])]
    network.load_state_dict(state, strict=True)
    check_finite(network, state.keys() - bounds, where)
    return heads


def unwrapped(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return weights under their own names where distributed training or torch.compile saved them."""
    for wrapper in (*_WRAPPERS, *_WRAPPERS):
        if state and all(key.startswith(wrapper) for key in state):
            state = {key.removeprefix(wrapper): value for key, value in state.items()}
    return state


def with_shared(network: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Give every name of a weight that a network uses in several places; files often hold only one."""
    places: dict[int, list[str]] = {}
    for name, value in itertools.chain(
        network.named_parameters(remove_duplicate=False), network.named_buffers(remove_duplicate=False)
    ):
        places.setdefault(id(value), []).append(name)
    added = {
        name: state[present[0]]
        for names in places.values()
        if len(names) > 1 and (present := [name for name in names if name in state])
        for name in names
        if name not in state
    }
    return {**state, **added} if added else state


def _same_infinities(value: Tensor, initial: Tensor) -> bool:
    """Tell that all of a tensor which is not finite is infinite in the untrained network too: a bound."""
    if not value.is_floating_point() or value.numel() != 1:
        return False
    return bool(value.isinf().all()) and bool(value == initial)


def check_keys(where: str, *, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    """Raise :class:`RefusedError` if a weight is missing or unexpected; a missing one would be random."""
    for problem, keys in (
        ("lacks the weight", sorted(missing)),
        ("holds the unexpected weight", sorted(unexpected)),
    ):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise RefusedError(f"{where}: {problem} {keys[0]!r}{more}; do not use this model")


def check_finite(network: nn.Module, keys: Iterable[str], where: str) -> None:
    """Raise :class:`RefusedError` if a loaded weight is NaN or infinite."""
    own = network.state_dict()
    for key in keys:
        if key in own and own[key].is_floating_point() and not torch.isfinite(own[key]).all():
            raise RefusedError(
                f"{where}: weight {key!r} is not finite (NaN or infinity); do not use this model"
            )
