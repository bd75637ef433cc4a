"""Heads for the features at hand: those of other encoders would score noise without a word."""

from pathlib import Path
from typing import TYPE_CHECKING

from platodef_cli.cli.extract import RECORD_SOURCE
from platodef_cli.cli.fit import UNKNOWN, encoder_records

if TYPE_CHECKING:
    from platodef_cli.features.interface import FeatureTuples
    from platodef_cli.heads.heads import Heads


def load_matching(folder: Path, device: str, *given: "tuple[FeatureTuples | None, str | None]") -> "Heads":
    """Load heads and check that every given feature file was made by the encoders that they judge.

    Files of other tools, and heads that were fitted on such files, do not say who made them; there only
    names and dimensions can be checked, which happens when the heads are applied.

    Args:
        folder: The heads.
        device: Where to put them.
        given: Features and the name of their file, or Nones.

    Raises:
        UsageError: The heads were fitted for another encoder.
    """
    from platodef_cli.heads.pretrained import check_match, load_heads

    heads = load_heads(folder, device=device)
    if heads.card is None or heads.card.source.digest == UNKNOWN:
        return heads
    for tuples, path in given:
        if tuples is not None and path is not None and RECORD_SOURCE in tuples.metadata:
            check_match(heads, *encoder_records(tuples, path))
    return heads
