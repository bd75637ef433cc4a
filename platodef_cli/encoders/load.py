"""From an id to a running encoder: resolve, check, load; in this process or in a child."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from platodef_cli.encoders import BACKENDS
from platodef_cli.encoders.checks.preflight import Preflight
from platodef_cli.encoders.checks.weights import Bundle
from platodef_cli.encoders.description import EncoderDescription, make_record
from platodef_cli.encoders.isolation.system import has_children, has_sandbox, no_children, no_sandbox
from platodef_cli.encoders.pooling import AUTO, TAKEN, check_pooled, check_poolings
from platodef_cli.encoders.reference import parse
from platodef_cli.encoders.resolve import ResolvedModel, examine, resolve
from platodef_cli.errors import IncompleteError, PlatodefError, RefusedError, UnsupportedError, UsageError
from platodef_cli.plugins import blaming
from platodef_cli.progress import SILENT, Progress
from platodef_cli.records import TransformRecord

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from platodef_cli.encoders.backends.interface import Builder
    from platodef_cli.encoders.interface import Encoder
    from platodef_cli.encoders.isolation.isolate import RemoteEncoder
    from platodef_cli.encoders.local import LocalEncoder, Tower


_OTHER_SIZE = re.compile(r"doesn't match model|does not match model|Input image size|mismatch.*image size")
"""How transformers and timm say that an image has another size than the network was made for."""


def open_encoder(
    uri: str,
    *,
    name: str | None = None,
    revision: str | None = None,
    cache_dir: Path | str | None = None,
    offline: bool = False,
    device: str = "cpu",
    dtype: str = "float32",
    isolate: bool = False,
    memory_limit_gb: float = 8.0,
    time_limit_s: float | None = None,
    require_isolation: bool = False,
    pooling: str = AUTO,
    follow_links: bool = False,
    examined: tuple[ResolvedModel, Preflight] | None = None,
    progress: Progress = SILENT,
) -> "Encoder":
    """Resolve, check and load an encoder.

    Args:
        uri: A folder, ``org/name[@revision]``, ``hf://org/name[@revision]`` or ``builtin:NAME``.
        name: Short name for tables and feature files; by default the last part of the id.
        revision: Branch, tag or commit on the Hub.
        cache_dir: Cache of Hub downloads; by default the one of huggingface_hub.
        offline: Use only what the cache holds.
        device: ``cpu``, ``cuda``, ``cuda:1``.
        dtype: ``float32`` or ``bfloat16`` inside the network; features are float32 always.
        isolate: Load and run in a child process without token and network, within limits. For suspects.
        memory_limit_gb: Address space of the child past its libraries (CPU only).
        time_limit_s: Longest time for the load and for each call of an isolated encoder.
        require_isolation: Refuse to load an isolated encoder where the machine cannot isolate completely.
        pooling: Of an encoder that gives tokens: ``mean``, ``class`` or ``auto``, which warns of its choice.
        follow_links: The files of a folder may be links to files elsewhere.
        examined: Where the files of ``uri`` lie and what was found in them, if that is known: exactly the
            bytes that were examined then are loaded.
        progress: Receives the steps.

    Raises:
        UsageError: The id, the device, the dtype or the pooling is wrong, or the encoder pools itself.
        HubError: The Hub does not give the model.
        RefusedError: The model is unsafe, or its files changed since they were examined.
        IncompleteError: Memory ran out, the child died, or isolation is required and incomplete.
    """
    if dtype not in ("float32", "bfloat16"):
        raise UsageError(f"dtype {dtype!r}: choose float32 or bfloat16")
    check_poolings([pooling])
    reference = parse(uri, revision)
    name = name or reference.short_name
    if examined is None:
        resolved = resolve(reference, cache_dir=cache_dir, offline=offline, progress=progress)
        with progress.step(f"checking {name}"):
            checked = examine(resolved, follow_links=follow_links)
    else:
        # Examined once more, files that were exchanged meanwhile would stand beside findings about others.
        resolved, checked = examined
    # an alias of a registry may be another version tomorrow
    uri = reference.uri if reference.store is None else resolved.uri
    with progress.step(f"loading {name}"):
        encoder: LocalEncoder | RemoteEncoder
        if isolate and not has_children():
            if require_isolation:
                raise IncompleteError(f"isolation is required, and {no_children()}")
            progress.warn(no_children())
            isolate = False
        elif isolate and not has_sandbox() and not require_isolation:
            progress.warn(no_sandbox())
        if isolate:
            encoder = _open_isolated(
                resolved,
                checked,
                name=name,
                uri=uri,
                device=device,
                dtype=dtype,
                memory_limit_gb=memory_limit_gb,
                time_limit_s=time_limit_s,
                require_isolation=require_isolation,
                pooling=pooling,
            )
        else:
            own = {"name": name, "uri": uri, "device": device, "dtype": dtype, "pooling": pooling}
            encoder = _open_here(resolved, checked, **own)
    for note in encoder.notes if pooling == AUTO else ():
        if note.startswith(TAKEN):
            progress.warn(f"{name}: {note}")
    return encoder


def _open_here(
    resolved: ResolvedModel, checked: Preflight, *, name: str, uri: str, device: str, dtype: str, pooling: str
) -> "LocalEncoder":
    """Load into this process."""
    from platodef_cli.encoders.local import DTYPES, LocalEncoder

    where = usable_device(device)
    tower, description = load_tower(checked, where, DTYPES[dtype], pooling)
    record = make_record(
        description, checked, name=name, uri=uri, commit=resolved.commit, dtype=dtype, isolated=False
    )
    return LocalEncoder(tower, record, where, DTYPES[dtype])


def _open_isolated(
    resolved: ResolvedModel,
    checked: Preflight,
    *,
    name: str,
    uri: str,
    device: str,
    dtype: str,
    memory_limit_gb: float,
    time_limit_s: float | None,
    require_isolation: bool,
    pooling: str,
) -> "RemoteEncoder":
    """Load into a child process."""
    from platodef_cli.encoders.isolation.isolate import RemoteEncoder

    usable_device(device)
    return RemoteEncoder.start(
        checked,
        name=name,
        uri=uri,
        commit=resolved.commit,
        device=device,
        dtype=dtype,
        memory_limit_gb=memory_limit_gb,
        time_limit_s=time_limit_s,
        require_isolation=require_isolation,
        pooling=pooling,
    )


def usable_device(device: str) -> "torch.device":
    """Return the torch device of a name, tried out with one tensor.

    Raises:
        UsageError: There is no such device here.
    """
    import torch

    try:
        where = torch.device(device)
        torch.empty(1, device=where)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise UsageError(f"device {device!r} cannot be used here ({reason}); use cpu") from None
    return where


def load_tower(
    checked: Preflight, device: "torch.device", dtype: "torch.dtype", pooling: str = AUTO
) -> tuple["Tower", EncoderDescription]:
    """Build and strictly load the network of an examined folder, from exactly the bytes that were examined.

    Raises:
        UsageError: It is not one whose pooling can be chosen.
        RefusedError: The network does not fit its files, or the files changed since they were examined.
        IncompleteError: Memory ran out.
    """
    # Set before the libraries are imported: nothing here may contact the Hub or its conversion service.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    import torch

    from platodef_cli.encoders.guards import memory_guard
    from platodef_cli.encoders.local import one_line

    bundle = _bundle(checked, pooling)
    try:
        with memory_guard(checked.directory, "give a higher --memory-limit"), torch.inference_mode(False):
            tower = _build(checked.backend, bundle, device, dtype)
            check_pooled(checked.directory, pooling, tower.pooling)
            probe = torch.zeros(1, 3, *tower.geometry.size, device=device, dtype=dtype)
            with torch.inference_mode():
                features = tower.forward(probe)
        return tower, describe(tower, features)
    except PlatodefError:
        raise
    except Exception as error:
        if _OTHER_SIZE.search(str(error)):
            raise UsageError(
                f"{checked.directory}: its preprocessing makes images of another size than its network takes "
                f"({one_line(error)}); correct the size in its configuration, or get the model's own files"
            ) from error
        # A configuration can be wrong in more ways than can be listed; none may end in a traceback.
        raise RefusedError(
            f"{checked.directory}: {checked.backend} cannot run it "
            f"({type(error).__name__}: {one_line(error)}); do not use this model"
        ) from error


def _bundle(checked: Preflight, pooling: str) -> Bundle:
    """Return what a backend builds from."""
    return Bundle(
        Path(checked.directory),
        checked.files,
        checked.parameters,
        follow_links=checked.follow_links,
        pooling=pooling,
    )


def check_supported(checked: Preflight) -> None:
    """Check that the library of an examined folder has its architecture and its preprocessing.

    Of those libraries that platodef brings.

    Raises:
        UnsupportedError: It has not; an audit could not run it.
        UsageError: The folder does not say how images are processed.
    """
    if checked.backend == "transformers":
        from platodef_cli.encoders.backends.processors import check_processor
        from platodef_cli.encoders.backends.transformers_models import family_of

        family_of(checked.architecture, ())
        check_processor(_bundle(checked, AUTO), checked.architecture)
    elif checked.backend == "timm":
        load_builder(checked.backend)
        from platodef_cli.encoders.backends.timm_tower import check_name

        check_name(checked.architecture, checked.directory)


def load_builder(backend: str) -> "Builder":
    """Import the library of a backend and return what builds encoders with it.

    Raises:
        IncompleteError: It is a plug-in's that fails.
    """
    with blaming(BACKENDS.plugin(backend)):
        build: Builder = BACKENDS.load(backend)().builder()
        if not callable(build):
            raise TypeError(f"its builder is {type(build).__name__}, which cannot be called")
    return build


def _build(backend: str, bundle: Bundle, device: "torch.device", dtype: "torch.dtype") -> "Tower":
    """Build a network; a plug-in that does not keep the contract is no fault of the model."""
    from platodef_cli.encoders.local import Tower

    tower: Tower = load_builder(backend)(bundle, device, dtype)
    plugin = BACKENDS.plugin(backend)
    if plugin is not None and not isinstance(tower, Tower):
        raise IncompleteError(f"{plugin} built {type(tower).__name__}, not a Tower; repair or uninstall it")
    return tower


def describe(tower: "Tower", features: "Tensor") -> EncoderDescription:
    """Describe a loaded network, given its features of one image."""
    if features.ndim != 2 or features.shape[0] != 1:
        raise UnsupportedError(
            f"{tower.architecture} gives features {list(features.shape)}, not one vector per image; such an "
            "encoder is not supported"
        )
    geometry = tower.geometry
    return EncoderDescription(
        architecture=tower.architecture,
        pooling=tower.pooling,
        dim=features.shape[1],
        parameters=sum(p.numel() for p in tower.module.parameters()),
        transform=TransformRecord(
            size=geometry.size,
            resize=geometry.resize,
            interpolation=geometry.interpolation,
            fill=geometry.fill,
            fit=geometry.fit,
            crop=geometry.crop,
            mean=tower.mean,
            std=tower.std,
        ),
        notes=tower.notes,
    )
