"""Where results go: checked before the long work, written whole or not at all."""

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from platodef_cli.disk import explaining, is_special, real_path, replacing
from platodef_cli.errors import UsageError
from platodef_cli.registry import Registry
from platodef_cli.temporary import remove_left_overs

STANDARD_STREAM = "-"
PREVIOUS = ".previous"


@dataclass(frozen=True)
class Output:
    """One result that the user asked for.

    Attributes:
        format: A row of the table of formats.
        path: Where to write it, or None for the standard stream of the format.
    """

    format: str
    path: Path | None


def check_output(path: Path, *, inputs: Sequence[Path] = ()) -> Path:
    """Return ``path`` if a file can be written there.

    Raises:
        UsageError: It is a directory or one of the ``inputs``, or its folder is missing or read-only.
    """
    if path.is_dir():
        raise UsageError(f"the output {path} is a directory; name a file inside it")
    parent = path.parent
    if not parent.is_dir():
        raise UsageError(f"the folder {parent} of the output {path.name} does not exist; create it first")
    target = path if path.exists() else parent
    if not os.access(target, os.W_OK) or not os.access(parent, os.W_OK):
        raise UsageError(f"no permission to write the output {path}; choose another place")
    for source in inputs:
        if source.exists() and path.exists() and path.samefile(source):
            raise UsageError(f"the output {path} would overwrite its own input; choose another name")
    try:
        # permissions do not tell everything, above all to root
        with tempfile.TemporaryFile(dir=None if is_special(path) else real_path(path).parent):
            pass
        if not is_special(path):
            remove_left_overs(real_path(path).parent)
    except OSError as error:
        raise UsageError(f"cannot write the output {path} ({error.strerror}); choose another place") from None
    return path


def check_output_folder(path: Path) -> Path:
    """Return ``path`` if a folder of results can be made there.

    Raises:
        UsageError: It is a file, or the nearest existing parent is missing or read-only.
    """
    if path.exists() and not path.is_dir():
        raise UsageError(f"the output folder {path} is a file; name a folder")
    parent = path if path.is_dir() else path.absolute().parent
    if not parent.is_dir():
        raise UsageError(f"the folder {parent} of the output {path.name} does not exist; create it first")
    if not os.access(parent, os.W_OK):
        raise UsageError(f"no permission to write in {parent}; choose another place")
    return path


def parse_outputs(specs: Sequence[str], formats: Registry, *, default: str) -> tuple[Output, ...]:
    """Parse and check ``FORMAT[=PATH]`` options; ``-`` as a path means the standard stream.

    Raises:
        UsageError: Unknown format, a path that cannot be written, or two results in one place.
    """
    outputs = []
    for spec in specs or (default,):
        name, equals, target = spec.partition("=")
        if name not in formats:
            formats.load(name)
        if equals and not target:
            raise UsageError(f"-o {spec}: a path is missing after '='")
        path = None if target in ("", STANDARD_STREAM) else check_output(Path(target).expanduser())
        outputs.append(Output(name, path))
    places = [
        ("stderr" if output.format == "terminal" else "stdout")
        if output.path is None
        else output.path.absolute()
        for output in outputs
    ]
    for index, place in enumerate(places):
        if place in places[:index]:
            raise UsageError(
                f"two results would go to {place}; give one of them another path (-o FORMAT=PATH)"
            )
    return tuple(outputs)


def write_text(path: Path, text: str, *, like: Path | None = None) -> None:
    """Write UTF-8 text whole or not at all, with the mode of the old file, or of ``like``."""
    with replacing(path, like=like) as temporary:
        temporary.write_text(text, encoding="utf-8")


def set_aside(outputs: Sequence[Output]) -> dict[Path, Path]:
    """Rename the results of an earlier run to ``NAME.previous``.

    Nobody shall take them for those of the run that begins, however it ends: a killed one can say nothing.

    Args:
        outputs: What the run will write.

    Returns:
        Path of a result, links followed -> where the earlier one is now.

    Raises:
        UsageError: A result cannot be renamed.
    """
    moved = {}
    for output in outputs:
        target = None if output.path is None else real_path(output.path)
        if target is None or not target.is_file():
            continue
        previous = target.with_name(target.name + PREVIOUS)
        with explaining(f"cannot set the earlier result {target} aside as {previous.name}"):
            os.replace(target, previous)
        moved[target] = previous
    return moved


def refuse_terminal() -> None:
    """Refuse to send binary data to a terminal.

    Raises:
        UsageError: Standard output is a terminal.
    """
    if sys.stdout.isatty():
        raise UsageError("binary data would go to the terminal; redirect it, or name a file with -o")


def to_stdout(text: str) -> None:
    """Write a result to stdout as UTF-8, whatever the locale."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8"))
    sys.stdout.buffer.flush()
