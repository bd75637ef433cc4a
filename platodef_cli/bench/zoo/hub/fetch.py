"""Reads a published zoo from a hub: one commit, every byte checked, and nothing kept unless all is right."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from platodef_cli.bench.zoo.card import CARD, README, TRIGGER, read_card
from platodef_cli.bench.zoo.hub.cards import ROWS
from platodef_cli.bench.zoo.hub.sums import (
    SUMS,
    is_filled,
    put,
    read_sums,
    sha256_of,
    sums_text,
    whole,
    wrong,
)
from platodef_cli.bench.zoo.making import ENCODERS
from platodef_cli.bench.zoo.manifest import MANIFEST, Planned, Zoo, open_zoo
from platodef_cli.encoders.checks.preflight import preflight
from platodef_cli.encoders.hub.hub import Kind, download
from platodef_cli.encoders.hub.hub_cache import COMMIT
from platodef_cli.encoders.reference import ModelReference, parse
from platodef_cli.errors import PlatodefError, RefusedError, UsageError
from platodef_cli.progress import SILENT, Progress
from platodef_cli.triggers.stored import load_trigger

_DATASETS = "hf://datasets/"
_TOP = (MANIFEST, "README.md", ROWS)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Fetched:
    """What is there now.

    Attributes:
        zoo: The opened zoo.
        digest: SHA-256 of its ``SHA256SUMS``.
        written: False where the folder held all of it already.
    """

    zoo: Zoo
    digest: str
    written: bool


def parse_zoo(uri: str) -> tuple[ModelReference, Kind]:
    """Parse ``hf://org/name@COMMIT``, or ``hf://datasets/org/name@COMMIT`` for a repository of data.

    Raises:
        UsageError: It is no address on the Hub, or not pinned to a full commit.
    """
    kind: Kind = "dataset" if uri.startswith(_DATASETS) else "model"
    bare = uri.removeprefix(_DATASETS if kind == "dataset" else "hf://")
    reference = parse(f"hf://{bare}")
    if reference.revision is None or not COMMIT.match(reference.revision):
        raise UsageError(
            f"{uri!r} is not pinned: a branch can hold other encoders tomorrow, so give the full commit, "
            "hf://org/name@<40 hex digits>"
        )
    return (replace(reference, uri=uri) if kind == "dataset" else reference), kind


def fetch(
    uri: str,
    output: Path,
    *,
    sha256: str | None = None,
    hub_cache: Path | None = None,
    offline: bool = False,
    progress: Progress = SILENT,
) -> Fetched:
    """Download a published zoo at one commit, verify it, and keep it in a folder.

    Args:
        uri: See :func:`parse_zoo`.
        output: A folder that does not exist, is empty, or holds this very zoo; what benchmarks added to it
            stays.
        sha256: Of its ``SHA256SUMS``, from its publisher by another way; None: what the commit says.
        hub_cache: Cache of Hub downloads; by default that of huggingface_hub.
        offline: Use only what that cache holds.
        progress: Receives the download.

    Raises:
        UsageError: The address is wrong or not pinned, the repository holds no zoo, or the folder holds
            something else.
        HubError: The Hub does not give it.
        RefusedError: A file is not what the zoo says it is, or is unsafe; nothing was kept.
        IncompleteError: The folder cannot be written.
    """
    reference, kind = parse_zoo(uri)
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise UsageError(f"--sha256 {sha256!r} is no SHA-256; give the 64 hex digits of {SUMS}")

    def get(files: tuple[str, ...]) -> Path:
        snapshot, _ = download(
            reference, cache_dir=hub_cache, offline=offline, progress=progress, files=files, kind=kind
        )
        return snapshot

    snapshot = get((SUMS,))
    digest = sha256_of(snapshot / SUMS)
    if sha256 is not None and digest != sha256:
        raise RefusedError(f"{uri}: {SUMS} has the SHA-256 {digest}, not {sha256}; do not use this zoo")
    sums = read_sums(snapshot, uri)
    _check_layout(sums, uri)
    if is_filled(output):
        _check_same(output, digest, sums, uri)
        return Fetched(open_zoo(output), digest, False)
    snapshot = get((SUMS, *sums))
    with whole(output, frozenset(sums)) as folder:
        with progress.step("verifying", len(sums)) as task:
            for path, expected in sums.items():
                if not put(snapshot / path, folder / path, expected):
                    raise RefusedError(f"{uri}: {path} has other bytes than {SUMS} says; do not use this zoo")
                task.advance()
        (folder / SUMS).write_bytes(sums_text(sums).encode())
        if sha256_of(folder / SUMS) != digest:
            raise RefusedError(f"{uri}: {SUMS} is not sorted by path, each once; do not use this zoo")
        check_zoo(folder, sums, uri, progress)
    return Fetched(open_zoo(output), digest, True)


def _check_layout(sums: Mapping[str, str], uri: str) -> None:
    """Refuse a list that is none of a zoo."""
    for path in sums:
        parts = PurePosixPath(path).parts
        if path not in _TOP and (len(parts) < 3 or parts[0] != ENCODERS):
            raise RefusedError(f"{uri}: {path} belongs to no encoder of a zoo; do not use it")
    for path in _TOP:
        if path not in sums:
            raise RefusedError(f"{uri}: {SUMS} does not name {path}; this is no exported zoo")


def _check_same(output: Path, digest: str, sums: Mapping[str, str], uri: str) -> None:
    """Refuse a folder that does not hold this zoo."""
    try:
        same = hashlib.sha256((output / SUMS).read_bytes()).hexdigest() == digest
    except OSError:
        same = False
    if not same:
        raise UsageError(f"{output} is not empty and does not hold {uri}; choose another folder")
    if damaged := wrong(output, sums):
        raise UsageError(
            f"{output / damaged[0]} was changed since it was fetched; remove {output}, fetch again"
        )


def check_zoo(folder: Path, sums: Mapping[str, str], uri: str, progress: Progress = SILENT) -> None:
    """Check that a folder of verified files is a zoo: manifest, cards, encoders and triggers fit together.

    Args:
        folder: The files.
        sums: Their hashes.
        uri: Names the zoo in messages.
        progress: Receives the encoders.

    Raises:
        RefusedError: They do not.
    """
    try:
        zoo = open_zoo(folder)
        names = {path.split("/")[1] for path in sums if path.startswith(f"{ENCODERS}/")}
        if sorted(names) != sorted(planned.name for planned in zoo.manifest.encoders):
            raise RefusedError(f"{folder}: {MANIFEST} does not name the encoders that are there")
        with progress.step("checking the encoders", len(names)) as task:
            for planned in zoo.manifest.encoders:
                _check_encoder(folder, planned, sums)
                task.advance()
    except PlatodefError as error:
        reason = str(error).replace(str(folder), uri).removesuffix("; do not use this model")
        raise RefusedError(f"{reason}; do not use this zoo") from None


def _check_encoder(folder: Path, planned: Planned, sums: Mapping[str, str]) -> None:
    """Hold an encoder's card against its files and the manifest, and check the files without loading them."""
    place = folder / ENCODERS / planned.name
    card = read_card(place)
    if (card.name, card.truth, card.digest) != (planned.name, planned.truth, planned.digest):
        raise RefusedError(f"{place}: {CARD} is that of another encoder than {MANIFEST} names")
    prefix = f"{ENCODERS}/{planned.name}/"
    own = {path.removeprefix(prefix): value for path, value in sums.items() if path.startswith(prefix)}
    said = {file.path: file.sha256 for file in card.files}
    if {path: value for path, value in own.items() if path not in (CARD, README)} != said:
        raise RefusedError(f"{place}: {CARD} names other files or hashes than {SUMS}")
    preflight(place)
    if (card.backdoor is not None) != (card.truth == "backdoored"):
        raise RefusedError(f"{place}: {CARD} contradicts itself about a backdoor")
    if card.backdoor is not None:
        load_trigger(place / TRIGGER)
