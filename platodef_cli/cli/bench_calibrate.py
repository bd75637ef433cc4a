"""``platodef bench calibrate``."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from platodef_cli import environment
from platodef_cli.cli import options
from platodef_cli.cli.outputs import check_output, check_output_folder, write_text
from platodef_cli.cli.session import Session


def calibrate(
    session: Session,
    zoo: Annotated[
        Path,
        typer.Option(
            "--zoo", "-z", metavar="DIR", help="A zoo, built with --recipe calibration; finished or not."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="Folder of the reports."),
    ],
    page: Annotated[
        Path | None,
        typer.Option(
            "--page",
            metavar="FILE.md",
            help="The page for people. Default: CALIBRATION.md in the output folder.",
            rich_help_panel=options.RESULT,
        ),
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            metavar="FILE.json",
            help="The calibration. Default: calibration.json in the output folder.",
            rich_help_panel=options.RESULT,
        ),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            "--images",
            "-i",
            metavar="SOURCE",
            help="Images to audit with, none of the zoo's own. Default: other shapes.",
            rich_help_panel=options.IMAGES,
        ),
    ] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            "--reference",
            "-r",
            metavar="ID",
            help="A trusted encoder; repeat it. Default: those embedded.",
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="PATTERN", help="Audit encoders with such names now; repeat it."),
    ] = None,
    merge: Annotated[
        list[Path] | None,
        typer.Option(
            "--merge",
            metavar="FILE.json",
            help="A calibration of other encoders of the same recipe, made elsewhere by the same audits: "
            "they count as well; repeat it.",
        ),
    ] = None,
    seed: options.Seed = 0,
) -> None:
    """Audit every encoder of a zoo and write down how far clean ones depart: what verdicts are held against.

    Audits run one after the other; each is kept, and an interrupted run goes on where it stopped when the
    same command is given again. Encoders that are not built yet are left out, so that it can be given again
    after more of the zoo is built.
    """
    check_output_folder(output)
    for path in (page, write):
        if path is not None:
            check_output(path)
    environment.go_offline()
    output.mkdir(exist_ok=True)
    from platodef_cli.bench.calibrate import IMAGES, REFERENCES, CalibrateConfig
    from platodef_cli.bench.calibrate import calibrate as run
    from platodef_cli.bench.calibration_page import draw
    from platodef_cli.report.json import dumps

    chosen = tuple(reference or REFERENCES)
    command = f"platodef bench calibrate --zoo {shlex.quote(zoo.name)} --seed {seed}"
    if images is not None:
        command += (
            f" --images {shlex.quote(images if images.startswith(('builtin:', 'hf://')) else 'SOURCE')}"
        )
    config = CalibrateConfig(
        zoo, output, images or IMAGES, chosen, seed, tuple(only or ()), tuple(merge or ()), command
    )
    calibration = run(config, progress=session.progress)
    write_text(write or output / "calibration.json", dumps(calibration.model_dump(mode="json")))
    write_text(page or output / "CALIBRATION.md", draw(calibration))
    clean = {one.lineage for one in calibration.encoders if one.attack is None and one.departure is not None}
    alarms = calibration.alarms
    session.finish(
        f"{len(clean)} of {calibration.planned} clean lineages, {alarms.n_positive} of them failed by "
        f"the limits; {sum(one.attack is not None for one in calibration.encoders)} planted encoders"
    )
