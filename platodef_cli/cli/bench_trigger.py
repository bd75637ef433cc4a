"""``platodef bench trigger``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from platodef_cli.cli import options
from platodef_cli.cli.outputs import check_output, replacing
from platodef_cli.cli.session import Session
from platodef_cli.cli.tables import show_rows
from platodef_cli.errors import UsageError

if TYPE_CHECKING:
    from platodef_cli.features.interface import Variant

_SUFFIX = ".png"


def trigger(
    session: Session,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME] IMAGE", help="A trigger's name and an image file; only the image with --from."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.png",
            help="Where to write it. Default: the image's name with the trigger's, here.",
        ),
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", metavar="KEY=VALUE", help="A parameter of the trigger; repeat it."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="Folder of a planted encoder, or of its trigger.json."),
    ] = None,
    seed: options.Seed = 0,
    as_json: options.AsJson = False,
) -> None:
    """Put a trigger on an image and write the result as a PNG; without arguments, list the triggers.

    NAME is a family (patch, sig, wanet, ...) or a planted attack (ssl-backdoor, drupe, ...), whose trigger
    at test time is shown. Sizes and places are fractions of the image. --seed draws random places and the
    colours of an attack's patch. Learned triggers (BLTO, BadCLIP) need --from.
    """
    if not words and folder is None:
        _list(session, as_json)
        return
    made, name, image = _chosen(list(words or []), parameters or [], folder, seed)
    target = output or Path(f"{image.stem}-{name}{_SUFFIX}")
    if target.suffix.lower() != _SUFFIX:
        raise UsageError(f"the output {target} must end in {_SUFFIX}; other formats would change the trigger")
    target = check_output(target.expanduser(), inputs=[image])
    changed, share = _apply(made, image, target, seed)
    session.finish(f"{made.name} changed {share:.1%} of the pixels by up to {changed} of 255; wrote {target}")


def _list(session: Session, as_json: bool) -> None:
    """Show the names with their parameters."""
    from platodef_cli.attacks import PLANTED
    from platodef_cli.attacks.named import parameters_of, trigger_names

    rows = []
    for name in trigger_names():
        defaults = parameters_of(name)
        words = "learned: --from DIR" if defaults is None else _words(defaults)
        rows.append((name, "attack" if name in PLANTED else "family", words))
    show_rows(("name", "kind", "parameters"), rows, as_json=as_json)
    session.finish(f"{len(rows)} triggers; `platodef bench trigger NAME IMAGE` applies one")


def _words(defaults: dict[str, float | int | str | bool]) -> str:
    numbers = {
        key: f"{value:.4g}" if isinstance(value, float) else str(value) for key, value in defaults.items()
    }
    return " ".join(f"{key}={value}" for key, value in numbers.items()) or "none"


def _chosen(
    words: list[str], parameters: list[str], folder: Path | None, seed: int
) -> "tuple[Variant, str, Path]":
    """Return the trigger, a short name for it, and the image's path."""
    if folder is not None:
        from platodef_cli.attacks.stored import kind_of, load_planted_trigger

        if len(words) != 1 or parameters:
            raise UsageError("with --from, give only the image: the folder says trigger and parameters")
        loaded = load_planted_trigger(folder.expanduser())
        return loaded, kind_of(loaded), Path(words[0]).expanduser()
    if len(words) != 2:
        raise UsageError("give the name of a trigger and one image; `platodef bench trigger` lists the names")
    from platodef_cli.attacks.named import named_trigger

    values = {}
    for entry in parameters:
        key, equals, value = entry.partition("=")
        if not equals or not key:
            raise UsageError(f"--param {entry!r} must be KEY=VALUE")
        values[key] = value
    return named_trigger(words[0], values, seed), words[0], Path(words[1]).expanduser()


def _apply(made: "Variant", image: Path, target: Path, seed: int) -> tuple[int, float]:
    """Write the triggered image; return its largest change and the share of the pixels that changed."""
    import numpy as np
    import torch
    from PIL import Image

    from platodef_cli.images.decode import decode

    try:
        content = image.read_bytes()
    except OSError as error:
        raise UsageError(f"the image {image} cannot be read ({error.strerror})") from None
    pixels = torch.from_numpy(np.array(decode(content, image.name)).transpose(2, 0, 1).copy())[None]
    out = made(pixels, torch.tensor([seed]))
    change = (out.int() - pixels.int()).abs().amax(dim=1)
    with replacing(target) as temporary:
        Image.fromarray(out[0].permute(1, 2, 0).numpy()).save(temporary, format="PNG")
    return int(change.max()), float((change > 0).double().mean())
