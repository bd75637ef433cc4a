"""``platodef bench run``."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from platodef_cli import environment
from platodef_cli.bench import FORMATS, TABLES
from platodef_cli.cli import options
from platodef_cli.cli.outputs import Output, check_output_folder, parse_outputs, to_stdout, write_text
from platodef_cli.cli.session import Session
from platodef_cli.errors import UsageError

if TYPE_CHECKING:
    from platodef_cli.bench.config import BenchConfig
    from platodef_cli.bench.results import BenchResult

Outputs = Annotated[
    list[str] | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FORMAT[=PATH]",
        help=f"{', '.join(FORMATS.names())}; repeat it. Default: markdown to stdout.",
        rich_help_panel=options.RESULT,
    ),
]


def run(
    session: Session,
    zoo: Annotated[Path, typer.Option("--zoo", "-z", metavar="DIR", help="A zoo that was built.")],
    table: Annotated[str, typer.Option("--table", "-t", help=f"One of {', '.join(TABLES.names())}.")] = "1",
    images: Annotated[
        str | None,
        typer.Option(
            "--images",
            "-i",
            metavar="SOURCE",
            help="Labelled images of the zoo's classes that it was not trained on. Default for a zoo of "
            "shapes: other shapes.",
            rich_help_panel=options.IMAGES,
        ),
    ] = None,
    limit: options.Limit = None,
    seeds: Annotated[
        list[int] | None,
        typer.Option(
            "--seed", min=0, help="Seed of splits and heads; repeat it.", rich_help_panel=options.RUN
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="PATTERN", help="Only suspects with such names; repeat it."),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option("--skip", metavar="METHOD", help="Leave out a detector or purifier; repeat it."),
    ] = None,
    published: Annotated[
        bool,
        typer.Option("--published/--no-published", help="Table defences: the published modes as well."),
    ] = True,
    diffusion: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Unconditional diffusers pipeline for zip in tables 1 and defences. Default: a small one.",
        ),
    ] = None,
    attack: Annotated[str, typer.Option(help="Attack of table 2.")] = "ssl-backdoor",
    adversarial: Annotated[
        int,
        typer.Option(min=0, help="Test images that table 1 attacks adversarially; 0 leaves these rows out."),
    ] = 200,
    preset: Annotated[str, typer.Option(help="Heads: closed, tiny, small, medium or paper.")] = "tiny",
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny heads, for a look at the tables; not for numbers.")
    ] = False,
    results: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Finished cells. Default: results/ in the zoo.", rich_help_panel=options.RUN
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Compute finished cells again.", rich_help_panel=options.RUN)
    ] = False,
    output: Outputs = None,
    offline: options.Offline = False,
) -> None:
    """Fill one of the benchmark's tables on a zoo.

    Tables: 1 (attacks and defences), 2 (backdoored references), 3 (training modes of the heads), defences
    (every defence on every planted encoder, its published mode and its costs on one core), encoder (the
    audit's verdict on every encoder), solvers, backbones, alignment, figure3. Finished cells are kept, so an
    interrupted run goes on where it stopped.
    """
    outputs = parse_outputs(output or (), FORMATS, default="markdown")
    TABLES.check(table)
    if results is not None:
        check_output_folder(results)
    if options.offline(offline):
        environment.go_offline()
    from platodef_cli.bench.config import BenchConfig
    from platodef_cli.bench.run import bench

    config = BenchConfig(
        zoo=zoo,
        table=table,
        images=images,
        limit=limit,
        seeds=tuple(seeds or (0,)),
        preset=preset,
        quick=quick,
        only=tuple(only or ()),
        results=results,
        fresh=fresh,
        attack=attack,
        adversarial=adversarial,
        skip=tuple(skip or ()),
        published=published,
        diffusion=diffusion,
    )
    result = bench(replace(config, command=_command(config, seeds or ())), progress=session.progress)
    _write(result, outputs)
    unmet = [goal.name for goal in result.goals if goal.met is False]
    text = f"; goals not met: {', '.join(unmet)}" if unmet else ""
    session.finish(
        f"{result.title}, {len(result.encoders)} encoders, {result.seconds / 60:.1f} minutes{text}"
    )


def show(
    session: Session,
    result: Annotated[Path, typer.Argument(metavar="RESULT.json", help="What `platodef bench run` wrote.")],
    output: Outputs = None,
) -> None:
    """Show a stored result of the benchmark again, in any format."""
    from pydantic import ValidationError

    from platodef_cli.bench.results import BenchResult

    outputs = parse_outputs(output or (), FORMATS, default="markdown")
    try:
        stored = BenchResult.model_validate_json(result.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read the result {result}: {error.strerror}") from None
    except ValidationError as error:
        raise UsageError(f"{result} is no result of the benchmark ({error.error_count()} errors)") from None
    _write(stored, outputs)
    session.finish(f"{stored.title}, {len(stored.grids)} tables")


def _write(result: "BenchResult", outputs: Sequence[Output]) -> None:
    """Write a result in every format that was asked for, files first."""
    for target in sorted(outputs, key=lambda one: one.path is None):
        text = FORMATS.load(target.format)(result)
        if target.path is None:
            to_stdout(text)
        else:
            write_text(target.path, text)


def _command(config: "BenchConfig", seeds: Sequence[int]) -> str:
    """Return the command that repeats the run, without the folders of this machine.

    ``seeds`` are those that were given: a default is not repeated.
    """
    words = ["platodef", "bench", "run", "--zoo", "DIR", "--table", config.table]
    if config.images is not None:
        local = "://" not in config.images and not config.images.startswith("builtin:")
        words += ["--images", Path(config.images).name if local else config.images]
    if config.limit is not None:
        words += ["--limit", str(config.limit)]
    for option, values in (("--seed", seeds), ("--only", config.only), ("--skip", config.skip)):
        words += [word for value in values for word in (option, str(value))]
    if config.table == "2":
        words += ["--attack", config.attack]
    if config.table == "1" and config.adversarial != 200:
        words += ["--adversarial", str(config.adversarial)]
    if config.table == "defences" and not config.published:
        words.append("--no-published")
    if config.diffusion is not None:
        words += ["--diffusion", config.diffusion.name]
    if config.preset != "tiny":
        words += ["--preset", config.preset]
    if config.quick:
        words.append("--quick")
    return shlex.join(words)
