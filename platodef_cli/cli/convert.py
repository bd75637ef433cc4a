"""``platodef convert``."""

from pathlib import Path
from typing import Annotated

import typer

from platodef_cli.cli import options
from platodef_cli.cli.session import Session
from platodef_cli.cli.tables import show_rows
from platodef_cli.errors import UsageError


def convert(
    session: Session,
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="STATE_DICT|ADAPTER",
            help="Checkpoint: .pth, .pt, .ckpt, .bin or .safetensors; or the folder of a LoRA adapter.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Model folder to write.")],
    architecture: Annotated[
        str | None,
        typer.Option(
            "--architecture",
            "-a",
            metavar="timm/NAME",
            help="Network that the weights are of: timm/resnet18, or a tower, as open_clip/RN50-quickgelu.",
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="ID[@COMMIT]",
            help="Model that a LoRA adapter belongs to: a folder, or org/name at a full commit.",
        ),
    ] = None,
    prefix: Annotated[
        str | None,
        typer.Option(help="What stands before the weights' names (module.encoder.). Default: it is found."),
    ] = None,
    input_size: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Side of the input, pixels. Default: the network's.")
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(metavar="R,G,B", help="Of colours from 0 to 1. Default: the network's."),
    ] = None,
    std: Annotated[str | None, typer.Option(metavar="R,G,B", help="The same.")] = None,
    memory_limit: options.MemoryLimit = 8.0,
    force: Annotated[bool, typer.Option("--force", help="Replace the folder.")] = False,
) -> None:
    """Make a model folder from a checkpoint of research code, to audit it.

    A pickle is read in an isolated process that builds tensors only. Every weight of the network must be
    there; what is left over, as a classifier or a projection head, is dropped and named.

    With --base a LoRA adapter of PEFT (VLM2Vec) is merged into its model, without code of peft.
    """
    if (architecture is None) == (base is None):
        raise UsageError("give --architecture for a checkpoint, or --base for a LoRA adapter")
    if base is not None:
        if any(value is not None for value in (prefix, input_size, mean, std)):
            raise UsageError(
                "--prefix, --input-size, --mean and --std are for checkpoints, not for LoRA adapters"
            )
        _merge(session, checkpoint, base, output, force)
        return
    assert architecture is not None
    from platodef_cli.encoders.convert import convert as run

    with session.progress.step("converting"):
        done = run(
            checkpoint,
            architecture,
            output,
            prefix=prefix,
            input_size=input_size,
            mean=_three(mean, "--mean"),
            std=_three(std, "--std"),
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
    rows.append(
        ("images", "", f"{done.preprocessing}, which no checkpoint says (--input-size, --mean, --std)")
    )
    show_rows(("weights", "number", "names"), rows, as_json=False)
    if done.by_order:
        session.warn("the names are not the network's own: weights were matched by their order and shape")
    elif done.names:
        session.warn(f"the names are not the network's own, but {done.names}")
    if done.others:
        session.warn(
            "the file holds other networks of this kind too, which were not taken: "
            f"{', '.join(done.others[:5])}; --prefix takes one of them"
        )
    session.finish(f"{done.architecture} in {done.folder}; audit it with: platodef audit {done.folder}")


def _three(text: str | None, option: str) -> list[float] | None:
    """Return one number per channel.

    Raises:
        UsageError: It is none of one or three numbers, or a standard deviation is not positive.
    """
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    values = values * 3 if len(values) == 1 else values
    if len(values) != 3 or not all(abs(value) < 1000 for value in values):
        raise UsageError(f"{option} {text}: give one number per channel, as in 0.485,0.456,0.406")
    if option == "--std" and min(values) <= 0:
        raise UsageError(f"{option} {text}: standard deviations are greater than 0")
    return values


def _merge(session: Session, adapter: Path, base: str, output: Path, force: bool) -> None:
    """Merge a LoRA adapter."""
    from platodef_cli.encoders.adapters import FILES, merge
    from platodef_cli.encoders.hub.hub_cache import COMMIT
    from platodef_cli.encoders.reference import parse
    from platodef_cli.encoders.resolve import examine, resolve

    reference = parse(base)
    if reference.repository is not None and not COMMIT.match(reference.revision or ""):
        raise UsageError(f"--base {base} is not pinned; give the full commit, org/name@<40 hex digits>")
    if not adapter.is_dir():
        raise UsageError(f"{adapter}: no such folder; give one with {' and '.join(FILES)}")
    resolved = resolve(reference, progress=session.progress)
    with session.progress.step("checking the base"):
        checked = examine(resolved)
    with session.progress.step("merging"):
        name = reference.uri if reference.repository else reference.short_name
        done = merge(adapter, checked, output, base_uri=name, force=force)
    session.finish(
        f"LoRA of rank {done.rank} (scale {done.scale:g}) merged into {done.layers} weights of {name}; audit "
        f"it with: platodef audit {done.folder} (embedding models: --pooling last)"
    )
