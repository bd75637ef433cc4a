"""``platodef bench scale``."""

from pathlib import Path
from typing import Annotated

import typer

from platodef_cli.cli import options
from platodef_cli.cli.outputs import check_output, to_stdout, write_text
from platodef_cli.cli.session import Session


def scale(
    session: Session,
    report: Annotated[
        Path, typer.Argument(metavar="REPORT.json", help="A report of a usual audit, for its size.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Markdown, and the numbers in a .json beside it. Default: the numbers on stdout.",
            rich_help_panel=options.RESULT,
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            "--text",
            metavar="FILE.md",
            help="What stands before the numbers.",
            rich_help_panel=options.RESULT,
        ),
    ] = None,
    core_hour: Annotated[
        float,
        typer.Option(
            "--core-hour", min=0.0, help="Price of an hour of one core.", rich_help_panel=options.RESULT
        ),
    ] = 0.04,
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, max=99, help="Runs of which the median is taken.")
    ] = 3,
) -> None:
    """Measure what large work costs here, and what follows for 10 000 suspects and a billion images.

    One computing thread; CPU seconds. Takes a few minutes.
    """
    for path in (output, None if output is None else output.with_suffix(".json")):
        if path is not None:
            check_output(path, inputs=[report, *([] if text is None else [text])])
    from platodef_cli.bench.scale import measure, to_json
    from platodef_cli.bench.scale_page import draw
    from platodef_cli.disk import explaining
    from platodef_cli.report.reading import read_report

    read_report(report)
    before = ""
    if text is not None:
        with explaining(f"cannot read the text {text}"):
            before = text.read_text(encoding="utf-8")
    costs = measure(report, repeats=repeats, progress=session.progress)
    if output is None:
        to_stdout(to_json(costs))
        return
    write_text(output.with_suffix(".json"), to_json(costs))
    write_text(output, draw(costs, core_hour, before))
    session.finish(f"{output}: measured on {costs.machine}")
