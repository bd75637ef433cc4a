"""``platodef summary``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from platodef_cli.cli import options
from platodef_cli.cli.outputs import parse_outputs, to_stdout, write_text
from platodef_cli.cli.session import Session
from platodef_cli.errors import EXIT_PASS
from platodef_cli.report.summary import SUMMARIES, render


def summary(
    session: Session,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of JSON reports; folders in it are read as well.")
    ],
    output: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FORMAT[=PATH]",
            help=f"Format of the table ({', '.join(SUMMARIES.names())}); repeat it. Default: terminal.",
            rich_help_panel=options.RESULT,
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest",
            metavar="MANIFEST.toml",
            help="List of `platodef audit-many`: suspects of it without a report are rows too.",
            rich_help_panel=options.JUDGING,
        ),
    ] = None,
    anchor: options.Anchor = None,
    exit_code: Annotated[
        bool,
        typer.Option(
            "--exit-code",
            help="End with the worst exit code of the reports instead of 0.",
            rich_help_panel=options.JUDGING,
        ),
    ] = False,
) -> None:
    """Show many JSON reports as one table, the most suspicious first.

    Works on any folder of reports, whoever wrote them. A file that cannot be read, or is no report, is a row.
    Ends with 0 when the table could be shown, whatever the verdicts were, unless --exit-code is given.
    """
    outputs = parse_outputs(output or (), SUMMARIES, default="terminal")
    session.anchor = anchor
    from platodef_cli.report.summary.rows import read_rows, with_missing, worst_code
    from platodef_cli.report.summary.table import counted

    expected = {} if manifest is None else _expected(manifest)
    with session.progress.step("reading reports"):
        rows = with_missing(read_rows(folder), expected)
    for target in sorted(outputs, key=lambda target: target.path is None):
        if target.format == "terminal" and target.path is None:
            if not session.quiet:
                sys.stderr.write(render(rows, target.format, session.render_options()))
                sys.stderr.flush()
            continue
        text = render(rows, target.format, session.render_options(width=80, color=False))
        if target.path is None:
            to_stdout(text)
        else:
            write_text(target.path, text)
    code = worst_code([row.exit_code for row in rows])
    session.finish(f"{counted(rows)}; their worst exit code is {code}", code=code if exit_code else EXIT_PASS)


def _expected(manifest: Path) -> dict[str, str]:
    from platodef_cli.jobs.manifest import read_manifest

    return {suspect.name: suspect.model for suspect in read_manifest(manifest).suspects}
