"""Reading the tensors of a pickled checkpoint in a process that can do nothing else.

The process gives up its rights, reads the one file with ``torch.load(weights_only=True)``, which builds
tensors and plain containers and runs no code, and answers with a safetensors file that its parent checks like
any other.
"""

import contextlib
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platodef_cli.encoders.isolation.sandbox import child_environment, give_up_rights, limit_memory
from platodef_cli.encoders.isolation.system import has_children, no_children
from platodef_cli.errors import IncompleteError, RefusedError, UnsupportedError
from platodef_cli.temporary import TemporaryFolder

if TYPE_CHECKING:
    from torch import Tensor

_LARGEST = 16 * 2**30
_TIMEOUT_S = 1800
_UNSAFE, _NOTHING, _BROKEN, _SCRIPT, _FOREIGN = 10, 11, 12, 13, 14
_ATTACKS = re.compile(
    r"^(?:(?:os|posix|nt|sys|subprocess|socket|shutil|runpy|importlib|pty|ctypes|code|codecs|commands|pickle"
    r"|platform|asyncio|multiprocessing|webbrowser|urllib|requests|http|marshal|types|operator|functools)\.|"
    r"(?:builtins\.)?(?:eval|exec|execfile|compile|getattr|setattr|delattr|open|__import__|input|globals|vars"
    r"|breakpoint|apply|map|filter)$)"
)
"""What no checkpoint asks for unless it means to run something."""
_OPTIONS = (
    *("omegaconf", "hydra", "yacs", "fvcore", "easydict", "addict", "ml_collections", "munch", "box", "attr"),
    *("pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities", "torchmetrics"),
    *("mmengine", "mmcv", "mmcls", "mmselfsup", "detectron2", "iopath", "classy_vision", "vissl", "fairseq"),
    *("accelerate", "apex", "deepspeed", "wandb", "sacred", "simple_parsing"),
    *("typing", "enum", "datetime", "collections", "torch.optim", "timm.optim", "timm.scheduler"),
)
"""Packages whose objects training frameworks save beside weights: options, counters, optimisers, dates."""
_MOST_KINDS = 300
_MOST_PICKLE = 2**28


def read_pickled(path: Path, *, memory_limit_gb: float) -> bytes:
    """Return the tensors of a pickled checkpoint as a safetensors file.

    Nested names are joined by dots, and stand behind their number in the file: ``000012 model.conv1.weight``.

    Args:
        path: ``torch.save`` wrote it.
        memory_limit_gb: Of the process that reads it.

    Raises:
        RefusedError: It needs code to be loaded, or it is larger than any encoder.
        IncompleteError: It is damaged or holds no tensors, or memory or time ran out.
    """
    size = path.stat().st_size
    if size > _LARGEST:
        raise RefusedError(f"{path}: has {size} bytes, more than {_LARGEST}")
    if not has_children():
        raise IncompleteError(f"{path}: a pickle is only read in a process of its own, and {no_children()}")
    with TemporaryFolder("child") as folder:
        home = str(folder)
        lifeline, kept = os.pipe()
        words = [str(lifeline), str(path.resolve()), str(memory_limit_gb)]
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", __name__, *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                pass_fds=(lifeline,),
                cwd=home,
                env=child_environment(home),
                start_new_session=True,
                timeout=_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            raise IncompleteError(f"{path}: reading it took longer than {_TIMEOUT_S} s") from None
        finally:
            os.close(lifeline)
            os.close(kept)
    told = done.stderr.decode("utf-8", "replace").split("\n")
    why = next((" ".join(line.split())[-200:] for line in reversed(told) if line.strip()), "")
    if done.returncode == _UNSAFE:
        raise RefusedError(
            f"{path}: cannot be loaded without running code (it asks for {why}); {_advice(why)}"
        )
    if done.returncode == _SCRIPT:
        raise RefusedError(
            f"{path}: is a TorchScript program, not weights, and is never run; where you trust it, save its "
            f"weights with torch.save(torch.jit.load(FILE).state_dict(), OTHER) and give that file"
        )
    if done.returncode == _FOREIGN:
        raise UnsupportedError(
            f"{path}: is not written as torch.save does by default ({why}); where you trust it, save its "
            "state dict again with torch.save(STATE_DICT, FILE), and give that file"
        )
    if done.returncode == _NOTHING:
        raise IncompleteError(f"{path}: holds no tensors; give the checkpoint of a network")
    if done.returncode == _BROKEN:
        raise IncompleteError(f"{path}: cannot be read ({why}); download it again")
    if done.returncode:
        raise IncompleteError(
            f"{path}: the process that reads it ended with {done.returncode}, most likely out of memory; "
            f"raise --memory-limit above {memory_limit_gb:g} GB"
        )
    return done.stdout


