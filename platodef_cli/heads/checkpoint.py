"""Training checkpoints: one safetensors file, replaced atomically, tied to the run that wrote it."""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from platodef_cli.disk import write_atomically


@dataclass(frozen=True)
class Checkpoint:
    """A resumable state.

    Attributes:
        tensors: Weights, averages and optimiser state by name.
        state: JSON values: epoch, best metric, and so on.
    """

    tensors: dict[str, Tensor]
    state: dict[str, object]


def write_checkpoint(path: Path, checkpoint: Checkpoint, fingerprint: str) -> None:
    """Write ``checkpoint`` to ``path`` so that a kill leaves the old file or the new one.

    Args:
        path: Target file; its folder is made.
        checkpoint: What to write.
        fingerprint: Digest of configuration, data and seed; a reader with another one ignores the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"fingerprint": fingerprint, "state": json.dumps(checkpoint.state, sort_keys=True)}
    write_atomically(path, save({k: v.contiguous() for k, v in checkpoint.tensors.items()}, metadata))


def read_checkpoint(path: Path, fingerprint: str) -> Checkpoint | None:
    """Return the checkpoint at ``path``, or None if there is none that belongs to this run."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("fingerprint") != fingerprint:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            state = json.loads(metadata["state"])
    except (SafetensorError, OSError, KeyError, ValueError):
        return None  # a damaged checkpoint costs time, never the result
    return Checkpoint(tensors, state)
