"""What options about text references may say; without torch, so that the command line starts quickly."""

from collections.abc import Sequence
from pathlib import Path

from platodef_cli.errors import UnknownNameError, UsageError

PREFIX = "text:"
"""How the id of a text reference begins."""
TEMPLATES = ("clip-80", "clip-7", "photo")
"""The 80 templates of CLIP for ImageNet, the 7 best of them, and ``a photo of a NAME.`` alone."""
COLUMN, BY_CLASS = "column", "templates"
CHOICES = f"{COLUMN}, {BY_CLASS} or a .parquet file that `platodef caption` wrote"


def is_text(uri: str) -> bool:
    """Tell the id of a text reference from that of an encoder."""
    return uri.startswith(PREFIX)


def check_templates(name: str) -> str:
    """Return the name of a set of templates.

    Raises:
        UnknownNameError: There is none of that name.
    """
    if name not in TEMPLATES:
        raise UnknownNameError("set of templates", name, TEMPLATES)
    return name


def check_captions(value: str | Path | None) -> str | None:
    """Return what ``--captions`` was given.

    Raises:
        UsageError: It is neither a known way nor a file.
    """
    if value is None or str(value) in (COLUMN, BY_CLASS):
        return None if value is None else str(value)
    if Path(value).suffix.lower() != ".parquet" or not Path(value).is_file():
        raise UsageError(f"--captions {value}: give {CHOICES}")
    return str(value)


MOST_REFERENCES = 100
"""References of an audit; each costs its memory and its time."""


def check_references(references: Sequence[str]) -> None:
    """Check that an audit has a reference that sees pixels, and no more references than it can hold.

    Raises:
        UsageError: All references are text towers, or there are very many.
    """
    if len(references) > MOST_REFERENCES:
        raise UsageError(
            f"{len(references)} references are more than {MOST_REFERENCES}: all are held in memory, and each "
            "sees every changed image; give a few of different origin, two are usual"
        )
    if references and all(map(is_text, references)):
        raise UsageError(
            "all references are text towers, and a sentence does not change with the image, so that none "
            "shows what a change does to an honest encoder; add a visual reference "
            "(extract, fit, score and purify work with text references alone)"
        )


def check_sentences(
    references: Sequence[str], captions: str | Path | None, captioner: str | None, recaption: bool
) -> None:
    """Check that options about sentences agree, and that a reference reads them.

    Raises:
        UsageError: They do not, or there is no text reference.
    """
    if captioner is not None and captions is not None:
        raise UsageError(
            f"--captioner writes the captions, --captions {captions} gives others; give one of them"
        )
    if recaption and captioner is None:
        raise UsageError("--recaption makes captions of changed images; name the model with --captioner")
    if not any(map(is_text, references)) and (captions or captioner):
        named = "--captions" if captions else "--captioner"
        raise UsageError(f"{named}: no reference reads sentences; add one as -r {PREFIX}org/name")