def _advice(name: str) -> str:
    """Return what to do with a file that asks for an object of code."""
    if _ATTACKS.match(name):
        return "do not use this file"
    return (
        "that may be no more than the class of the network or of options, but reading it runs code; where "
        "you trust the file, save its weights alone with torch.save(STATE_DICT, FILE) and give that file"
    )


def _tensors(value: Any, prefix: str = "", depth: int = 0) -> "Iterator[tuple[str, Tensor]]":
    """Yield every tensor inside nested dictionaries and lists, under its path."""
    import numpy as np
    import torch

    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
        value = torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, torch.Tensor):
        if value.layout == torch.strided and value.device.type == "cpu":
            yield prefix, value.detach()
    elif isinstance(value, dict | list | tuple) and depth < 8:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _tensors(item, f"{prefix}.{key}" if prefix else str(key), depth + 1)


def _kept(value: "Tensor") -> "Tensor":
    """Return a tensor that safetensors has; of quantised ones and odd numbers only the shape, as bytes."""
    import torch

    floats = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    plain = (*floats, torch.bool, torch.uint8, torch.int64, torch.int32, torch.int16, torch.int8)
    if value.is_quantized or value.dtype not in plain:
        return torch.zeros(value.shape, dtype=torch.uint8)
    return value.contiguous().clone()


class _Items(list[Any]):
    """Takes the items of a queue."""


class _Beside:
    """Stands for an object that a training framework saved beside the weights: it keeps what is put into it.

    Nothing of the framework is imported, and what is made is a plain mapping of this interpreter.
    """

    def __new__(cls, *_: Any) -> Any:
        return Counter()


def _allow_plain_values() -> None:
    """Let the reader build what training scripts put beside the weights: numbers, options, paths.

    None of these runs code when it is built; what is none of them is refused as before.
    """
    import argparse
    import pathlib

    import numpy as np
    import torch

    try:
        from numpy._core import multiarray
    except ImportError:  # numpy 1
        from numpy.core import multiarray  # type: ignore[no-redef]

    kinds = [np.dtype(code) for code in "?bBhHiIlLqQefdFDSUO"]
    plain: list[Any] = [np.ndarray, np.dtype, *{type(kind) for kind in kinds}, argparse.Namespace]
    plain += [pathlib.PurePosixPath, pathlib.PureWindowsPath]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        plain += [(getattr(multiarray, name), f"{module}.{name}") for name in ("scalar", "_reconstruct")]
    plain += [(_Items, "collections.deque"), _Items]
    # paths of another system cannot be built; those that only name a place can
    plain += [(pathlib.PurePosixPath, "pathlib.PosixPath"), (pathlib.PureWindowsPath, "pathlib.WindowsPath")]
    torch.serialization.add_safe_globals(plain)


def main(lifeline: str, path: str, memory_limit_gb: str) -> int:
    """Read the file and write its tensors to standard output."""
    answers = os.dup(1)
    os.dup2(2, 1)
    give_up_rights(int(lifeline), [Path(path)])
    limit_memory(float(memory_limit_gb))
    _allow_plain_values()
    code, content = _content(path)
    if code:
        return code
    tensors = list(_tensors(content))
    if not tensors:
        return _NOTHING
    with os.fdopen(answers, "wb") as stream:
        stream.write(_numbered(tensors))
    return 0


