"""Which files of a repository a load reads, from its listing and its small files."""

from collections.abc import Collection
from pathlib import Path

from platodef_cli.attestation.oms import SIGNATURE
from platodef_cli.encoders.checks.configuration import check_configuration, parse_json
from platodef_cli.encoders.checks.layout import CONFIGURATIONS, choose, shards
from platodef_cli.encoders.checks.limits import Limits

_INDEX = "model.safetensors.index.json"
_TOKENIZER = "tokenizer.json"


def configurations_of(names: set[str]) -> list[str]:
    """Return the small files that decide what else is needed."""
    return [name for name in (*CONFIGURATIONS, _INDEX) if name in names]


def needed_files(
    folder: Path, names: set[str], where: str, limits: Limits, inner: Collection[str] = ()
) -> list[str]:
    """Return the files that a load reads, once the small files are there.

    Args:
        folder: Holds the small files.
        names: All files of the repository.
        where: What it is called in messages.
        limits: Bounds.
        inner: Paths of files in its folders, for messages.

    Raises:
        UsageError: It holds no model.
        RefusedError: Its weights are only in unsafe formats.
    """
    config = {}
    if "config.json" in names:
        config = parse_json((folder / "config.json").read_bytes(), f"{where}/config.json", limits)
    _, layout = choose(config, names, where, inner)
    weights = [layout.weights]
    if layout.weights.endswith(".index.json"):
        index = parse_json((folder / layout.weights).read_bytes(), f"{where}/{layout.weights}", limits)
        weights += shards(layout.weights, index, names)
    signature = [SIGNATURE] if SIGNATURE in names else []
    return [*layout.configurations, *weights, *signature]


def check_told(folder: Path, names: Collection[str], where: str, limits: Limits) -> None:
    """Check the configurations among the small files of a repository.

    Raises:
        PlatodefError: One of them is refused, as it would be once everything is there.
    """
    for name in sorted(set(names) - {_INDEX, _TOKENIZER}):
        place = f"{where}/{name}"
        check_configuration(parse_json((folder / name).read_bytes(), place, limits), place, limits)
