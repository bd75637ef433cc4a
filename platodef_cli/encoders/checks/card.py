"""The model card beside a model: README.md with YAML in front, as the Hub reads it. Claims, never checked.

Source: https://huggingface.co/docs/hub/model-cards
"""

from pathlib import Path
from typing import Any

from platodef_cli.disk import open_regular, resolve_inside
from platodef_cli.errors import RefusedError
from platodef_cli.records import CardRecord

CARD = "README.md"
_MOST_BYTES = 2**16
_LONGEST = 200
_MOST_BASES = 10


def read_card(directory: Path, *, follow_links: bool = False) -> CardRecord | None:
    """Return what the card in a model folder says; None where there is none, or none that can be read.

    Args:
        directory: The model folder.
        follow_links: Links may lead out of it.
    """
    try:
        with open_regular(resolve_inside(directory, CARD, follow_links=follow_links)) as (descriptor, _):
            with open(descriptor, "rb", closefd=False) as stream:
                text = stream.read(_MOST_BYTES).decode("utf-8", "replace")
    except (RefusedError, OSError):
        return None
    front, found, _ = text.removeprefix("---").partition("\n---")
    if not text.startswith("---") or not found:
        return None
    import yaml

    try:
        # aliases may make a small text a large value
        value: Any = None if "*" in front else yaml.safe_load(front)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    license_name = value.get("license_name") or value.get("license")
    bases = value.get("base_model")
    entries = bases if isinstance(bases, list) else [bases]
    return CardRecord(
        license=license_name[:_LONGEST] if isinstance(license_name, str) and license_name.strip() else None,
        base_models=tuple(entry[:_LONGEST] for entry in entries if isinstance(entry, str))[:_MOST_BASES],
    )
