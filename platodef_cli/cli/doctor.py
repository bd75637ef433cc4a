"""``platodef doctor``: what this machine offers, and what is missing."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from platodef_cli import environment
from platodef_cli.cli import options
from platodef_cli.cli.session import Session
from platodef_cli.cli.tables import show_json, show_rows
from platodef_cli.cli.versions import FLOORS, library_versions, older_than_floor
from platodef_cli.errors import EXIT_INCOMPLETE, IncompleteError, PlatodefError, UsageError
from platodef_cli.plugins import installation
from platodef_cli.registry import Registry

Row = tuple[str, str, str]
OK, MISSING, NOTE = "ok", "missing", "note"


def _libraries() -> list[Row]:
    old = older_than_floor()
    rows = []
    for name, installed in library_versions().items():
        bad = name in old or installed == "not installed"
        text = f"{installed} (needs at least {FLOORS[name]})" if name in old else installed
        rows.append((name, MISSING if bad else OK, text))
    return rows


def _torch() -> list[Row]:
    import torch

    rows = [("threads", OK, f"{torch.get_num_threads()} of {environment.cpus()} CPUs")]
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fast = [name for name in ("avx512_bf16", "amx_bf16") if name in flags]
    text = f"fast ({', '.join(fast)})" if fast else "slow on this CPU: --dtype bfloat16 saves no time"
    rows.append(("bfloat16", OK if fast else NOTE, text))
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            name = torch.cuda.get_device_name(index)
            rows.append((f"cuda:{index}", OK, f"{name}; used only with --device cuda:{index}"))
    else:
        rows.append(("GPU", NOTE, "none that torch can use; everything runs on the CPU"))
    return rows


def _memory() -> list[Row]:
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        total = pages * size / 2**30
        available = os.sysconf("SC_AVPHYS_PAGES") * size / 2**30
    except (AttributeError, ValueError, OSError):  # Windows has no such call, macOS not all of its names
        return [("memory", NOTE, "this system does not tell how much there is")]
    return [("memory", OK if total >= 2 else NOTE, f"{total:.1f} GiB, {available:.1f} GiB free")]


def _cache(cache_dir: Path | None) -> list[Row]:
    import shutil

    from platodef_cli.features.cache import FeatureCache

    cache = FeatureCache(cache_dir)
    used = sum(entry.size for entry in cache.entries())
    place = cache.directory
    while not place.exists():
        place = place.parent
    writable = os.access(place, os.W_OK)
    free = shutil.disk_usage(place).free / 2**30
    text = f"{cache.directory}: {used / 2**20:.1f} MiB used, {free:.1f} GiB free on its disk"
    return [
        ("cache", OK if writable else MISSING, text if writable else f"{cache.directory} cannot be written")
    ]


def _data() -> list[Row]:
    from platodef_cli.resources import data_dir

    rows = []
    for name in ("encoders", "pretrained_heads"):
        try:
            folder = data_dir(name)
            names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
            rows.append((name, OK if names else MISSING, ", ".join(names) or f"{folder} is empty"))
        except PlatodefError as error:
            rows.append((name, MISSING, str(error)))
    return rows


def open_registries() -> tuple[Registry, ...]:
    """Return the tables that plug-ins may add rows to."""
    from platodef_cli.defences import DETECTORS, ENCODER_DETECTORS, PURIFIERS
    from platodef_cli.encoders import BACKENDS
    from platodef_cli.images import SOURCES
    from platodef_cli.report import REPORTS
    from platodef_cli.search import SEARCH_KINDS
    from platodef_cli.triggers import CONTROLS, TRIGGERS

    return (
        BACKENDS,
        SOURCES,
        TRIGGERS,
        CONTROLS,
        DETECTORS,
        ENCODER_DETECTORS,
        PURIFIERS,
        SEARCH_KINDS,
        REPORTS,
    )


def _plugins() -> list[Row]:
    """Load every plug-in, one row each; and one for each distribution whose metadata cannot be read."""
    tables = {table.group: table for table in open_registries()}
    ignored = {plugin: reason for table in tables.values() for plugin, reason in table.ignored().items()}
    rows = []
    for plugin in installation().plugins:
        state, text = OK, f"{plugin.distribution} {plugin.version}"
        if plugin.group not in tables:
            known = ", ".join(group for group in tables if group)
            state, text = NOTE, f"{text}: ignored, there is no group of that name; groups are {known}"
        elif plugin in ignored:
            state, text = NOTE, f"{text}: ignored, {ignored[plugin]}"
        else:
            try:
                tables[plugin.group].load(plugin.name)
            except UsageError as error:
                state, text = MISSING, str(error)
        rows.append((f"{plugin.group}: {plugin.name} ({plugin.distribution})", state, text))
    for place, reason in installation().unreadable.items():
        rows.append((place, NOTE, f"its metadata cannot be read, so its plug-ins are not used ({reason})"))
    return rows


def _isolation() -> list[Row]:
    """Start a process as an isolated encoder gets it, and tell what it could not give up."""
    from platodef_cli.encoders.isolation.selftest import isolation_gaps
    from platodef_cli.encoders.isolation.system import has_children, no_children

    if not has_children():
        return [("isolation", MISSING, no_children())]
    try:
        gaps = isolation_gaps()
    except (OSError, subprocess.SubprocessError) as error:
        return [("isolation", MISSING, f"no child process can be started ({type(error).__name__})")]
    if gaps:
        return [("isolation", NOTE, gap) for gap in gaps]
    return [("isolation", OK, "complete; 'platodef doctor --isolation' tries it")]


def _attempts(session: Session, *, as_json: bool) -> None:
    """Try what hostile code could do in the process of a suspect, and print what held."""
    from platodef_cli.encoders.isolation.selftest import run_selftest
    from platodef_cli.encoders.isolation.system import has_children, has_sandbox, no_children, no_sandbox

    if not has_sandbox():
        raise IncompleteError(no_sandbox() if has_children() else no_children())
    attempts, gaps = run_selftest()
    states = {"held": "held", "open": "OPEN", "absent": "not possible here anyway"}
    if as_json:
        tried = {entry.name: {"outcome": entry.outcome, "meaning": entry.meaning} for entry in attempts}
        show_json({"attempts": tried, "gaps": list(gaps)})
    else:
        rows = [(entry.name, states[entry.outcome], entry.meaning) for entry in attempts]
        show_rows(("attempt", "isolation", "an attacker who"), rows, as_json=False)
    for gap in gaps:
        session.warn(gap)
    held = sum(entry.outcome == "held" for entry in attempts)
    broken = [entry.name for entry in attempts if entry.outcome == "open"]
    if broken:
        session.finish(f"isolation does not hold: {', '.join(broken)}", EXIT_INCOMPLETE)
    session.finish(f"isolation held in {held} of {held} attempts that are possible here")


def _hub(online: bool) -> list[Row]:
    from huggingface_hub import constants, get_token

    rows = [
        ("hub token", NOTE, "present" if get_token() else "absent (public models only)"),
        ("hub cache", OK, constants.HF_HUB_CACHE),
        ("hub", NOTE, f"{constants.ENDPOINT} (not contacted; --online asks it)"),
    ]
    if online:
        from huggingface_hub import HfApi

        try:
            HfApi().model_info("facebook/dinov2-base", timeout=20)
            rows[-1] = ("hub", OK, f"{constants.ENDPOINT} answers")
        except Exception as error:  # any failure of the network is the answer to this question
            rows[-1] = ("hub", MISSING, f"{constants.ENDPOINT}: {type(error).__name__}")
    return rows


def doctor(
    session: Session,
    cache_dir: options.CacheDir = None,
    online: Annotated[
        bool, typer.Option("--online", help="Also ask the Hub whether it can be reached.")
    ] = False,
    isolation: Annotated[
        bool,
        typer.Option(
            "--isolation",
            help="Try what hostile code could do in a suspect's process, on planted files and processes.",
        ),
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Show versions, hardware, cache, hub access and isolation of this machine."""
    if isolation:
        _attempts(session, as_json=as_json)
        return
    if online and environment.offline_requested():
        session.warn("HF_HUB_OFFLINE is set, so the Hub cannot be reached")
    checks: list[Callable[[], list[Row]]] = [
        _libraries,
        _torch,
        _memory,
        lambda: _cache(cache_dir),
        _data,
        _plugins,
        _isolation,
        lambda: _hub(online),
    ]
    rows = []
    for check in checks:
        rows += check()
    if as_json:
        show_json({name: {"state": state, "detail": text} for name, state, text in rows})
    else:
        show_rows(("what", "state", "detail"), rows, as_json=False)
    bad = [name for name, state, _ in rows if state == MISSING]
    if bad:
        session.finish(f"needs attention: {', '.join(bad)}", EXIT_INCOMPLETE)
    session.finish("everything that platodef needs is here")
