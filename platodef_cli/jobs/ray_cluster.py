"""A Ray cluster: joined, or started on this machine; nothing is told to anybody about its use."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from platodef_cli.errors import IncompleteError, UsageError

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}
STORE_BYTES = 80 * 2**20
"""Object store of a cluster that is started here: pieces travel through files, not through it."""


def load_ray() -> Any:
    """Return the package.

    Raises:
        UsageError: It is not installed.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        return import_module("ray")
    except ImportError:
        raise UsageError("--executor ray needs the package ray; install platodef[ray]") from None


@contextmanager
def cluster(address: str | None) -> Iterator[Any]:
    """Yield ray, connected; a cluster that this process was connected to before stays so.

    Args:
        address: ``HOST:PORT``, ``auto`` or ``ray://...``; None starts one on this machine.

    Raises:
        UsageError: Ray is not installed.
        IncompleteError: The cluster does not answer.
    """
    ray = load_ray()
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address is None:
        options |= {"include_dashboard": False, "object_store_memory": STORE_BYTES}
    try:
        ray.init(address=address, **options)
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise IncompleteError(
            f"cannot reach the Ray cluster {address or 'on this machine'} ({text}); look at `ray status`"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()
