"""The entry point ``platodef``: the table of commands, and the last line of defence for errors."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from platodef_cli import environment
from platodef_cli.cli import (
    bench_calibrate,
    bench_controls,
    bench_encoders,
    bench_run,
    bench_scale,
    bench_speed,
    bench_trigger,
    bench_zoo,
    bench_zoo_hub,
    cache,
    heads,
    lineage,
    policy,
)
from platodef_cli.cli.align import align
from platodef_cli.cli.audit import audit
from platodef_cli.cli.audit_many import audit_many
from platodef_cli.cli.caption import caption
from platodef_cli.cli.command import register
from platodef_cli.cli.convert import convert
from platodef_cli.cli.defences import defences
from platodef_cli.cli.demo import demo
from platodef_cli.cli.doctor import doctor
from platodef_cli.cli.extract import extract
from platodef_cli.cli.fit import fit
from platodef_cli.cli.gate import gate
from platodef_cli.cli.interrupts import Interrupts
from platodef_cli.cli.preflight import preflight
from platodef_cli.cli.purify import purify
from platodef_cli.cli.report import report
from platodef_cli.cli.schema import schema
from platodef_cli.cli.score import score
from platodef_cli.cli.session import Session
from platodef_cli.cli.streams import make_steady
from platodef_cli.cli.summary import summary
from platodef_cli.cli.versions import library_versions
from platodef_cli.errors import EXIT_INTERRUPTED, EXIT_PASS
from platodef_cli.version import __version__

_EPILOG = (
    "Exit codes: 0 pass, 1 suspicious, 2 usage, 3 could not complete, 4 inconclusive, 5 refused, "
    "130 interrupted. A pass means that no tested indicator crossed its limit, not that a model is safe."
)
_AUDIT, _STEPS, _REPORTS, _BENCH, _KEEP = "Audit", "Single steps", "Reports", "Benchmark", "Housekeeping"

app = typer.Typer(
    name="platodef",
    help="Tells whether a downloaded vision encoder can be trusted, and cleans its features if not.",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


_cache = typer.Typer(help="List, verify and remove cached features and heads.", no_args_is_help=True)
register(_cache, "ls", cache.ls)
register(_cache, "verify", cache.verify)
register(_cache, "rm", cache.rm)

_heads = typer.Typer(help="List, show, verify and pull heads.", no_args_is_help=True)
register(_heads, "ls", heads.ls)
register(_heads, "show", heads.show)
register(_heads, "verify", heads.verify)
register(_heads, "pull", heads.pull)

_lineage = typer.Typer(help="Models that audits look for the suspect's base in.", no_args_is_help=True)
register(_lineage, "add", lineage.add)
register(_lineage, "list", lineage.ls)
register(_lineage, "remove", lineage.remove)

_policy = typer.Typer(help="Write, check and explain the limits of the verdict.", no_args_is_help=True)
register(_policy, "init", policy.init)
register(_policy, "check", policy.check)
register(_policy, "metrics", policy.metrics)

_bench = typer.Typer(help="The zoo and the benchmark: the paper's tables in miniature.", no_args_is_help=True)
register(_bench, "run", bench_run.run)
register(_bench, "show", bench_run.show)
register(_bench, "trigger", bench_trigger.trigger)
register(_bench, "encoders", bench_encoders.encoders)
register(_bench, "speed", bench_speed.speed)
register(_bench, "calibrate", bench_calibrate.calibrate)
register(_bench, "controls", bench_controls.controls)
register(_bench, "scale", bench_scale.scale)
_zoo = typer.Typer(
    help="Build, publish and fetch zoos of encoders with and without backdoors.", no_args_is_help=True
)
register(_zoo, "build", bench_zoo.build)
register(_zoo, "ls", bench_zoo.ls)
register(_zoo, "export", bench_zoo_hub.export)
register(_zoo, "fetch", bench_zoo_hub.fetch)
_bench.add_typer(_zoo, name="zoo")

register(app, "audit", audit, panel=_AUDIT, epilog=_EPILOG)
register(app, "demo", demo, panel=_AUDIT)
register(app, "audit-many", audit_many, panel=_AUDIT, epilog=_EPILOG)
register(app, "gate", gate, panel=_AUDIT, epilog=_EPILOG)
register(app, "preflight", preflight, panel=_AUDIT, epilog=_EPILOG)
register(app, "convert", convert, panel=_STEPS)
register(app, "caption", caption, panel=_STEPS)
register(app, "extract", extract, panel=_STEPS)
register(app, "fit", fit, panel=_STEPS)
register(app, "score", score, panel=_STEPS)
register(app, "purify", purify, panel=_STEPS)
register(app, "align", align, panel=_STEPS)
register(app, "defences", defences, panel=_STEPS)
register(app, "report", report, panel=_REPORTS)
register(app, "summary", summary, panel=_REPORTS)
register(app, "schema", schema, panel=_REPORTS)
app.add_typer(_policy, name="policy", rich_help_panel=_AUDIT)
app.add_typer(_bench, name="bench", rich_help_panel=_BENCH)
app.add_typer(_heads, name="heads", rich_help_panel=_KEEP)
app.add_typer(_lineage, name="lineage", rich_help_panel=_KEEP)
app.add_typer(_cache, name="cache", rich_help_panel=_KEEP)
register(app, "doctor", doctor, panel=_KEEP)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; never raises and never shows a stray traceback.

    Args:
        arguments: The words after ``platodef``; those of the process by default.
    """
    make_steady()
    environment.prepare()
    if arguments is None:  # the process is ours
        environment.keep_freed_memory()
    session = Session()
    interrupts = Interrupts(own_process=arguments is None, told=lambda: session.told)
    with interrupts.handled():
        code = _run(session, arguments)
        if code == EXIT_INTERRUPTED:
            interrupts.leave()
    return code


def _run(session: Session, arguments: Sequence[str] | None) -> int:
    """Run the command line; see :func:`main`."""
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


if __name__ == "__main__":
    sys.exit(main())
