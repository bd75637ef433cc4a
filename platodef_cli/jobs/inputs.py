"""What a piece of work depends on: folders and files by their content, models on the Hub by their commit."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from platodef_cli.encoders.hub.hub_cache import COMMIT
from platodef_cli.encoders.reference import parse
from platodef_cli.errors import PlatodefError, UsageError
from platodef_cli.records.run import InputState

_BLOCK = 2**20


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hex.

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def state_of(path: Path, known: InputState | None = None) -> InputState:
    """Return what a folder or file holds.

    Args:
        path: It need not exist: what is missing is a state too.
        known: What an earlier run saw; while sizes and times are the same, nothing is read again.

    Raises:
        UsageError: Something in it cannot be read.
    """
    place = str(path.absolute())
    try:
        files = list(_files(path))
        stamp = hashlib.sha256()
        for name, file in files:
            found = file.stat()
            facts = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
            stamp.update(f"{name}\0{facts}\n".encode("utf-8", "surrogateescape"))
        if known is not None and known.path == place and known.stamp == stamp.hexdigest():
            return known
        content = hashlib.sha256()
        for name, file in files:
            content.update(f"{name}\0{file_digest(file)}\n".encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise UsageError(f"cannot read {error.filename or path}: {error.strerror}") from None
    return InputState(path=place, stamp=stamp.hexdigest(), digest=content.hexdigest())


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield name and path of every file below a path; links to files are followed, those to folders not."""
    if path.is_file():
        yield "", path
        return
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            file = Path(folder) / name
            if file.is_file():
                yield file.relative_to(path).as_posix(), file


class States:
    """States of folders and files, each looked at once in a run.

    Args:
        known: What earlier runs saw.
    """

    def __init__(self, known: Iterable[InputState] = ()):
        self._known = {state.path: state for state in known}
        self._seen: dict[str, InputState] = {}

    def of(self, path: Path, known: Iterable[InputState] = ()) -> InputState:
        """Return what a path holds; ``known`` is what one more earlier run saw."""
        place = str(path.absolute())
        if place not in self._seen:
            before = next((state for state in known if state.path == place), self._known.get(place))
            self._seen[place] = state_of(path, before)
        return self._seen[place]


def local_inputs(texts: Mapping[str, str]) -> dict[str, Path]:
    """Return those of the given ids and addresses that are files or folders of this machine."""
    found = {}
    for name, text in texts.items():
        if "://" in text or text.startswith("builtin:"):
            continue
        path = Path(text).expanduser()
        if path.exists() or text.startswith(("/", "./", "../", "~")):
            found[name] = path
    return found


def pinned_id(model: str, revision: str | None, *, offline: bool) -> tuple[str, str | None, str]:
    """Return the id of a model at its commit, that commit, and why it is not known where it is not.

    Args:
        model: Any id.
        revision: Of the model, or None.
        offline: Ask nobody.

    Returns:
        For folders and embedded models the id as it is, and no commit.
    """
    try:
        reference = parse(model, revision)
    except PlatodefError:
        return model, None, ""  # the audit says what is wrong with it
    if reference.repository is None:
        return model, None, ""
    if reference.revision is not None and COMMIT.match(reference.revision):
        return reference.at(reference.revision), reference.revision, ""
    if offline:
        return reference.uri, None, "the Hub was not asked (offline)"
    from huggingface_hub import HfApi

    try:
        commit = HfApi().model_info(reference.repository, revision=reference.revision, timeout=20).sha
    except Exception as error:  # whatever it is, the audit of this model meets it again, and says it
        return reference.uri, None, f"the Hub does not say its commit ({type(error).__name__})"
    if not commit:
        return reference.uri, None, "the Hub does not say its commit"
    return reference.at(commit), commit, ""