def _content(path: str) -> tuple[int, Any]:
    """Return what a file holds, and 0; or why it is not read, with a line on standard error."""
    import pickle

    try:
        return 0, _read(path)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named is None:
            return _unread(path, str(error)), None
        print(named[1], file=sys.stderr)
        return _UNSAFE, None
    except MemoryError:
        raise
    except Exception as error:
        if "TorchScript" in str(error):
            return _SCRIPT, None
        if "legacy .tar" in str(error) or "magic number" in str(error):
            return _unread(path, "not of torch.save"), None
        print(f"{type(error).__name__}: {' '.join(str(error).split())}"[:150], file=sys.stderr)
        return _BROKEN, None


def _unread(path: str, why: str) -> int:
    """Tell of a pickle that the safe reader does not know; one that asks for code is unsafe."""
    for name in _asked_for(Path(path)):
        plain = name in _PLAIN_TYPES or name.removeprefix("builtins.") in _PLAIN_TYPES
        if not plain and not name.startswith(_HARMLESS) and not _is_beside(name):
            print(name, file=sys.stderr)
            return _UNSAFE
    newer = "Unsupported operand" in why
    print("pickle protocol 4 or newer" if newer else "no state dict of torch.save", file=sys.stderr)
    return _FOREIGN


_HARMLESS = (
    *("torch._utils._rebuild_", "torch.storage.", "torch.serialization._get_layout", "torch.FloatStorage"),
    *("torch.nn.parameter.Parameter", "collections.", "numpy.core.multiarray.", "numpy._core.multiarray."),
    *("numpy.dtype", "numpy.ndarray", "_codecs.encode"),
)


def _asked_for(path: Path) -> Iterator[str]:
    """Yield what the pickle in a file asks for, without running it."""
    import io
    import pickletools
    import zipfile

    with path.open("rb") as stream:
        data = stream.read(_MOST_PICKLE)
    with contextlib.suppress(zipfile.BadZipFile, OSError, RuntimeError), zipfile.ZipFile(path) as archive:
        name = next((entry for entry in archive.namelist() if entry.endswith("data.pkl")), None)
        if name is not None:
            with archive.open(name) as inner:
                data = inner.read(_MOST_PICKLE)
    texts: list[str] = []
    kept: dict[int, str] = {}  # what the pickle refers to by number
    last: Any = None
    with contextlib.suppress(ValueError, IndexError, UnicodeDecodeError):  # where the pickle ends
        for code, value, _ in pickletools.genops(io.BytesIO(data)):
            if code.name in ("GLOBAL", "INST"):
                yield str(value).replace(" ", ".", 1)
            elif code.name == "STACK_GLOBAL":
                yield ".".join(texts[-2:])
            elif "PUT" in code.name or code.name == "MEMOIZE":
                kept[len(kept) if value is None else int(value)] = last if isinstance(last, str) else ""
                continue
            value = kept.get(int(value), "") if "GET" in code.name and value is not None else value
            last = value
            if isinstance(value, str) and value:
                texts = [*texts[-3:], value]


def _numbered(tensors: "list[tuple[str, Tensor]]") -> bytes:
    """Return a file of tensors; it has no order of its own, which may be all that tells them apart."""
    from safetensors.torch import save

    data: bytes = save({f"{n:06d} {key}": _kept(value) for n, (key, value) in enumerate(tensors)})
    return data


def _read(path: str) -> Any:
    """Read a file; each kind of options that it asks for is stood for, others are an error."""
    import pickle

    import torch

    for _ in range(_MOST_KINDS):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            named = re.search(r"Unsupported global: GLOBAL ([\w.]+)", str(error))
            if named is None or not _is_beside(named[1]):
                raise
            torch.serialization.add_safe_globals([(_Beside, name) for name in _spellings(named[1])])
    raise pickle.UnpicklingError("it asks for too many kinds of objects")


_PLAIN_TYPES = ("dict", "list", "tuple", "str", "int", "float", "bool", "bytes", "object", "type", "NoneType")


def _is_beside(name: str) -> bool:
    """Tell whether a name is that of what training frameworks save beside weights."""
    return name in _PLAIN_TYPES or name.startswith(tuple(f"{package}." for package in _OPTIONS))


def _spellings(name: str) -> tuple[str, ...]:
    """Return the name of a plain type with its module, which errors leave out."""
    return (name, f"builtins.{name}") if name in _PLAIN_TYPES else (name,)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
