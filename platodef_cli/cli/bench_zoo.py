"""``platodef bench zoo``."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from platodef_cli.cli import environment, options
from platodef_cli.cli.outputs import check_output_folder
from platodef_cli.cli.session import Session


def build(
    session: Session,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the zoo.")],
    recipe: Annotated[str, typer.Option(help="small (30 minutes on 2 cores) or standard.")] = "small",
    images: Annotated[
        str,
        typer.Option(
            "--images",
            "-i",
            metavar="SOURCE",
            help="Labelled images to train on: a folder, FILE.parquet, hf://datasets/... or builtin:shapes.",
            rich_help_panel=options.IMAGES,
        ),
    ] = "builtin:shapes",
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", metavar="PATTERN", help="Only encoders with such names, and their parents; repeat it."
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", "-j", min=1, help="Processes. Default: one per core.", rich_help_panel=options.RUN
        ),
    ] = None,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    offline: options.Offline = False,
) -> None:
    """Build a zoo of encoders with and without backdoors, each with its ground truth in card.json.

    An interrupted build goes on where it stopped when the same command is given again; finished encoders
    are verified by their hashes. The same seed gives the same bytes on the same machine. A GPU (--device
    cuda) trains the clean encoders for more steps.
    """
    check_output_folder(output)
    if options.offline(offline):
        environment.go_offline()
    output.mkdir(exist_ok=True)
    from platodef_cli.bench.build import BuildConfig
    from platodef_cli.bench.build import build as run

    command = f"platodef bench zoo build --recipe {recipe} --images {shlex.quote(images)} --seed {seed}"
    if device != "cpu":
        command += f" --device {device}"
    session.mention_idle_gpu(device)
    config = BuildConfig(recipe, output, images, seed, jobs, tuple(only or ()), command, device)
    built = run(config, progress=session.progress)
    total = sum(built.made.values())
    for name, seconds in built.made.items():
        if session.verbose:
            print(f"{name}: {seconds:.0f} s", file=sys.stderr)
    session.finish(
        f"zoo in {output}: {len(built.made)} encoders made in {total / 60:.1f} process minutes, "
        f"{len(built.kept)} were finished before, {built.planned} in the whole recipe"
    )
