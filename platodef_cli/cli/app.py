"""The entry point ``platodef``: the table of commands, and the last line of defence for errors."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from platodef_cli import __version__
from platodef_cli.cli import environment
from platodef_cli.cli.command import register
from platodef_cli.cli.report import report
from platodef_cli.cli.schema import schema
from platodef_cli.cli.session import Session
from platodef_cli.errors import EXIT_INTERRUPTED, EXIT_PASS

_EPILOG = (
    "Exit codes: 0 pass, 1 suspicious, 2 usage, 3 could not complete, 4 inconclusive, 5 refused, "
    "130 interrupted. A pass means that no tested indicator crossed its limit, not that a model is safe."
)
_LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "open_clip_torch",
    "huggingface_hub",
    "safetensors",
    "datasets",
    "pillow",
    "numpy",
    "scikit-learn",
)

app = typer.Typer(
    name="platodef",
    help="Tells whether a downloaded vision encoder can be trusted, and cleans its features if not.",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def library_versions() -> dict[str, str]:
    """Return the installed versions of the libraries that decide results, without importing them."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _show_version(requested: bool) -> None:
    if requested:
        typer.echo(f"platodef {__version__} (Python {sys.version.split()[0]})")
        for name, installed in library_versions().items():
            typer.echo(f"  {name} {installed}")
        raise typer.Exit


@app.callback()
def _top(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Show versions of platodef and its libraries.",
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", hidden=True)] = False,
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, hidden=True)] = 0,
    no_color: Annotated[bool, typer.Option("--no-color", hidden=True)] = False,
    debug: Annotated[bool, typer.Option("--debug", hidden=True)] = False,
) -> None:
    """Read the options that may also stand before the command."""
    session = ctx.ensure_object(Session)
    session.quiet, session.verbose, session.no_color, session.debug = quiet, verbose, no_color, debug


register(app, "report", report, panel="Reports")
register(app, "schema", schema, panel="Reports")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; never raises and never shows a stray traceback.

    Args:
        arguments: The words after ``platodef``; those of the process by default.
    """
    environment.prepare()
    session = Session()
    try:
        code = app(
            args=sys.argv[1:] if arguments is None else list(arguments),
            prog_name="platodef",
            obj=session,
            standalone_mode=False,
        )
        code = code if isinstance(code, int) else EXIT_PASS
        if code == EXIT_INTERRUPTED and not session.explained:
            code = session.fail(KeyboardInterrupt())
        sys.stdout.flush()
        return code
    except (Exception, KeyboardInterrupt) as error:
        return session.fail(error)
    finally:
        _detach_broken_stdout()


def _detach_broken_stdout() -> None:
    """Keep the interpreter from failing once more on a closed pipe when it flushes at exit."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
