"""``platodef convert``."""

from pathlib import Path
from typing import Annotated

import typer

from platodef_cli.cli import options
from platodef_cli.cli.session import Session
from platodef_cli.cli.tables import show_rows


def convert(
    session: Session,
    checkpoint: Annotated[
        Path, typer.Argument(metavar="STATE_DICT", help="Checkpoint: .pth, .pt, .ckpt, .bin or .safetensors.")
    ],
    architecture: Annotated[
        str,
        typer.Option(
            "--architecture",
            "-a",
            metavar="timm/NAME",
            help="Network of timm that the weights are of, as in timm/resnet18.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Model folder to write.")],
    prefix: Annotated[
        str | None,
        typer.Option(help="What stands before the weights' names (module.encoder.). Default: it is found."),
    ] = None,
    input_size: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Side of the input, pixels. Default: the network's.")
    ] = None,
    memory_limit: options.MemoryLimit = 8.0,
    force: Annotated[bool, typer.Option("--force", help="Replace the folder.")] = False,
) -> None:
    """Make a model folder from a checkpoint of research code, to audit it.

    A pickle is read in an isolated process that builds tensors only. Every weight of the network must be
    there; what is left over, as a classifier or a projection head, is dropped and named.
    """
    from platodef_cli.encoders.convert import convert as run

    with session.progress.step("converting"):
        done = run(
            checkpoint,
            architecture,
            output,
            prefix=prefix,
            input_size=input_size,
            memory_limit_gb=memory_limit,
            force=force,
        )
    rows = [
        (
            "taken",
            str(done.taken),
            f"under the prefix {done.prefix!r}" if done.prefix else "as they are named",
        )
    ]
    rows += [("dropped", str(count), name) for name, count in sorted(done.dropped.items())]
    show_rows(("weights", "number", "names"), rows, as_json=False)
    if done.by_order:
        session.warn("the names are not the network's own: weights were matched by their order and shape")
    session.finish(f"{done.architecture} in {done.folder}; audit it with: platodef audit {done.folder}")
