"""``platodef cache``: the cached features, heads and searches."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from platodef_cli.cli import options
from platodef_cli.cli.session import Session
from platodef_cli.cli.tables import show_rows
from platodef_cli.errors import EXIT_INCOMPLETE, UsageError

if TYPE_CHECKING:
    from platodef_cli.features.cache import CacheEntry

_HEADER = ("kind", "entry", "bytes", "modified")
Kind = Annotated[str | None, typer.Option("--kind", help="Only entries of this kind (see `cache ls`).")]


def _row(entry: "CacheEntry") -> tuple[str, str, int, str]:
    when = datetime.fromtimestamp(entry.modified, UTC).isoformat(timespec="seconds")
    return entry.kind, entry.path.name, entry.size, when


def ls(
    session: Session,
    cache_dir: options.CacheDir = None,
    kind: Kind = None,
    as_json: options.AsJson = False,
) -> None:
    """List what is cached, oldest first."""
    from platodef_cli.features.cache import FeatureCache

    cache = FeatureCache(cache_dir)
    entries = cache.entries(kind)
    show_rows(_HEADER, [_row(entry) for entry in entries], as_json=as_json)
    session.finish(
        f"{len(entries)} entries, {sum(entry.size for entry in entries):,} bytes in {cache.directory}"
    )


def verify(session: Session, cache_dir: options.CacheDir = None, as_json: options.AsJson = False) -> None:
    """Read every entry and compare it with its digest; damaged entries end in code 3.

    Damaged entries do no harm: they are computed again when they are needed. `cache rm --damaged` removes
    them now.
    """
    from platodef_cli.features.cache import FeatureCache

    cache = FeatureCache(cache_dir)
    with session.progress.step("verifying the cache"):
        damaged = cache.verify()
    show_rows((*_HEADER, "damage"), [(*_row(entry), reason) for entry, reason in damaged], as_json=as_json)
    if damaged:
        session.finish(f"{len(damaged)} damaged entries in {cache.directory}", EXIT_INCOMPLETE)
    session.finish(f"all {len(cache.entries())} entries in {cache.directory} are as they were written")


def rm(
    session: Session,
    entries: Annotated[
        list[str] | None, typer.Argument(metavar="[ENTRY]...", help="Entries, as `cache ls` shows them.")
    ] = None,
    cache_dir: options.CacheDir = None,
    kind: Kind = None,
    older_than: Annotated[
        float | None, typer.Option(min=0, metavar="DAYS", help="Only entries this old.")
    ] = None,
    damaged: Annotated[
        bool, typer.Option("--damaged", help="Only entries that `cache verify` finds.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Every entry.")] = False,
) -> None:
    """Remove cached entries; at least one condition, or --all, must be given."""
    from platodef_cli.features.cache import FeatureCache

    if not (entries or damaged or everything) and older_than is None and kind is None:
        raise UsageError(
            "nothing says which cache entries to remove; name some, or give --older-than, --kind, "
            "--damaged or --all"
        )
    cache = FeatureCache(cache_dir)
    paths = _paths(cache.entries(), entries) if entries else None
    if damaged:
        broken = [entry.path for entry, _ in cache.verify()]
        paths = broken if paths is None else [path for path in paths if path in broken]
    removed = cache.remove(
        older_than=None if older_than is None else older_than * 86400.0,
        kind=kind,
        paths=paths,
        everything=everything,
    )
    session.finish(f"removed {len(removed)} entries, {sum(entry.size for entry in removed):,} bytes")


def _paths(known: "list[CacheEntry]", names: list[str]) -> list[Path]:
    by_name = {entry.path.name: entry.path for entry in known}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise UsageError(f"there is no cache entry {unknown[0]!r}; `platodef cache ls` lists them")
    return [by_name[name] for name in names]
