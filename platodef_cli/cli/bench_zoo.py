"""``platodef bench zoo``."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from platodef_cli import environment
from platodef_cli.cli import options
from platodef_cli.cli.outputs import check_output_folder
from platodef_cli.cli.session import Session
from platodef_cli.cli.tables import show_rows

if TYPE_CHECKING:
    from platodef_cli.bench.zoo.card import ZooCard


def build(
    session: Session,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of the zoo.")],
    recipe: Annotated[
        str, typer.Option(help="small (half an hour on 2 cores), standard (two hours) or calibration.")
    ] = "small",
    images: Annotated[
        str,
        typer.Option(
            "--images",
            "-i",
            metavar="SOURCE",
            help="Labelled images to train on: a folder, FILE.parquet, hf://datasets/... or builtin:shapes.",
            rich_help_panel=options.IMAGES,
        ),
    ] = "builtin:shapes",
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", metavar="PATTERN", help="Only encoders with such names, and their parents; repeat it."
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", "-j", min=1, help="Processes. Default: one per core.", rich_help_panel=options.RUN
        ),
    ] = None,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    offline: options.Offline = False,
) -> None:
    """Build a zoo of encoders with and without backdoors, each with its ground truth in card.json.

    An interrupted build goes on where it stopped when the same command is given again; finished encoders
    are verified by their hashes. The same seed gives the same bytes on the same machine. A GPU (--device
    cuda) trains the clean encoders for more steps.
    """
    check_output_folder(output)
    if options.offline(offline):
        environment.go_offline()
    output.mkdir(exist_ok=True)
    from platodef_cli.bench.zoo.build import BuildConfig
    from platodef_cli.bench.zoo.build import build as run

    command = f"platodef bench zoo build --recipe {recipe} --images {shlex.quote(images)} --seed {seed}"
    if device != "cpu":
        command += f" --device {device}"
    session.mention_idle_gpu(device)
    config = BuildConfig(recipe, output, images, seed, jobs, tuple(only or ()), command, device)
    built = run(config, progress=session.progress)
    total = sum(built.made.values())
    for name, seconds in built.made.items():
        if session.verbose:
            print(f"{name}: {seconds:.0f} s", file=sys.stderr)
    session.finish(
        f"zoo in {output}: {len(built.made)} encoders made in {total / 60:.1f} process minutes, "
        f"{len(built.kept)} were finished before, {built.planned} in the whole recipe"
    )


_COLUMNS = (
    "name",
    "made",
    "architecture",
    "accuracy",
    "of parent",
    "cosine",
    "target",
    "ASR",
    "ASR of parent",
)


def ls(
    session: Session,
    zoo: Annotated[Path, typer.Argument(metavar="DIR", help="A zoo that was built.")],
    as_json: options.AsJson = False,
) -> None:
    """List the encoders of a zoo with their truth: how each was made, how good it is, how its backdoor works.

    Accuracy and ASR are those of a linear probe, for image-text attacks and their parents those of the class
    prompts; ASR counts images of other classes only.
    """
    from platodef_cli.bench.zoo.manifest import open_zoo

    opened = open_zoo(zoo)
    rows = [_row(card, opened.cards.get(card.parent or "")) for card in opened.cards.values()]
    show_rows(_COLUMNS, rows, as_json=as_json)
    missing = len(opened.manifest.encoders) - len(rows)
    planted = sum(card.truth == "backdoored" for card in opened.cards.values())
    session.finish(
        f"{len(rows) - planted} clean and {planted} backdoored encoders in {zoo}, {missing} missing of the "
        f"recipe {opened.manifest.recipe}"
    )


def _row(card: "ZooCard", parent: "ZooCard | None") -> tuple[object, ...]:
    """Return the cells of an encoder."""
    facts = card.backdoor
    made = card.made
    if card.made == "scratch" and card.objective:
        made = f"{card.role}: {card.objective.split(',')[0]}"
    rates = [
        card.accuracy_beside(facts),
        None if parent is None else parent.accuracy_beside(facts),
        None if facts is None else facts.success,
        None if facts is None else facts.success_of_parent,
    ]
    texts = ["" if rate is None or rate.value is None else f"{rate.value:.3f}" for rate in rates]
    return (
        card.name,
        facts.attack if facts else made,
        card.architecture,
        *texts[:2],
        "" if card.cosine_to_parent is None else f"{card.cosine_to_parent:.3f}",
        facts.target_class if facts else "",
        *texts[2:],
    )
