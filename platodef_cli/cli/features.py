"""What the commands on feature files share: reading and writing them."""

from pathlib import Path
from typing import TYPE_CHECKING

from platodef_cli.cli.outputs import STANDARD_STREAM, check_output, refuse_terminal
from platodef_cli.cli.session import Session
from platodef_cli.disk import replacing
from platodef_cli.errors import UsageError

if TYPE_CHECKING:
    from platodef_cli.features.interface import FeatureTuples


def read_features(path: str, source_key: str, reference_keys: list[str] | None) -> "FeatureTuples":
    """Read a feature file, or standard input for ``-``.

    Raises:
        UsageError: It cannot be read, or standard input is a terminal.
    """
    import sys

    from platodef_cli.features.file import load_features

    if path == STANDARD_STREAM and sys.stdin.isatty():
        raise UsageError("standard input is a terminal; pipe a feature file into it or name one")
    return load_features(path, source_key=source_key, reference_keys=reference_keys)


def input_paths(*names: str | None) -> list[Path]:
    """Return the inputs that are files, to keep outputs from overwriting them."""
    return [Path(name) for name in names if name is not None and name != STANDARD_STREAM]


def clean_rows(session: Session, tuples: "FeatureTuples") -> "FeatureTuples":
    """Return the rows without trigger; the others are said."""
    if tuples.variants is None or not bool(tuples.variants.any()):
        return tuples
    clean = tuples.variants == 0
    session.info(f"using the {int(clean.sum())} clean of {len(tuples)} rows; the others carry triggers")
    return tuples.select(clean)


def read_pair(
    session: Session, path: str, calibration: str | None, source_key: str, reference_keys: list[str] | None
) -> "tuple[FeatureTuples, FeatureTuples | None]":
    """Read the features to work on and, where given, the clean rows that calibrate the threshold.

    Raises:
        UsageError: One of them cannot be read, or both are standard input.
    """
    if path == STANDARD_STREAM and calibration == STANDARD_STREAM:
        raise UsageError("only one of the two feature files can come from standard input")
    tuples = read_features(path, source_key, reference_keys)
    if calibration is None:
        return tuples, None
    return tuples, clean_rows(session, read_features(calibration, source_key, reference_keys))


def features_target(output: str, *inputs: str | None) -> Path | None:
    """Return where features will be written, None for standard output, before the work begins.

    Raises:
        UsageError: Nothing can be written there.
    """
    if output != STANDARD_STREAM:
        return check_output(Path(output), inputs=input_paths(*inputs))
    refuse_terminal()
    return None


def write_features(target: Path | None, tuples: "FeatureTuples") -> None:
    """Write a feature file whole or not at all; None is standard output."""
    from platodef_cli.features.file import save_features

    if target is None:
        save_features(STANDARD_STREAM, tuples)
        return
    with replacing(target) as temporary:
        save_features(temporary, tuples)
