"""``platodef bench encoders``."""

from pathlib import Path
from typing import Annotated

import typer

from platodef_cli.cli import options
from platodef_cli.cli.outputs import check_output, to_stdout, write_text
from platodef_cli.cli.session import Session


def encoders(
    session: Session,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Markdown. Default: stdout.",
            rich_help_panel=options.RESULT,
        ),
    ] = None,
) -> None:
    """List the encoders that load with the installed libraries, and which output of each is the feature."""
    if output is not None:
        check_output(output)
    from platodef_cli.bench.encoders_page import draw, versions

    page = draw()
    if output is None:
        to_stdout(page)
        return
    write_text(output, page)
    session.finish(f"{output}: encoders of {versions()}")
