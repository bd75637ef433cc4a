"""``platodef bench trigger``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from platodef_cli.cli import options
from platodef_cli.cli.outputs import check_output
from platodef_cli.cli.session import Session
from platodef_cli.cli.tables import show_rows
from platodef_cli.disk import replacing
from platodef_cli.errors import UsageError
from platodef_cli.plugins import blaming, plugin_of

if TYPE_CHECKING:
    from torch import Tensor

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
    at test time is shown. Sizes and places are fractions of the image; where a paper has other fractions at
    224 pixels than at 32 (bad-encoder, drupe, clip-backdoor), images of 64 pixels and more get the former.
    --seed draws random places and the colours of an attack's patch. Learned triggers (BLTO, BadCLIP) need
    --from.
    """
    if not words and folder is None:
        _list(session, as_json)
        return
    asked, image, values = _asked(list(words or []), parameters or [], folder)
    pixels = _read(image)
    made, name, note = _made(asked, values, folder, seed, min(pixels.shape[-2:]))
    target = output or Path(f"{image.stem}-{name}{_SUFFIX}")
    if target.suffix.lower() != _SUFFIX:
        raise UsageError(f"the output {target} must end in {_SUFFIX}; other formats would change the trigger")
    target = check_output(target.expanduser(), inputs=[image])
    changed, share = _apply(made, pixels, target, seed)
    session.finish(
        f"{made.name} changed {share:.1%} of the pixels by up to {changed} of 255{note}; wrote {target}"
    )


def _list(session: Session, as_json: bool) -> None:
    """Show the names with their parameters."""
    from platodef_cli.bench.attacks import PLANTED
    from platodef_cli.bench.attacks.named import LARGE, large_side, parameters_of, trigger_names

    rows = []
    for name in trigger_names():
        try:
            defaults, large = parameters_of(name), large_side(name)
        except UsageError as error:  # of a plug-in
            rows.append((name, "family", str(error)))
            continue
        words = "learned: --from DIR" if defaults is None else _words(defaults)
        if large is not None:
            words += f" ({large:.4g} from {LARGE} pixels)"
        rows.append((name, "attack" if name in PLANTED else "family", words))
    show_rows(("name", "kind", "parameters"), rows, as_json=as_json)
    session.finish(f"{len(rows)} triggers; `platodef bench trigger NAME IMAGE` applies one")


def _words(defaults: dict[str, float | int | str | bool]) -> str:
    numbers = {
        key: f"{value:.4g}" if isinstance(value, float) else str(value) for key, value in defaults.items()
    }
    return " ".join(f"{key}={value}" for key, value in numbers.items()) or "none"


def _asked(words: list[str], parameters: list[str], folder: Path | None) -> tuple[str, Path, dict[str, str]]:
    """Return the trigger's name (empty with a folder), the image's path and the parameters."""
    if folder is not None:
        if len(words) != 1 or parameters:
            raise UsageError("with --from, give only the image: the folder says trigger and parameters")
        return "", Path(words[0]).expanduser(), {}
    if len(words) != 2:
        raise UsageError("give the name of a trigger and one image; `platodef bench trigger` lists the names")
    values = {}
    for entry in parameters:
        key, equals, value = entry.partition("=")
        if not equals or not key:
            raise UsageError(f"--param {entry!r} must be KEY=VALUE")
        values[key] = value
    return words[0], Path(words[1]).expanduser(), values


def _read(image: Path) -> "Tensor":
    """Return a file's pixels, uint8 ``[1, 3, H, W]``."""
    import numpy as np
    import torch

    from platodef_cli.images.decode import decode

    try:
        content = image.read_bytes()
    except OSError as error:
        raise UsageError(f"the image {image} cannot be read ({error.strerror})") from None
    return torch.from_numpy(np.array(decode(content, image.name)).transpose(2, 0, 1).copy())[None]


def _made(
    name: str, values: dict[str, str], folder: Path | None, seed: int, size: int
) -> "tuple[Variant, str, str]":
    """Return the trigger for an image of ``size`` pixels, a short name for it, and a remark."""
    if folder is not None:
        from platodef_cli.triggers.stored import kind_of, load_planted_trigger

        loaded = load_planted_trigger(folder.expanduser())
        return loaded, kind_of(loaded), ""
    from platodef_cli.bench.attacks.named import LARGE, large_side, named_trigger, parameters_of

    large = large_side(name)
    if large is None or size < LARGE or "side" in values:
        return named_trigger(name, values, seed), name, ""
    made = named_trigger(name, {**values, "side": repr(large)}, seed)
    small = (parameters_of(name) or {})["side"]
    return made, name, f" (the patch of the paper at 224 pixels; -p side={small:g} for that at 32)"


def _apply(made: "Variant", pixels: "Tensor", target: Path, seed: int) -> tuple[int, float]:
    """Write the triggered image; return its largest change and the share of the pixels that changed."""
    import torch
    from PIL import Image

    with blaming(plugin_of(made)):
        out = made(pixels, torch.tensor([seed]))
    change = (out.int() - pixels.int()).abs().amax(dim=1)
    with replacing(target) as temporary:
        Image.fromarray(out[0].permute(1, 2, 0).numpy()).save(temporary, format="PNG")
    return int(change.max()), float((change > 0).double().mean())
