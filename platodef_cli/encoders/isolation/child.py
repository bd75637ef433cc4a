"""The child process of an isolated encoder: requests on standard input, answers on standard output."""

import json
import os
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platodef_cli.encoders.isolation.sandbox import give_up_rights, limit_memory
from platodef_cli.environment import keep_freed_memory

if TYPE_CHECKING:
    from torch import Tensor

    from platodef_cli.encoders.isolation.wire import Wire
    from platodef_cli.encoders.local import LocalEncoder

_KEPT_GRAPHS = 8


def main(lifeline: int) -> int:
    """Serve one encoder until the parent closes the pipe.

    Args:
        lifeline: Descriptor whose other end only the parent holds: its end of file means the parent died.
    """
    answers = os.dup(1)
    # Whatever a library prints must not end up between two messages.
    os.dup2(2, 1)
    keep_freed_memory()
    orders = _orders(lifeline)
    readable = [Path(path) for path in orders["readable"]]
    notes = give_up_rights(lifeline, readable, gpu=orders["gpu"], bound=bool(orders.get("bound")))
    threading.Thread(target=_die_with_parent, args=(lifeline,), daemon=True).start()
    from platodef_cli.encoders.isolation.wire import Wire, WireError

    wire = Wire(0, answers)
    try:
        encoder = _open(wire, notes)
        if encoder is not None:
            _serve(wire, encoder)
    except WireError:
        return 0
    return 0


def _orders(lifeline: int) -> dict[str, Any]:
    """Read the one line that the parent writes before anything else: what this process may read."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(lifeline, 1)
        if not byte:  # the parent is gone already
            os._exit(0)
        line += byte
    orders: dict[str, Any] = json.loads(line)
    return orders


def _die_with_parent(lifeline: int) -> None:
    """Wait for the parent's death, also in the middle of a long computation."""
    os.read(lifeline, 1)
    os._exit(0)


def _open(wire: "Wire", notes: tuple[str, ...]) -> "LocalEncoder | None":
    """Load the encoder that the first message names and answer with its description."""
    request, _ = wire.receive()
    try:
        import torch

        from platodef_cli.encoders.checks.preflight import Preflight
        from platodef_cli.encoders.description import make_record
        from platodef_cli.encoders.load import load_builder, load_tower
        from platodef_cli.encoders.local import DTYPES, LocalEncoder
        from platodef_cli.errors import IncompleteError

        torch.set_num_threads(request["threads"])
        device, dtype = torch.device(request["device"]), DTYPES[request["dtype"]]
        checked = Preflight.model_validate(request["checked"])
        if request["require_isolation"] and notes:
            raise IncompleteError(
                f"isolation is required and incomplete on this machine: {'; '.join(notes)}; see 'platodef "
                "doctor --isolation'"
            )
        load_builder(checked.backend)
        if device.type == "cpu":
            unlimited = limit_memory(request["memory_limit_gb"])
            notes += () if unlimited is None else (unlimited,)
        else:
            notes += ("the memory limit does not apply on a GPU",)
        tower, description = load_tower(checked, device, dtype, request["pooling"])
        record = make_record(
            description,
            checked,
            name=request["name"],
            uri="",
            commit=None,
            dtype=request["dtype"],
            isolated=True,
        )
    except Exception as error:
        wire.send(_failure(error))
        return None
    wire.send({"description": description.model_dump(mode="json"), "notes": [*description.notes, *notes]})
    return LocalEncoder(tower, record, device, dtype)


def _serve(wire: "Wire", encoder: "LocalEncoder") -> None:
    """Answer requests for features, gradients and internals, one at a time."""
    graphs: dict[int, tuple[Tensor, Tensor]] = {}
    while True:
        request, tensor = wire.receive()
        for forgotten in request.get("forget", []):
            graphs.pop(forgotten, None)
        _tune(encoder, request.get("tuned", {}))
        try:
            header, answer = _answer(request, tensor, encoder, graphs)
        except Exception as error:
            # memory that ran out may be that of graphs which nobody will ask for
            graphs.clear()
            wire.send(_failure(error))
            continue
        wire.send(header, answer)


def _tune(encoder: "LocalEncoder", tuned: dict[str, Any]) -> None:
    """Compute as the parent wants it."""
    import torch

    if "threads" in tuned and tuned["threads"] != torch.get_num_threads():
        torch.set_num_threads(tuned["threads"])
    encoder.tune(gradient_dtype=tuned.get("gradient_dtype"), forward_dtype=tuned.get("forward_dtype"))


def _answer(
    request: dict[str, Any],
    tensor: "Tensor | None",
    encoder: "LocalEncoder",
    graphs: "dict[int, tuple[Tensor, Tensor]]",
) -> "tuple[dict[str, Any], Tensor | None]":
    """Compute the answer to one request; graphs of pending backward calls are kept, the oldest dropped."""
    import torch

    from platodef_cli.encoders.guards import memory_guard

    kind, number = request["kind"], request.get("id", 0)
    if kind == "backward":
        kept = graphs.pop(number, None)
        if kept is None or tensor is None:
            return {"ok": False, "dropped": True}, None
        pixels, features = kept
        with memory_guard(encoder.record.name):
            (gradient,) = torch.autograd.grad(features, pixels, tensor)
        return {"ok": True}, gradient
    if kind == "footprint":
        return {"ok": True, **asdict(encoder.footprint())}, None
    if tensor is None:
        raise ValueError("a request without pixels")
    if kind == "embed":
        return {"ok": True}, encoder.embed(tensor)
    if kind == "feature_map":
        return {"ok": True}, encoder.feature_map(tensor)
    if kind == "head_terms":
        found = encoder.head_terms(tensor)
        return {"ok": True, "layers": found.layers, "heads": found.heads}, found.terms
    pixels = tensor.requires_grad_(request["keep"])
    features = encoder.differentiable(pixels)
    if request["keep"]:
        graphs[number] = (pixels, features)
        while len(graphs) > _KEPT_GRAPHS:
            graphs.pop(next(iter(graphs)))
    return {"ok": True}, features.detach()


def _failure(error: Exception) -> dict[str, Any]:
    """Describe an error for the parent; only the classes of the error tree keep their name."""
    from platodef_cli.errors import NotApplicable, PlatodefError

    if isinstance(error, NotApplicable):
        return {"ok": False, "error": "NotApplicable", "message": error.why}
    if isinstance(error, PlatodefError):
        return {"ok": False, "error": type(error).__name__, "message": str(error)}
    if isinstance(error, MemoryError):
        return {"ok": False, "error": "MemoryError", "message": ""}
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return {"ok": False, "error": "Exception", "message": text[:300]}


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
