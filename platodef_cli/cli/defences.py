"""``platodef defences``."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from platodef_cli.cli import options
from platodef_cli.cli.session import Session
from platodef_cli.cli.tables import show_json, show_rows
from platodef_cli.defences import DETECTORS, ENCODER_DETECTORS, PURIFIERS
from platodef_cli.errors import UsageError
from platodef_cli.registry import Registry

TABLES = (DETECTORS, ENCODER_DETECTORS, PURIFIERS)


@dataclass(frozen=True)
class _Entry:
    """One row of a table, for people who choose.

    Attributes:
        kind: What it is.
        name: What commands call it.
        needs: What it looks at.
        use_when: Who should choose it.
        description: What it does, and where it is blind.
        error: Why it cannot be used.
    """

    kind: str
    name: str
    needs: tuple[str, ...] = ()
    use_when: str = ""
    description: str = ""
    error: str | None = None


def defences(session: Session, as_json: options.AsJson = False) -> None:
    """List detectors, encoder detectors and purifiers: what each needs, and when to choose it.

    A plug-in that cannot be used is listed with the reason.
    """
    described = [(table, list(_described(table))) for table in TABLES]
    every = [entry for _, entries in described for entry in entries]
    if as_json:
        show_json([asdict(one) for one in every])
    else:
        show_rows(
            ("kind", "name", "needs", "use when"),
            [
                (one.kind, one.name, ", ".join(one.needs) or "-", one.error or one.use_when or "-")
                for one in every
            ],
            as_json=False,
        )
    broken = sum(one.error is not None for one in every)
    counts = ", ".join(f"{len(entries)} {table.kind}s" for table, entries in described)
    session.finish(counts + (f"; {broken} of them cannot be used" if broken else ""))


def _described(table: Registry) -> Iterator[_Entry]:
    """Yield what every row says of itself; a plug-in may leave out what only people read."""
    from platodef_cli.features.access import Access

    for name in table.names():
        try:
            kind = table.load(name)
        except UsageError as error:
            yield _Entry(table.kind, name, error=str(error))
            continue
        needs = tuple(access.value for access in Access if access in kind.needs)
        use_when, description = (getattr(kind, word, "") for word in ("use_when", "description"))
        yield _Entry(table.kind, name, needs, use_when, description)
