"""``platodef bench controls``."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from platodef_cli import environment
from platodef_cli.cli import options
from platodef_cli.cli.outputs import check_output, write_text
from platodef_cli.cli.session import Session


def controls(
    session: Session,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE.json", help="The positive controls."),
    ],
    images: Annotated[
        str | None,
        typer.Option(
            "--images",
            "-i",
            metavar="SOURCE",
            help="Images to plant and to search with. Default: those of `bench calibrate`.",
            rich_help_panel=options.IMAGES,
        ),
    ] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            "--reference",
            "-r",
            metavar="ID",
            help="An encoder to plant backdoors into; repeat it. Default: the embedded references.",
        ),
    ] = None,
    search: options.Searches = None,
    repeats: Annotated[
        int,
        typer.Option(
            "--repeats", min=5, max=1000, help="Backdoors per kind of search and strength.", metavar="N"
        ),
    ] = 10,
    cache_dir: options.CacheDir = None,
) -> None:
    """Plant backdoors into references and write down which of them the searches find: their power.

    Each backdoor is trained into a copy for some hundred steps and searched for as in an audit. Finished ones
    are kept, and an interrupted run goes on where it stopped when the same command is given again.
    """
    check_output(output)
    environment.go_offline()
    from platodef_cli.bench.calibrate import IMAGES, REFERENCES
    from platodef_cli.bench.controls import ControlsConfig
    from platodef_cli.bench.controls import controls as run
    from platodef_cli.report.json import dumps
    from platodef_cli.report.power import power_lines

    command = f"platodef bench controls --repeats {repeats}"
    if images is not None:
        shown = images if images.startswith(("builtin:", "hf://")) else "SOURCE"
        command += f" --images {shlex.quote(shown)}"
    for uri in reference or ():
        shown = uri if uri.startswith(("builtin:", "hf://")) else Path(uri).name
        command += f" --reference {shlex.quote(shown)}"
    if search:
        command += f" --search {shlex.quote(','.join(search))}"
    config = ControlsConfig(
        images or IMAGES,
        tuple(reference or REFERENCES),
        tuple(search or ()),
        repeats,
        cache_dir,
        command,
    )
    found = run(config, progress=session.progress)
    write_text(output, dumps(found.model_dump(mode="json")))
    kinds = tuple(dict.fromkeys(record.kind for record in found.power))
    for line in power_lines(found.power, kinds):
        session.info(line)
    session.finish(f"{sum(len(record.controls) for record in found.power)} planted backdoors")
