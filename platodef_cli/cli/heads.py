"""``platodef heads``: the heads that are shipped, were fitted, or were pulled from a hub."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from platodef_cli.cli import options
from platodef_cli.cli.session import Session
from platodef_cli.cli.tables import aligned, show_json, show_rows
from platodef_cli.errors import EXIT_REFUSED, PlatodefError, UsageError
from platodef_cli.heads.find import DESCRIPTION, find_heads, pulled_directory

if TYPE_CHECKING:
    from platodef_cli.heads.pretrained import HeadDescription

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME|DIR", help="Shipped heads (see `heads ls`), a folder, or pulled ones, org/name@COMMIT."
    ),
]


def pull(
    session: Session,
    uri: Annotated[
        str, typer.Argument(metavar="hf://ORG/NAME@COMMIT", help="Heads on the Hub, at a full commit.")
    ],
    offline: options.Offline = False,
) -> None:
    """Download heads from the Hub, verify them, and keep them for --head ORG/NAME@COMMIT.

    Nothing is kept unless every check of `heads verify` holds.
    """
    from platodef_cli import environment

    without_network = options.offline(offline)
    if without_network:
        environment.go_offline()
    from platodef_cli.heads.pull import pull_heads

    place = pull_heads(uri, pulled_directory(), offline=without_network, progress=session.progress)
    session.finish(f"verified heads in {place}; use them with --head {uri.removeprefix('hf://')}")


def ls(
    session: Session,
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DIR]",
            help="Folder whose sub-folders hold heads; default: the shipped and the pulled ones.",
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """List heads: what they judge, against which references, and how large they are."""
    from platodef_cli.heads.config import FitConfig, preset_name
    from platodef_cli.heads.pretrained import read_description
    from platodef_cli.resources import data_dir

    if folder is not None and not folder.is_dir():
        raise UsageError(f"the folder {folder} does not exist")
    roots = [data_dir("pretrained_heads"), pulled_directory()] if folder is None else [folder]
    rows = []
    present = [sorted(root.iterdir()) for root in roots if root.is_dir()]
    for entry in (path for paths in present for path in paths if (path / DESCRIPTION).is_file()):
        try:
            description = read_description(entry)
            preset = preset_name(FitConfig.from_json(description.config))
        except PlatodefError as error:
            session.warn(str(error))
            continue
        size = sum(file.stat().st_size for file in entry.iterdir() if file.is_file())
        references = " ".join(description.reference_names)
        rows.append(
            (_spelling(entry.name), description.card.source.name, references, preset, description.rows, size)
        )
    header = ("name", "judges", "references", "preset", "tuples", "bytes")
    show_rows(header, rows, as_json=as_json)
    session.finish(f"{len(rows)} heads in {' and '.join(map(str, roots))}")


def _spelling(folder: str) -> str:
    """Return how ``--head`` names the heads of a folder: pulled ones lie in ``org--name@COMMIT``."""
    return folder.replace("--", "/", 1) if "@" in folder else folder


def _facts(path: Path, description: "HeadDescription") -> list[tuple[str, object]]:
    card = description.card
    facts: list[tuple[str, object]] = [("name", card.name), ("folder", path), ("sha256", description.sha256)]
    for role, record in [("judges", card.source), *(("reference", entry) for entry in card.references)]:
        pin = record.commit or "local"
        facts.append(
            (role, f"{record.uri} ({record.architecture}, {record.dim}-d, {pin}, {record.digest[:12]})")
        )
    facts += [("trained on", card.trained_on), ("tuples", description.rows), ("seed", description.seed)]
    facts += [("licence", card.licence), ("notes", card.notes or "none")]
    return facts


def show(session: Session, name: Name, as_json: options.AsJson = False) -> None:
    """Show everything that heads say about themselves, without loading their weights."""
    from platodef_cli.cli.outputs import to_stdout
    from platodef_cli.heads.pretrained import read_description

    path = find_heads(name)
    description = read_description(path)
    if as_json:
        show_json(description.model_dump(mode="json"))
    else:
        metrics = [(key, f"{value:.4f}") for key, value in sorted(description.metrics.items())]
        to_stdout(
            aligned(("what", ""), _facts(path, description)) + "\n" + aligned(("held out", "value"), metrics)
        )
    session.finish(f"described by {path / DESCRIPTION}; `platodef heads verify` checks it")


def verify(session: Session, name: Name, as_json: options.AsJson = False) -> None:
    """Check heads without trusting them: files, hashes, every tensor, and a metric that can be recomputed."""
    from platodef_cli.heads.pretrained import verify_heads

    path = find_heads(name)
    with session.progress.step("verifying heads"):
        checks = verify_heads(path)
    rows = [(check.name, "ok" if check.passed else "FAILED", check.detail) for check in checks]
    show_rows(("check", "result", "detail"), rows, as_json=as_json)
    failed = [check for check in checks if not check.passed]
    if failed:
        session.finish(f"{path}: {failed[0].detail}", EXIT_REFUSED)
    session.finish(f"{path} is what it says it is")
