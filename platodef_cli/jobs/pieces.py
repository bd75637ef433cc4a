"""The engine of everything that makes one file per piece: a journal, a manifest, resuming, executors.

A piece becomes a file by a pure function of its input and of the settings of the work. The file is written
under a temporary name and renamed; the journal, which only the process that distributes the pieces writes, is
appended; when all are there, ``manifest.json`` is written: equal inputs and settings give equal manifests,
wherever the pieces were made.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from platodef_cli.disk import TEMPORARY, canonical_json, explaining, holder_of, write_atomically
from platodef_cli.errors import IncompleteError, PlatodefError, UsageError
from platodef_cli.features.cache import key_digest
from platodef_cli.jobs.inputs import file_digest
from platodef_cli.progress import SILENT, Progress

MANIFEST, JOURNAL, LOCK = "manifest.json", ".journal.jsonl", ".lock"
_LONGEST_LINE = 1 << 20
_NAMED = 3
Counts = dict[str, int]


@dataclass(frozen=True)
class Piece:
    """One file to make.

    Attributes:
        name: Its name in the folder of results.
        path: The local file that it is made from, or None where ``key`` says it all.
        key: What else tells its input from others.
        spec: What the work needs to know; JSON.
    """

    name: str
    path: str | None = None
    key: str = ""
    spec: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Made:
    """A file that was made.

    Attributes:
        name: Its name.
        sha256: Of its bytes.
        size: Bytes.
        counts: Rows, flagged rows and the like.
        input: SHA-256 of the file that it was made from, or the key of the piece.
    """

    name: str
    sha256: str
    size: int
    counts: Counts
    input: str


class Live(Protocol):
    """A work that has loaded what it needs, in the process in which it runs."""

    def make(self, piece: Piece, target: Path) -> Counts:
        """Write the file of a piece to ``target``, which is a temporary name."""

    def close(self) -> None:
        """Free what was loaded."""


class Work(Protocol):
    """What is done to every piece; travels to other processes."""

    def settings(self) -> Mapping[str, Any]:
        """Return all that the files depend on, apart from the pieces; JSON."""

    def start(self) -> Live:
        """Load what it needs."""


Failure = tuple[Piece, str, int]  # (piece, message, exit code)
Outcome = Made | Failure


class Executor(Protocol):
    """Where pieces are made."""

    def run(self, work: Work, pieces: Sequence[Piece], folder: Path) -> Iterator[Outcome]:
        """Yield how each piece ended, in any order; a piece that fails stops no other."""

    def close(self) -> None:
        """Free what it holds."""


class InProcess:
    """One piece after the other, in this process; what the work loaded stays for the next run."""

    def __init__(self) -> None:
        self._live: Live | None = None

    def run(self, work: Work, pieces: Sequence[Piece], folder: Path) -> Iterator[Outcome]:
        """Make the pieces; see :class:`Executor`."""
        for piece in pieces:
            if self._live is None:
                self._live = work.start()
            yield make(self._live, piece, folder)

    def close(self) -> None:
        """Free what the work loaded."""
        if self._live is not None:
            self._live.close()
            self._live = None


def make(live: Live, piece: Piece, folder: Path) -> Outcome:
    """Make the file of a piece: the same function in every executor.

    The file appears complete or not at all. What the piece was made from is hashed before and looked at
    after, so that a file that grew meanwhile is no result.
    """
    target = folder / piece.name
    temporary = folder / f"{TEMPORARY}{secrets.token_hex(8)}-{piece.name}"
    try:
        before = _stat(piece)
        source = piece.key if piece.path is None else file_digest(Path(piece.path))
        counts = live.make(piece, temporary)
        if _stat(piece) != before:
            raise UsageError(f"{piece.path} changed while it was read; give it again when it is complete")
        made = Made(piece.name, file_digest(temporary), temporary.stat().st_size, counts, source)
        os.replace(temporary, target)
        return made
    except PlatodefError as error:
        return piece, str(error), error.exit_code
    except OSError as error:
        return piece, f"{error.strerror or error}: {error.filename or piece.name}", IncompleteError.exit_code
    finally:
        temporary.unlink(missing_ok=True)


def _stat(piece: Piece) -> tuple[int, int, int] | None:
    if piece.path is None:
        return None
    found = os.stat(piece.path)
    return found.st_size, found.st_mtime_ns, found.st_ino


@dataclass(frozen=True)
class Result:
    """What a run left.

    Attributes:
        made: All files, in the order of the pieces.
        before: Number of them that an earlier run had made.
        failures: Pieces that could not be made.
    """

    made: tuple[Made, ...]
    before: int
    failures: tuple[Failure, ...]

    def total(self, count: str) -> int:
        """Return the sum of a count over all files."""
        return sum(made.counts.get(count, 0) for made in self.made)

    def check(self) -> None:
        """Raise where a piece failed.

        Raises:
            PlatodefError: Of the kind of the worst failure; the message names some.
        """
        if not self.failures:
            return
        named = "; ".join(f"{piece.name}: {message}" for piece, message, _ in self.failures[:_NAMED])
        rest = f"; and {len(self.failures) - _NAMED} more" if len(self.failures) > _NAMED else ""
        codes = {code for _, _, code in self.failures}
        kind = UsageError if codes == {UsageError.exit_code} else IncompleteError
        raise kind(
            f"{len(self.failures)} of {len(self.failures) + len(self.made)} shards failed ({named}{rest}); "
            "the others are kept: the same command tries these again"
        )


class Folder:
    """A folder of results, held by one run at a time.

    Args:
        path: It is made where it is missing.

    Raises:
        UsageError: Another run holds it, or it cannot be made.
    """

    def __init__(self, path: Path):
        self.path = path
        with explaining(f"cannot make the folder {path}"):
            path.mkdir(exist_ok=True)
            self._lock = FileLock(path / LOCK, timeout=0)
            try:
                self._lock.acquire()
            except Timeout:
                raise UsageError(
                    f"another run works in {path} ({holder_of(path / LOCK)}); wait for it, or choose another "
                    "folder"
                ) from None
        self._known = dict(self._read())

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def run(
        self,
        work: Work,
        pieces: Sequence[Piece],
        executor: Executor,
        *,
        progress: Progress = SILENT,
        title: str = "making shards",
    ) -> Result:
        """Make the pieces that are not there yet, and the manifest.

        Raises:
            UsageError: Two pieces have one name.
            IncompleteError: The folder cannot be written.
        """
        names = [piece.name for piece in pieces]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UsageError(f"two inputs would become {twice}; rename one of them")
        settings = key_digest(dict(work.settings()))
        made: dict[str, Made] = {}
        failures: list[Failure] = []
        with progress.step(title, len(pieces)) as task:
            for piece in pieces:
                kept = self._kept(piece, settings)
                if kept is not None:
                    made[piece.name] = kept
                    task.advance()
            before = len(made)
            left = [piece for piece in pieces if piece.name not in made]
            inputs = {piece.name: piece for piece in left}
            for outcome in executor.run(work, left, self.path):
                task.advance()
                if isinstance(outcome, Made):
                    made[outcome.name] = outcome
                    self._note(outcome, inputs[outcome.name], settings)
                else:
                    failures.append(outcome)
        ordered = tuple(made[name] for name in names if name in made)
        failures.sort(key=lambda failure: names.index(failure[0].name))
        if not failures:
            self._finish(work, ordered)
            for left_over in self.path.glob(f"{TEMPORARY}*"):
                left_over.unlink(missing_ok=True)  # of a worker that was killed
        return Result(ordered, before, tuple(failures))

    def _kept(self, piece: Piece, settings: str) -> Made | None:
        """Return what an earlier run made of the same input by the same work, its file unharmed."""
        entry = self._known.get(piece.name)
        if entry is None or entry["settings"] != settings:
            return None
        target = self.path / piece.name
        try:
            if entry["stamp"] != stamp(target) and file_digest(target) != entry["sha256"]:
                return None
            if piece.path is None:
                same = entry["input"] == piece.key
            else:
                source = Path(piece.path)
                same = entry["source"] == stamp(source) or file_digest(source) == entry["input"]
        except OSError:
            return None
        if not same:
            return None
        return Made(piece.name, entry["sha256"], entry["size"], entry["counts"], entry["input"])

    def _note(self, made: Made, piece: Piece, settings: str) -> None:
        with explaining(f"cannot write in {self.path}", IncompleteError):
            source = None if piece.path is None else stamp(Path(piece.path))
            entry = {**asdict(made), "settings": settings, "source": source}
            entry["stamp"] = stamp(self.path / made.name)
            self._known[made.name] = entry
            with (self.path / JOURNAL).open("a", encoding="utf-8") as stream:
                stream.write(canonical_json(entry) + "\n")

    def _read(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the entries of the journal; a line that was cut off by a kill is none."""
        try:
            with (self.path / JOURNAL).open("rb") as stream:
                while line := stream.readline(_LONGEST_LINE):
                    entry = _entry(line)
                    if entry is not None:
                        yield entry["name"], entry
        except OSError:
            return

    def _finish(self, work: Work, made: Iterable[Made]) -> None:
        """Write the manifest, and the journal anew without what later lines took back."""
        shards = [asdict(each) for each in made]
        content = {"kind": "platodef-shards", "version": 1, "work": dict(work.settings()), "shards": shards}
        names = {shard["name"] for shard in shards}
        lines = [canonical_json(self._known[name]) for name in self._known if name in names]
        with explaining(f"cannot write in {self.path}", IncompleteError):
            write_atomically(self.path / JOURNAL, "".join(line + "\n" for line in lines).encode())
            text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=True) + "\n"
            write_atomically(self.path / MANIFEST, text.encode())


_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "name": lambda value: isinstance(value, str) and value == os.path.basename(value),
    "sha256": lambda value: isinstance(value, str),
    "size": lambda value: isinstance(value, int),
    "counts": lambda value: isinstance(value, dict) and all(isinstance(n, int) for n in value.values()),
    "input": lambda value: isinstance(value, str),
    "settings": lambda value: isinstance(value, str),
    "stamp": lambda value: isinstance(value, str),
    "source": lambda value: value is None or isinstance(value, str),
}


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict):
        return None
    return entry if all(name in entry and fits(entry[name]) for name, fits in _FIELDS.items()) else None


def stamp(path: Path) -> str:
    """Return what changes when a file does, without reading it: size, times, inode, as a digest."""
    found = path.stat()
    facts = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    return hashlib.sha256(str(facts).encode()).hexdigest()
