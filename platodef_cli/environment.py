"""Settings that libraries read once, when they are imported."""

import ctypes
import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

_FIXED = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    # Without it transformers asks an outside service to convert a pickle into safetensors.
    "DISABLE_SAFETENSORS_CONVERSION": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
_COMPILER, _ASKED = "torch._dynamo", "torch._dynamo.utils"
_MALLOC = {-3: 2**30, -1: 2**31 - 1, -8: 1}  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_ARENA_MAX of malloc.h
_OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
_DEFAULTS = {
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
}


def container_cpus(limit_file: Path = Path("/sys/fs/cgroup/cpu.max")) -> int | None:
    """Return the number of CPUs that a container limit leaves, at least 1, or None without a limit."""
    try:
        quota, period = limit_file.read_text().split()
        return max(1, int(int(quota) / int(period)))
    except (OSError, ValueError):
        return None


def cpus() -> int:
    """Return the number of CPUs that this process may use, as far as the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def prepare() -> None:
    """Set the environment; must run before torch, transformers or huggingface_hub are imported."""
    os.environ.update(_FIXED)
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    # torch counts the machine's CPUs, not the container's share, and more threads than CPUs are slower.
    limit = container_cpus()
    if limit is not None and limit < cpus():
        os.environ.setdefault("OMP_NUM_THREADS", str(limit))


def keep_freed_memory() -> None:
    """Let glibc keep memory that was freed, in one heap, for the next tensors.

    It would map every large tensor afresh, and the kernel would fill it with zeros page by page: with the
    activations of 32 images at 224 pixels that is half of the time of a gradient. Other C libraries have no
    such switch, or need none. It holds for the whole process, so only processes of our own call it.
    """
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in _MALLOC.items():
            mallopt(option, value)


def import_without_compiler(*names: str) -> None:
    """Import libraries that load torch's compiler for a decorator, without it.

    torchvision asks it whether it supports a device, timm has it leave one function alone, and it takes as
    long to load as torch itself: a third of the start of every process. Both questions are put off until
    somebody calls these functions. Where a library wants more of the compiler, it is imported as usual.

    Args:
        names: Of modules, in the order in which they are imported.
    """
    for name in names:
        if name in sys.modules or _COMPILER in sys.modules:
            importlib.import_module(name)
            continue
        before = set(sys.modules)
        try:
            with _compiler_put_off():
                importlib.import_module(name)
        except (ImportError, AttributeError):
            for half in set(sys.modules) - before:
                if half.startswith((name, _COMPILER)):
                    del sys.modules[half]
            importlib.import_module(name)


@contextmanager
def _compiler_put_off() -> Iterator[None]:
    import torch
    from torch._compile import _disable_dynamo

    def disable(function: Any = None, recursive: bool = True, *, reason: str | None = None) -> Any:
        return _disable_dynamo(function, recursive)

    before, torch.compiler.disable = torch.compiler.disable, disable
    sys.modules[_ASKED] = _Questions(_ASKED)
    try:
        yield
    finally:
        torch.compiler.disable = before
        if isinstance(sys.modules[_ASKED], _Questions):
            del sys.modules[_ASKED]


class _Questions(ModuleType):
    """Stands for the compiler's own module of that name while others take a function from it."""

    @staticmethod
    def is_compile_supported(device: str) -> bool:
        """Ask the compiler."""
        return bool(importlib.import_module(_ASKED).is_compile_supported(device))


def offline_requested() -> bool:
    """Return whether the environment asks for work without network, as huggingface_hub reads it."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def go_offline() -> None:
    """Keep every library that honours it off the network, for the rest of the process."""
    os.environ.update(_OFFLINE)


@contextmanager
def offline_while(wanted: bool) -> Iterator[None]:
    """Keep the libraries off the network inside the block, and leave the process as it was after it."""
    if not wanted:
        yield
        return
    # it reads the variable once, when it is imported, and would stay offline for good
    importlib.import_module("huggingface_hub.constants")
    before = {name: os.environ.get(name) for name in _OFFLINE}
    go_offline()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
