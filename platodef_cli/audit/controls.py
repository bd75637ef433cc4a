"""The positive controls that the package carries: what the searches find in the embedded references.

``platodef bench controls`` writes them; elsewhere ``--positive-controls`` measures them within an audit.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from platodef_cli.audit.packaged import read_packaged
from platodef_cli.disk import canonical_json
from platodef_cli.errors import IncompleteError
from platodef_cli.records import PositiveControls, SearchPowerRecord
from platodef_cli.resources import data_dir
from platodef_cli.search.interface import SearchConfig
from platodef_cli.search.planting import PLANTING_VERSION, Planting
from platodef_cli.search.run import SEARCH_VERSION

FILE = "controls.json"


def shipped_power(
    *, references: Sequence[str], images: str, search_images: int, digests: Mapping[str, str]
) -> tuple[SearchPowerRecord, ...]:
    """Return what is known of an audit's searches before it: nothing where the audit differs in anything.

    Args:
        references: Digests of the references of the audit.
        images: Where its images come from.
        search_images: How many of them are searched with.
        digests: Kind of search -> :func:`search_digest`.

    Raises:
        IncompleteError: The file of this installation is damaged.
    """
    try:
        folder = data_dir("controls")
    except IncompleteError:  # without them nothing is known of the searches, and reports say so
        return ()
    known = _read(folder / FILE)
    if (
        known is None
        or sorted(known.references.values()) != sorted(references)
        or known.images.partition("?")[0] != images.partition("?")[0]
        or known.search_images != search_images
    ):
        return ()
    return tuple(
        record for record in known.power if known.searches.get(record.kind) == digests.get(record.kind)
    )


def search_digest(settings: SearchConfig, numbers: Sequence[int], precisions: Sequence[str]) -> str:
    """Return what tells one kind of search from others that may find another share of planted backdoors.

    Args:
        settings: The searches.
        numbers: Places of those of the kind.
        precisions: Of the gradients of every reference.
    """
    values = {
        "version": SEARCH_VERSION,
        "planting": {"version": PLANTING_VERSION, **asdict(Planting())},
        "searches": [settings.key(number) for number in numbers],
        "precisions": sorted(precisions),
    }
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()


@lru_cache(maxsize=1)
def _read(path: Path) -> PositiveControls | None:
    found = read_packaged(path, PositiveControls)
    return None if found is None else found[0]
