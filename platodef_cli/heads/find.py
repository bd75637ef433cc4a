"""Where heads lie: a folder, those that are part of the package, those that were pulled from a hub."""

import os
from pathlib import Path

from platodef_cli.encoders.hub.hub_cache import COMMIT
from platodef_cli.encoders.reference import ModelReference, parse
from platodef_cli.errors import UnknownNameError, UsageError
from platodef_cli.resources import data_dir

DESCRIPTION = "head.json"
"""File that makes a folder one of heads."""


def pulled_directory() -> Path:
    """Return ``$PLATODEF_HEADS_DIR``, or ``platodef/heads`` in the user's data folder (XDG)."""
    if chosen := os.environ.get("PLATODEF_HEADS_DIR"):
        return Path(chosen).expanduser()
    from platformdirs import user_data_path

    return user_data_path("platodef") / "heads"


def find_heads(name: str) -> Path:
    """Return the folder of heads: a path that exists, the name of shipped ones, or a pulled Hub id.

    Raises:
        UsageError: The folder holds no heads.
        UnknownNameError: Neither a folder nor a shipped name.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / DESCRIPTION).is_file():
            raise UsageError(
                f"{folder} holds no heads ({DESCRIPTION} is missing); make some with `platodef fit`"
            )
        return folder
    if name.startswith("hf://") or ("/" in name and "@" in name):
        return _find_pulled(name)
    shipped = {entry.name: entry for entry in data_dir("pretrained_heads").iterdir() if entry.is_dir()}
    if name not in shipped:
        if "/" in name:
            raise UsageError(f"the heads folder {name} does not exist")
        raise UnknownNameError("head", name, shipped)
    return shipped[name]


def _find_pulled(name: str) -> Path:
    place = pulled_folder(pulled_directory(), name)
    if not place.is_dir():
        pinned = name if name.startswith("hf://") else f"hf://{name}"
        raise UsageError(
            f"the heads {name} are not on this machine; run `platodef heads pull {pinned}` first"
        )
    return place


def parse_pinned(uri: str) -> ModelReference:
    """Parse ``hf://org/name@COMMIT`` (``hf://`` may be left out).

    Raises:
        UsageError: It is not a Hub id, or not pinned to a full commit.
    """
    reference = parse(uri if uri.startswith("hf://") else f"hf://{uri}")
    if reference.revision is None or not COMMIT.match(reference.revision):
        raise UsageError(
            f"{uri!r} is not pinned: heads decide what counts as suspicious, so give the full commit, "
            "hf://org/name@<40 hex digits>"
        )
    return reference


def pulled_folder(root: Path, uri: str) -> Path:
    """Return the folder inside ``root`` in which heads of a pinned id are kept.

    Raises:
        UsageError: As :func:`parse_pinned`.
    """
    reference = parse_pinned(uri)
    assert reference.repository is not None
    assert reference.revision is not None
    return root / f"{reference.repository.replace('/', '--')}@{reference.revision}"
