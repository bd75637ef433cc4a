"""Heads for the features at hand: those of other encoders would score noise without a word."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from platodef_cli.features.interface import FeatureTuples
    from platodef_cli.heads.heads import Heads


def load_matching(folder: Path, device: str, *given: "tuple[FeatureTuples | None, str | None]") -> "Heads":
    """Load heads and check that every given feature file was made by the encoders that they judge.

    Args:
        folder: The heads.
        device: Where to put them.
        given: Features and the name of their file, or Nones.

    Raises:
        UsageError: The heads were fitted for another encoder.
    """
    from platodef_cli.heads.origin import check_origin
    from platodef_cli.heads.pretrained import load_heads

    heads = load_heads(folder, device=device)
    for tuples, path in given:
        if tuples is not None and path is not None:
            check_origin(heads, tuples, path)
    return heads
