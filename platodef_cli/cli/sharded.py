"""What the commands that write a folder of shards share: where they run, and where results go."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from platodef_cli.cli import options
from platodef_cli.cli.outputs import STANDARD_STREAM, check_output_folder
from platodef_cli.cli.session import Session
from platodef_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from platodef_cli.jobs.pieces import Executor as Pieces
    from platodef_cli.jobs.pieces import Piece, Result, Work

STREAM_BYTES = 256 * 2**20
"""Size of a feature file past which it is read in blocks instead of at once."""


class Executor(StrEnum):
    """Where pieces of work run."""

    local = "local"
    ray = "ray"


ChosenExecutor = Annotated[
    Executor,
    typer.Option(
        "--executor", help="local: in this process; ray: on a Ray cluster.", rich_help_panel=options.RUN
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="Ray cluster to use; without it one is started on this machine.",
        rich_help_panel=options.RUN,
    ),
]
Actors = Annotated[
    int | None,
    typer.Option(
        "--actors",
        min=1,
        help="Actors on the Ray cluster. Default: as many as it has processors, or GPUs with --device cuda.",
        rich_help_panel=options.RUN,
    ),
]


@dataclass(frozen=True)
class Chosen:
    """Where the user wants shards to be made."""

    executor: Executor
    address: str | None
    actors: int | None
    device: str

    def open(self) -> "Pieces":
        """Return the executor."""
        if self.executor is Executor.local:
            from platodef_cli.jobs.pieces import InProcess

            return InProcess()
        from platodef_cli.jobs.ray_pieces import RayPieces

        return RayPieces(
            self.address, actors=self.actors, gpus=1.0 if self.device.startswith("cuda") else 0.0
        )


def chosen(executor: Executor, address: str | None, actors: int | None, device: str) -> Chosen:
    """Return where shards are made.

    Raises:
        UsageError: Options are given that only hold for Ray, or ray is not installed.
    """
    if executor is Executor.local:
        for name, value in (("--address", address), ("--actors", actors)):
            if value is not None:
                raise UsageError(f"{name} is for --executor ray; leave it out, or add --executor ray")
    else:
        from platodef_cli.jobs.ray_cluster import load_ray

        load_ray()  # before anything is computed
    return Chosen(executor, address, actors, device)


def shards_target(output: str, *, forced: bool) -> Path | None:
    """Return the folder of shards that ``-o`` names; None where it names a file or the standard stream.

    Args:
        output: A name that ends in ``/``, or any name where ``forced``.
        forced: What else was asked for can only be done with shards.

    Raises:
        UsageError: No folder can be made there.
    """
    if output == STANDARD_STREAM:
        if forced:
            raise UsageError("shards need a folder: name one with -o DIR")
        return None
    path = Path(output)
    if not (forced or output.endswith("/")):
        return None
    return check_output_folder(path)


def run_shards(
    session: Session, work: "Work", pieces: "Sequence[Piece]", folder: Path, chosen: Chosen, title: str
) -> "Result":
    """Make shards, those of an earlier run excepted.

    Raises:
        PlatodefError: Some could not be made.
    """
    from platodef_cli.jobs.pieces import Folder

    executor = chosen.open()
    try:
        with Folder(folder) as place:
            result = place.run(work, pieces, executor, progress=session.progress, title=title)
    finally:
        executor.close()
    result.check()
    return result


def not_inside(folder: Path, source: Path) -> None:
    """Refuse to write shards among those that are read.

    Raises:
        UsageError: Both are the same folder.
    """
    if folder.exists() and folder.samefile(source):
        raise UsageError(f"the output {folder} is the folder of the input; choose another")
