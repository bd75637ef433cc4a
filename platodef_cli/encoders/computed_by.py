"""What besides weights and pixels decides the bytes of a feature: the kind of device, the libraries."""

import platform
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version

import torch

_LIBRARIES = ("torch", "torchvision", "timm", "transformers", "open_clip_torch")


def device_kind(device: torch.device | str) -> str:
    """Return what computes on a device, in words that are equal for equal hardware.

    ``cuda:0`` and ``cuda:1`` of one kind give the same bytes and one name; a CPU is named with the vector
    instructions that torch uses on it.

    Args:
        device: It can be used here.
    """
    where = torch.device(device)
    if where.type == "cpu":
        return f"cpu {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    if where.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(where)}"
    return f"{where.type} {platform.machine()}"


@lru_cache
def encoding_libraries() -> dict[str, str]:
    """Return library -> version, for those that build and run encoders; ``""`` where one is missing."""
    return {name: _version(name) for name in _LIBRARIES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
