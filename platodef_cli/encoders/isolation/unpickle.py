"""Reading the tensors of a pickled checkpoint in a process that can do nothing else.

The process gives up its rights, reads the one file with ``torch.load(weights_only=True)``, which builds
tensors and plain containers and runs no code, and answers with a safetensors file that its parent checks like
any other.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platodef_cli.encoders.isolation.sandbox import child_environment, give_up_rights, limit_memory
from platodef_cli.encoders.isolation.system import has_children, no_children
from platodef_cli.errors import IncompleteError, RefusedError
from platodef_cli.temporary import TemporaryFolder

if TYPE_CHECKING:
    from torch import Tensor

_LARGEST = 16 * 2**30
_TIMEOUT_S = 1800
_UNSAFE, _NOTHING, _BROKEN = 10, 11, 12


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
    why = " ".join(done.stderr.decode("utf-8", "replace").split())[-200:]
    if done.returncode == _UNSAFE:
        raise RefusedError(f"{path}: cannot be loaded without running code ({why}); do not use this file")
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


def _tensors(value: Any, prefix: str = "", depth: int = 0) -> "dict[str, Tensor]":
    """Return every tensor inside nested dictionaries, under its path."""
    import torch

    if isinstance(value, torch.Tensor):
        return {prefix: value} if value.layout == torch.strided and not value.is_quantized else {}
    found: dict[str, Tensor] = {}
    if isinstance(value, dict) and depth < 8:
        for key, item in value.items():
            found |= _tensors(item, f"{prefix}.{key}" if prefix else str(key), depth + 1)
    return found


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
    # paths of another system cannot be built; those that only name a place can
    plain += [(pathlib.PurePosixPath, "pathlib.PosixPath"), (pathlib.PureWindowsPath, "pathlib.WindowsPath")]
    torch.serialization.add_safe_globals(plain)


def main(lifeline: str, path: str, memory_limit_gb: str) -> int:
    """Read the file and write its tensors to standard output."""
    answers = os.dup(1)
    os.dup2(2, 1)
    give_up_rights(int(lifeline), [Path(path)])
    import pickle

    import torch
    from safetensors.torch import save

    limit_memory(float(memory_limit_gb))
    _allow_plain_values()
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        print(f"it asks for {named[1]}" if named else "it is no plain state dict", file=sys.stderr)
        return _UNSAFE
    except MemoryError:
        raise
    except Exception as error:
        print(f"{type(error).__name__}: {error}"[:150], file=sys.stderr)
        return _BROKEN
    tensors = _tensors(content)
    if not tensors:
        return _NOTHING
    # the format has no order of its own, and the order of the weights may be all that tells them apart
    numbered = enumerate(tensors.items())
    data = save({f"{n:06d} {key}": value.detach().contiguous().clone() for n, (key, value) in numbered})
    with os.fdopen(answers, "wb") as stream:
        stream.write(data)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
