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
        typer.Option(
            "--json",
            metavar="FILE",
            help="The same as JSON, written after every contest.",
            rich_help_panel=options.RESULT,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the contests that the file of --json holds.")
    ] = False,
    beside: Annotated[
        list[Path] | None,
        typer.Option(
            "--beside",
            metavar="FILE",
            help="JSON of another run, as a further table of the page; repeat it.",
            rich_help_panel=options.RESULT,
        ),
    ] = None,
) -> None:
    """Measure platodef against its peers: the same work in turn, on one thread, in processor time.

    A contest of the size real takes minutes: with --json and --resume, an interrupted run goes on after the
    last finished contest, and contests can be added one by one.
    """
    if resume and as_json is None:
        raise UsageError("--resume goes on from the file of --json; name it")
    if output is not None and as_json is not None and output.absolute() == as_json.absolute():
        raise UsageError(f"page and JSON would both go to {output}; name two files")
    for path in (output, as_json):
        if path is not None:
            check_output(path)
    from platodef_cli.bench.speed.contest import SpeedResult
    from platodef_cli.bench.speed.page import draw, measure, read_result

    others = [read_result(path) for path in beside or ()]
    finished = read_result(as_json) if resume and as_json is not None and as_json.exists() else None

    def keep(result: SpeedResult) -> None:
        if as_json is not None:
            write_text(as_json, result.model_dump_json(indent=2) + "\n")

    names = tuple(dict.fromkeys(contest or CONTESTS.names()))
    result = measure(size, names, repeats, session.progress, finished=finished, keep=keep)
    page = draw(result, others)
    if output is None:
        to_stdout(page)
    else:
        write_text(output, page)
    met = sum(row.met for row in result.rows)
    session.finish(f"{met} of {len(result.rows)} goals are met")
