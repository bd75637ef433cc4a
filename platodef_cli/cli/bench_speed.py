"""``platodef bench speed``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from platodef_cli.bench.speed import CONTESTS, SIZES
from platodef_cli.cli import options
from platodef_cli.cli.outputs import check_output, to_stdout, write_text
from platodef_cli.cli.session import Session
from platodef_cli.errors import UsageError


def _check_contests(names: list[str] | None) -> list[str] | None:
    for name in names or ():
        CONTESTS.check(name)
    return names


def speed(
    session: Session,
    contest: Annotated[
        list[str] | None,
        typer.Option(
            "--contest",
            metavar="NAME",
            callback=_check_contests,
            help=f"One of {', '.join(CONTESTS.names())}; repeat it. Default: all.",
        ),
    ] = None,
    size: Annotated[
        Literal["small", "usual", "real"],
        typer.Option(
            "--size", help=f"{SIZES[0]}: seconds; {SIZES[1]}: minutes; {SIZES[2]}: that of the goals."
        ),
    ] = "usual",
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, max=100, help="Measured runs of each side.")
    ] = 5,
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
    as_json: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="The same as JSON.", rich_help_panel=options.RESULT),
    ] = None,
) -> None:
    """Measure platodef against its peers: the same work in turn, on one thread, in processor time."""
    if output is not None and as_json is not None and output.absolute() == as_json.absolute():
        raise UsageError(f"page and JSON would both go to {output}; name two files")
    for path in (output, as_json):
        if path is not None:
            check_output(path)
    from platodef_cli.bench.speed.page import draw, measure

    names = tuple(dict.fromkeys(contest or CONTESTS.names()))
    result = measure(size, names, repeats, session.progress)
    if as_json is not None:
        write_text(as_json, result.model_dump_json(indent=2) + "\n")
    page = draw(result)
    if output is None:
        to_stdout(page)
    else:
        write_text(output, page)
    met = sum(row.met for row in result.rows)
    session.finish(f"{met} of {len(result.rows)} goals are met")
