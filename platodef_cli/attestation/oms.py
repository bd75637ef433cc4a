"""What a publisher signed: bundles of OpenSSF Model Signing (OMS), read without loading anything.

Source: https://github.com/ossf/model-signing-spec and the package ``model-signing`` 1.1, which signs in the
tests: an in-toto statement whose predicate lists every file (or shard) with its digest, and whose subject is
the SHA-256 over all those digests, the root digest.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from platodef_cli.attestation.dsse import parse_envelope
from platodef_cli.attestation.statement import PAYLOAD_TYPE, STATEMENT_TYPE, parse_object
from platodef_cli.disk import open_regular, real_path, resolve_inside
from platodef_cli.errors import RefusedError, UsageError
from platodef_cli.report.escaping import plain

SIGNATURE = "model.sig"
"""Name of the bundle in a model folder."""
MAX_BYTES = 2**26
_MOST_FILES = 100_000
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_OLD_PREDICATE_TYPE = "https://model_signing/Digests/v0.1"
_IGNORED = (".git", ".gitattributes", ".github", ".gitignore")
"""Top entries that model-signing leaves out by default."""
_BLOCK = 2**22


@dataclass(frozen=True)
class Item:
    """One signed piece of a file.

    Attributes:
        path: File inside the folder, with forward slashes.
        start: First byte.
        end: Byte after the last, or None for the whole file.
        algorithm: sha256, blake2b or blake3.
        digest: Hexadecimal.
    """

    path: str
    start: int
    end: int | None
    algorithm: str
    digest: str


@dataclass(frozen=True)
class Manifest:
    """Everything that was signed.

    Attributes:
        name: Of the model, informative only.
        root: SHA-256 over all digests, hexadecimal.
        items: What was signed, in order.
        ignored: Paths inside the folder that were not signed on purpose.
    """

    name: str
    root: str
    items: tuple[Item, ...]
    ignored: tuple[str, ...] = ()

    def pieces(self) -> dict[str, list[Item]]:
        """Return file -> its pieces."""
        files: dict[str, list[Item]] = {}
        for item in self.items:
            files.setdefault(item.path, []).append(item)
        return files


@dataclass(frozen=True)
class Comparison:
    """How a folder differs from what was signed; names, sorted.

    Attributes:
        changed: Signed files with other bytes.
        unsigned: Files that nobody signed.
        absent: Signed files that are not here; nothing of them is loaded.
    """

    changed: tuple[str, ...]
    unsigned: tuple[str, ...]
    absent: tuple[str, ...]


def parse_manifest(payload_type: str, payload: bytes) -> Manifest:
    """Read the statement in a bundle.

    Raises:
        UsageError: It is no statement of OMS, or contradicts itself.
    """
    if payload_type != PAYLOAD_TYPE:
        raise UsageError(f"the signature holds {plain(payload_type, 80)!r}, not {PAYLOAD_TYPE}")
    value = parse_object(payload)
    kind = value.get("predicateType")
    if value.get("_type") != STATEMENT_TYPE or kind not in (_PREDICATE_TYPE, _OLD_PREDICATE_TYPE):
        raise UsageError(f"the signature is about {plain(str(kind), 80)!r}, not about the files of a model")
    subjects, predicate = value.get("subject"), value.get("predicate")
    if not isinstance(subjects, list) or not all(isinstance(entry, dict) for entry in subjects):
        raise UsageError("the signature has no subjects")
    if kind == _OLD_PREDICATE_TYPE:
        resources: Any = [
            {"name": one.get("name"), "algorithm": "sha256", "digest": _sha256(one)} for one in subjects
        ]
        items = tuple(_item(resource, sharded=False) for resource in resources)
        return Manifest("", _root(items), items)
    if len(subjects) != 1 or not isinstance(predicate, dict):
        raise UsageError("the signature has not one subject and a predicate")
    serialization, resources = predicate.get("serialization"), predicate.get("resources")
    if not isinstance(serialization, dict) or not isinstance(resources, list):
        raise UsageError("the signature lists no files")
    method = serialization.get("method")
    if method not in ("files", "shards"):
        raise UsageError(f"the signature lists files by the unknown method {plain(str(method), 40)!r}")
    ignored = serialization.get("ignore_paths", [])
    if not isinstance(ignored, list) or not all(isinstance(path, str) for path in ignored):
        raise UsageError("the signature ignores something that is no path")
    items = tuple(_item(resource, sharded=method == "shards") for resource in resources)
    root = _sha256(subjects[0])
    if _root(items) != root:
        raise UsageError("the signature contradicts itself: its root digest is not that of its files")
    return Manifest(str(subjects[0].get("name", "")), root, items, tuple(ignored))


def _sha256(subject: Mapping[str, Any]) -> str:
    digests = subject.get("digest")
    digest = digests.get("sha256") if isinstance(digests, dict) else None
    if not isinstance(digest, str):
        raise UsageError("the signature has a subject without sha256")
    return digest


def _root(items: tuple[Item, ...]) -> str:
    total = hashlib.sha256()
    for item in items:
        total.update(bytes.fromhex(item.digest))
    return total.hexdigest()


def _item(resource: Any, *, sharded: bool) -> Item:
    """Return one entry.

    Raises:
        UsageError: It is malformed.
    """
    entry = resource if isinstance(resource, dict) else {}
    name, algorithm, digest = (entry.get(key) for key in ("name", "algorithm", "digest"))
    if not isinstance(name, str) or not isinstance(algorithm, str) or not isinstance(digest, str) or not name:
        raise UsageError("the signature lists a file without name, algorithm or digest")
    start = 0
    end: int | None = None
    try:
        bytes.fromhex(digest)
        if sharded:
            name, first, last = name.rsplit(":", 2)
            start, end = int(first), int(last)
            if not 0 <= start <= end:
                raise ValueError("not a range")
    except ValueError:
        raise UsageError(f"the signature lists the malformed entry {plain(name, 80)!r}") from None
    # of shards it is called sha256-sharded-1000000000
    algorithm = algorithm.partition("-sharded-")[0] if sharded else algorithm
    algorithm = "blake2b" if algorithm == "blake2" else algorithm
    if algorithm not in ("sha256", "blake2b", "blake3"):
        raise UsageError(f"the signature uses the unknown digest {plain(algorithm, 40)!r}")
    return Item(name, start, end, algorithm, digest.lower())


def compare(
    manifest: Manifest, directory: Path, known: Mapping[str, str], *, follow_links: bool = False
) -> Comparison:
    """Compare a model folder with what was signed.

    Args:
        manifest: What was signed.
        directory: The model folder.
        known: File -> SHA-256 that was computed already; those bytes are not read again.
        follow_links: Links may lead out of the folder.

    Raises:
        UsageError: A digest needs a library that is missing.
        RefusedError: A file cannot be read, or a name leads out of the folder.
    """
    signed = manifest.pieces()
    present = set(_files(directory, manifest.ignored))
    changed = []
    for name, pieces in sorted(signed.items()):
        if name in present and not _same(directory, name, pieces, known, follow_links):
            changed.append(name)
    return Comparison(
        tuple(changed), tuple(sorted(present - signed.keys())), tuple(sorted(signed.keys() - present))
    )


def _files(directory: Path, ignored: tuple[str, ...]) -> Iterator[str]:
    """Yield every file of a folder, without the signature itself and what was ignored on purpose.

    Raises:
        RefusedError: There are more files than any model has.
    """
    skipped = {*_IGNORED, SIGNATURE, *(str(PurePosixPath(path)) for path in ignored)}
    left, count = [PurePosixPath()], 0
    while left:
        folder = left.pop()
        for entry in (directory / folder).iterdir():
            name = folder / entry.name
            if str(name) in skipped:
                continue
            count += 1
            if count > _MOST_FILES:
                raise RefusedError(f"{directory}: holds more than {_MOST_FILES} files; not a model folder?")
            # a link to a folder is no folder of the model
            if entry.is_dir() and not entry.is_symlink():
                left.append(name)
            else:
                yield str(name)


def _same(
    directory: Path, name: str, pieces: list[Item], known: Mapping[str, str], follow_links: bool
) -> bool:
    """Return whether a file has the bytes that were signed."""
    first = pieces[0]
    if len(pieces) == 1 and first.end is None and first.algorithm == "sha256" and name in known:
        return known[name] == first.digest
    if "/" in name:
        # folders below are looked at for the signature only; nothing in them is ever loaded
        path = real_path(directory / name)
        if not path.is_relative_to(real_path(directory)):
            raise RefusedError(f"{name!r}: names a file outside the model folder; do not use this model")
    else:
        path = resolve_inside(directory, name, follow_links=follow_links)
    ordered = sorted(pieces, key=lambda item: item.start)
    with open_regular(path) as (descriptor, size):
        position = 0
        with open(descriptor, "rb", closefd=False) as stream:
            for piece in ordered:
                end = size if piece.end is None else piece.end
                if piece.start != position or end > size:
                    return False
                if _digest(stream, end - piece.start, piece.algorithm) != piece.digest:
                    return False
                position = end
    return position == size


def _digest(stream: Any, count: int, algorithm: str) -> str:
    if algorithm == "blake3":
        try:
            from blake3 import blake3
        except ImportError:
            raise UsageError(
                "the signature uses BLAKE3; its check needs the library: pip install 'platodef[sigstore]'"
            ) from None
        total: Any = blake3()
    else:
        total = hashlib.new(algorithm)
    while count > 0:
        chunk = stream.read(min(_BLOCK, count))
        if not chunk:
            break
        total.update(chunk)
        count -= len(chunk)
    return str(total.hexdigest())


def root_of(directory: Path) -> str:
    """Return the OMS root digest of a whole folder, computed by the package ``model-signing``.

    The folder's own signature is left out, as the package does when it writes one.

    Raises:
        UsageError: The package is missing, or refuses the folder.
    """
    try:
        from model_signing import hashing
    except ImportError:
        raise UsageError(
            "the root digest of OpenSSF Model Signing needs the package: pip install 'platodef[sigstore]'"
        ) from None
    try:
        config = hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=True)
        manifest = config.hash(directory)
    except (OSError, ValueError) as error:
        raise UsageError(f"{directory}: model-signing cannot hash it ({error})") from None
    total = hashlib.sha256()
    for resource in manifest.resource_descriptors():
        total.update(resource.digest.digest_value)
    return total.hexdigest()


def check_root(root: str, directory: Path, unexamined: tuple[str, ...]) -> None:
    """Check that a folder is the one that a root digest is of.

    The digest may be the one that ``model-signing`` computes by default, or that of the publisher's signature
    in the folder, whose choice of files may be another.

    Args:
        root: Root digest.
        directory: The model folder.
        unexamined: Files that no other digest is about; the message names them.

    Raises:
        UsageError: The package is missing.
        RefusedError: The folder is another one.
    """
    path = directory / SIGNATURE
    if path.is_file() and path.stat().st_size <= MAX_BYTES:
        try:
            value = parse_object(path.read_bytes())
            envelope = parse_envelope(value.get("dsseEnvelope") or {})
            manifest = parse_manifest(envelope.payload_type, envelope.payload)
        except UsageError:
            manifest = None
        if manifest is not None and manifest.root == root:
            found = compare(manifest, directory, {})
            if not found.changed and not found.unsigned and not found.absent:
                return
    if root_of(directory) != root:
        names = ", ".join(plain(name, 100) for name in unexamined[:5])
        rest = f"; what is not audited differs, among {names}" if names else ""
        raise RefusedError(f"the root digest of {directory} is not the attested one{rest}; audit it again")
