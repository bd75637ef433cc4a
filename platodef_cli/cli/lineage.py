"""``platodef lineage``: the models that a suspect may have been made from."""

import re
from typing import Annotated

import typer

from platodef_cli import environment
from platodef_cli.cli import completion, options
from platodef_cli.cli.session import Session
from platodef_cli.cli.tables import show_rows


def add(
    session: Session,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Folder, org/name[@revision] or builtin:NAME.",
            autocompletion=completion.encoders,
        ),
    ],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name in the index. Default: the last part of the id.")
    ] = None,
    revision: options.Revision = None,
    offline: options.Offline = False,
    follow_links: options.FollowLinks = False,
) -> None:
    """Add a model to the index that audits look for the suspect's base in.

    Its files are checked and read, not loaded; the index keeps a sketch of some kilobytes, no weights.
    """
    without_network = options.offline(offline)
    if without_network:
        environment.go_offline()
    from platodef_cli.encoders.lineage import index
    from platodef_cli.encoders.reference import parse
    from platodef_cli.encoders.resolve import examine, resolve

    reference = parse(model, revision)
    resolved = resolve(reference, offline=without_network, progress=session.progress)
    with session.progress.step("checking files"):
        checked = examine(resolved, follow_links=follow_links)
    short = name or re.sub(r"[^\w.-]", "-", reference.short_name, flags=re.ASCII).lstrip(".-")
    with session.progress.step("sketching weights"):
        known = index.known_of(
            checked,
            name=short,
            uri=reference.at(resolved.commit) if resolved.commit else reference.uri,
            commit=resolved.commit,
        )
    path = index.add(known)
    session.finish(
        f"{known.name} is in the index: {len(known.layers)} weight matrices, {path.stat().st_size:,} bytes "
        f"in {path}"
    )


def ls(session: Session, as_json: options.AsJson = False) -> None:
    """List the models of the index: those of the package, then your own."""
    from platodef_cli.encoders.lineage.index import entries, index_directory

    known, problems = entries()
    rows = [
        (
            entry.name,
            entry.uri,
            entry.architecture,
            entry.parameters,
            len(entry.layers),
            "package" if entry.shipped else "user",
            entry.digest if as_json else entry.digest[:12],
        )
        for entry in known
    ]
    header = ("name", "model", "architecture", "parameters", "matrices", "from", "sha256")
    show_rows(header, rows, as_json=as_json)
    for problem in problems:
        session.warn(problem)
    session.finish(f"{len(rows)} models; your own are in {index_directory()}")


def remove(
    session: Session, name: Annotated[str, typer.Argument(metavar="NAME", help="As `lineage list` shows it.")]
) -> None:
    """Remove a model of your own from the index."""
    from platodef_cli.encoders.lineage import index

    index.remove(name)
    session.finish(f"{name} is no longer in the index")
