"""What the commands on feature files share: reading and writing them."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from platodef_cli.cli.outputs import STANDARD_STREAM, check_output, refuse_terminal
from platodef_cli.cli.session import Session
from platodef_cli.cli.sharded import STREAM_BYTES
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


def blocks_of(
    path: str, source_key: str, reference_keys: list[str] | None
) -> "tuple[int, FeatureTuples, Iterator[FeatureTuples]]":
    """Return the number of rows, some of the first, and all rows in blocks; of a file, a folder or ``-``.

    Raises:
        UsageError: It cannot be read.
    """
    from platodef_cli.features.stream import FeatureStream

    place = Path(path)
    if path != STANDARD_STREAM and (place.is_dir() or is_large(path)):
        stream = FeatureStream(place, source_key, reference_keys)
        return stream.rows, stream.files[0].read(0, 1), stream.blocks()
    tuples = read_features(path, source_key, reference_keys)
    return len(tuples), tuples, iter([tuples])


def is_large(name: str) -> bool:
    """Tell whether a feature file is one that should be read in blocks."""
    path = Path(name)
    return name != STANDARD_STREAM and path.is_file() and path.stat().st_size > STREAM_BYTES


def read_sample(
    session: Session, path: str, source_key: str, reference_keys: list[str] | None, most: int, seed: int
) -> "FeatureTuples":
    """Return the rows of a file, a folder or ``-``, or a random sample of ``most`` of the clean ones.

    Raises:
        UsageError: It cannot be read.
    """
    from platodef_cli.features.reservoir import Reservoir

    count, first, blocks = blocks_of(path, source_key, reference_keys)
    if count <= most and len(first) == count:
        return first
    reservoir = Reservoir(most, seed)
    for block in blocks:
        # what carries a trigger shall not take the place of what is clean
        reservoir.add(block if block.variants is None else block.select(block.variants == 0))
    kept = reservoir.result()
    if kept is None:
        raise UsageError(f"{path} holds no clean row; rows of variant 0 are")
    if reservoir.seen > len(kept):
        session.info(f"using {len(kept)} of {reservoir.seen} clean rows, drawn with seed {seed}")
    return kept


def read_calibration(
    session: Session, path: str, calibration: str | None, source_key: str, reference_keys: list[str] | None
) -> "FeatureTuples | None":
    """Return the clean rows that calibrate the threshold, where they are given.

    Raises:
        UsageError: They cannot be read, or both files are standard input.
    """
    if path == STANDARD_STREAM and calibration == STANDARD_STREAM:
        raise UsageError("only one of the two feature files can come from standard input")
    if calibration is None:
        return None
    return clean_rows(session, read_features(calibration, source_key, reference_keys))


def read_pair(
    session: Session, path: str, calibration: str | None, source_key: str, reference_keys: list[str] | None
) -> "tuple[FeatureTuples, FeatureTuples | None]":
    """Read the features to work on and, where given, the clean rows that calibrate the threshold.

    Raises:
        UsageError: One of them cannot be read, or both are standard input.
    """
    tuples = read_features(path, source_key, reference_keys)
    return tuples, read_calibration(session, path, calibration, source_key, reference_keys)


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
