"""``platodef bench defences``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from platodef_cli.cli import options
from platodef_cli.cli.names import chosen
from platodef_cli.cli.outputs import STANDARD_STREAM, check_output, to_stdout, write_text
from platodef_cli.cli.session import Session
from platodef_cli.cli.tables import aligned
from platodef_cli.defences import DETECTORS, ENCODER_DETECTORS, PURIFIERS
from platodef_cli.errors import UsageError

if TYPE_CHECKING:
    from platodef_cli.bench.defence_records import DefenceTable

_SUFFIXES = {".json": "json", ".md": "markdown"}


def defences(
    session: Session,
    encoders: Annotated[
        list[str],
        typer.Option(
            "--encoders",
            metavar="DIR",
            help="Planted encoder with its trigger.json beside it; repeat it.",
            rich_help_panel=options.MODELS,
        ),
    ],
    images: Annotated[
        str,
        typer.Option(
            "--images",
            "-i",
            metavar="SOURCE",
            help="Labelled clean images.",
            rich_help_panel=options.IMAGES,
        ),
    ],
    reference: options.References = None,
    clean: Annotated[
        list[str] | None,
        typer.Option(
            "--clean",
            metavar="ID",
            help="Clean encoder to run the encoder-level detectors on as well; repeat it.",
            rich_help_panel=options.MODELS,
        ),
    ] = None,
    detectors: Annotated[
        list[str] | None,
        typer.Option(
            "--detectors",
            metavar="A,B",
            help="Detectors, of samples or of encoders, or none; default: all.",
        ),
    ] = None,
    purifiers: Annotated[
        list[str] | None,
        typer.Option("--purifiers", metavar="A,B", help="Purifiers, or none; default: all."),
    ] = None,
    published: Annotated[
        bool, typer.Option("--published/--no-published", help="Measure the published modes as well.")
    ] = True,
    diffusion: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Unconditional diffusers pipeline for zip; default: a small one."),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=200, help="Images used; half fit, half test.", rich_help_panel=options.IMAGES)
    ] = 2000,
    seed: options.Seed = 0,
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="PATH", help="FILE.md, FILE.json, or - for a table on stdout."
        ),
    ] = STANDARD_STREAM,
) -> None:
    """Measure every defence on planted encoders: AUROC, CA, PA, ASR, and costs on one core.

    What a defence cannot work on is shown as `-`, with the reason below the tables.
    """
    form = "text" if output == STANDARD_STREAM else _SUFFIXES.get(Path(output).suffix.lower())
    if form is None:
        raise UsageError(f"cannot tell the format of {output}; let its name end in .md or .json")
    if output != STANDARD_STREAM:
        check_output(Path(output))
    samples, whole = chosen(detectors, DETECTORS, ENCODER_DETECTORS)
    (repairs,) = chosen(purifiers, PURIFIERS)
    if not reference:
        raise UsageError("no references: give --reference ID, a trusted encoder; repeat it")
    from platodef_cli.bench.defences import DefenceConfig, measure_defences

    config = DefenceConfig(
        encoders=tuple(encoders),
        references=tuple(reference),
        images=images,
        clean=tuple(clean or ()),
        limit=limit,
        detectors=samples,
        encoder_detectors=whole,
        purifiers=repairs,
        modes=("default", "published") if published else ("default",),
        diffusion=diffusion,
        seed=seed,
    )
    table = measure_defences(config, progress=session.progress)
    text = _text(table, form)
    if output == STANDARD_STREAM:
        to_stdout(text)
    else:
        write_text(Path(output), text)
    missing = sum(row.not_applicable is not None for row in table.rows)
    session.finish(
        f"measured {len(table.rows) - missing} defences on {len(table.planted)} planted encoders; "
        f"{missing} were not applicable"
    )


def _text(table: "DefenceTable", form: str) -> str:
    if form == "markdown":
        return table.markdown()
    if form == "json":
        from platodef_cli.report.json import dumps

        return dumps(table.to_json())
    parts = [f"{title}\n{aligned(header, rows)}" for title, (header, rows) in table.tables().items()]
    return "\n".join([*parts, *(f"-: {line}\n" for line in table.reasons())])
