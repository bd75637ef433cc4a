"""Files that judge: read with care, and never from inside what is judged."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from platodef_cli.disk import explaining, read_at_most, real_path
from platodef_cli.errors import UsageError

_MAX_BYTES = 2**20


def refuse_inside(path: Path, models: Sequence[str], what: str) -> None:
    """Refuse a file that came with an audited model: its author would judge himself.

    Args:
        path: The file.
        models: Names or folders of the model, as users write them.
        what: What the file is for, in errors.

    Raises:
        UsageError: The file lies in the model's folder or in its snapshot of the Hub cache.
    """
    places = (path.absolute(), real_path(path))
    for model in models:
        name = model.removeprefix("hf://").partition("@")[0]
        cached = f"models--{name.replace('/', '--')}"
        folder = Path(model)
        inside = folder.is_dir() and any(
            place.is_relative_to(root) for place in places for root in (folder.absolute(), real_path(folder))
        )
        if inside or any(cached in place.parts for place in places):
            raise UsageError(
                f"{what} {path} lies inside the audited model {model}, and a model does not judge itself; "
                "keep it elsewhere, and run platodef from another folder"
            )


def read_toml(path: Path, what: str, most: int = _MAX_BYTES) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        UsageError: It is missing, too large or not TOML.
    """
    try:
        with explaining(f"cannot read {what} {path}"):
            content = read_at_most(path, most)
            if len(content) > most:
                raise UsageError(f"{what} {path} is larger than {most >> 20} MiB; check the path")
        return tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:  # beside its own, those of dates and of long integers
        raise UsageError(f"{what} {path} is not TOML: {str(error)[:160]}") from error
