"""``platodef bench zoo export`` and ``platodef bench zoo fetch``."""

from pathlib import Path
from typing import Annotated

import typer

from platodef_cli import environment
from platodef_cli.cli import options
from platodef_cli.cli.outputs import check_output_folder
from platodef_cli.cli.session import Session
from platodef_cli.errors import UnknownNameError

Folder = Annotated[
    Path, typer.Option("--output", "-o", metavar="DIR", help="Folder that appears when all of it is right.")
]


def export(
    session: Session,
    zoo: Annotated[Path, typer.Argument(metavar="ZOO", help="A zoo that was built.")],
    output: Folder,
    format: Annotated[str, typer.Option("--format", help="hub: a repository of a model hub.")] = "hub",
    licence: Annotated[
        str | None,
        typer.Option(
            "--license",
            metavar="ID",
            help="Licence of the encoders (SPDX). Default: apache-2.0 for a zoo of builtin:shapes.",
        ),
    ] = None,
) -> None:
    """Lay a zoo out for a hub: encoders, truth, triggers, cards with warnings, and checksums.

    The same zoo gives the same bytes. An interrupted export goes on when the same command is given again.
    Nothing is uploaded: `hf upload ORG/NAME DIR` does that.
    """
    from platodef_cli.bench.zoo.hub.export import FORMATS
    from platodef_cli.bench.zoo.hub.export import export as run

    if format not in FORMATS:
        raise UnknownNameError("format", format, FORMATS)
    check_output_folder(output)
    done = run(zoo, output, licence=licence, progress=session.progress)
    if done.missing:
        session.warn(f"{done.missing} encoders of the recipe are not finished, and not in {output}")
    session.finish(
        f"{done.encoders} encoders, {done.planted} of them backdoored, {done.bytes / 2**20:.0f} MiB, "
        f"in {output}{'' if done.written else ' already'}; SHA-256 of SHA256SUMS: {done.digest}"
    )


def fetch(
    session: Session,
    uri: Annotated[
        str,
        typer.Argument(
            metavar="hf://ORG/NAME@COMMIT",
            help="A zoo on the Hub at a full commit; hf://datasets/... for a repository of data.",
        ),
    ],
    output: Folder,
    sha256: Annotated[
        str | None,
        typer.Option("--sha256", metavar="HEX", help="What the SHA-256 of its SHA256SUMS must be."),
    ] = None,
    offline: options.Offline = False,
) -> None:
    """Download a published zoo, verify every byte of it, and keep it for `bench run` and `audit`.

    Nothing is kept unless every checksum, card, encoder file and trigger is what the zoo says it is. A folder
    that holds the zoo already is verified again.
    """
    check_output_folder(output)
    without_network = options.offline(offline)
    if without_network:
        environment.go_offline()
    from platodef_cli.bench.zoo.hub.fetch import fetch as run

    done = run(uri, output, sha256=sha256, offline=without_network, progress=session.progress)
    planted = len(done.zoo.planted)
    session.finish(
        f"{len(done.zoo.cards) - planted} clean and {planted} deliberately backdoored encoders in {output}"
        f"{'' if done.written else ' already'}, every byte verified; never deploy them"
    )
