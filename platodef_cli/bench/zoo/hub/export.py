"""Lays a zoo out as a repository of a hub: the same zoo gives the same bytes."""

import hashlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from platodef_cli.bench.zoo.card import CARD, README, ZooCard, card_text, files_of
from platodef_cli.bench.zoo.hub.cards import ROWS, encoder_card, repository_card, rows_text
from platodef_cli.bench.zoo.hub.sums import SUMS, check_path, is_filled, put, sums_text, whole, wrong
from platodef_cli.bench.zoo.making import ENCODERS
from platodef_cli.bench.zoo.manifest import MANIFEST, Manifest, Zoo, manifest_text, open_zoo
from platodef_cli.errors import IncompleteError, RefusedError, UsageError
from platodef_cli.progress import SILENT, Progress

FORMATS = ("hub",)
ATTRIBUTES = ".gitattributes"
_LARGE = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}", re.ASCII)
_DEFAULT_LICENCE = "apache-2.0"


@dataclass(frozen=True)
class Exported:
    """What was laid out.

    Attributes:
        encoders: How many.
        planted: How many of them are backdoored.
        missing: Encoders of the recipe that are not finished.
        bytes: Of all files.
        digest: SHA-256 of ``SHA256SUMS``, which pins every byte.
        written: False where the folder held all of it already.
    """

    encoders: int
    planted: int
    missing: int
    bytes: int
    digest: str
    written: bool


def export(root: Path, output: Path, *, licence: str | None = None, progress: Progress = SILENT) -> Exported:
    """Lay out the finished encoders of a zoo in a folder that can be uploaded as it is.

    Paths of this machine are left out; the digests tie the encoders to their recipe all the same.

    Args:
        root: The zoo.
        output: A folder that does not exist, is empty, or holds this very export.
        licence: Identifier of SPDX; by default Apache-2.0 for a zoo of shapes, which has no images of others.
        progress: Receives the files.

    Raises:
        UsageError: There is no zoo, an encoder was changed after it was made, the licence is missing or no
            identifier, or the folder holds something else.
        IncompleteError: The folder cannot be written.
    """
    zoo = open_zoo(root)
    images = _public(zoo.manifest.images)
    licence = _licence(licence, zoo.manifest.images)
    command = _command(zoo.manifest, images)
    cards = [card.model_copy(update={"images": images, "command": command}) for card in zoo.cards.values()]
    content = _texts(zoo, cards, images, licence, command)
    sums = {path: hashlib.sha256(data).hexdigest() for path, data in content.items()}
    sources: dict[str, bytes | Path] = dict(content)
    with progress.step("checking the encoders", len(cards)) as task:
        for card in cards:
            if files_of(zoo.folder(card.name)) != card.files:
                raise UsageError(
                    f"{zoo.folder(card.name)} has other files than its {CARD} says; finish the zoo with "
                    "platodef bench zoo build, then export it"
                )
            for file in card.files:
                path = f"{ENCODERS}/{card.name}/{file.path}"
                sums[path], sources[path] = file.sha256, zoo.folder(card.name) / file.path
            task.advance()
    for name in sums:
        _check(name, zoo)
    own = sums_text(sums).encode()
    missing = len(zoo.manifest.encoders) - len(cards)
    size = sum(len(data) for data in content.values()) + sum(
        file.bytes for card in cards for file in card.files
    )
    digest = hashlib.sha256(own).hexdigest()
    done = Exported(len(cards), len(zoo.planted), missing, size, digest, is_filled(output) is False)
    if not done.written:
        _check_same(output, own, sums)
        return done
    with whole(output, frozenset(sums)) as folder, progress.step("writing", len(sums)) as task:
        for path, source in sources.items():
            if not put(source, folder / path, sums[path]):
                raise IncompleteError(f"{path} changed while it was copied; run it again")
            task.advance()
        (folder / ATTRIBUTES).write_bytes(_LARGE)
        (folder / SUMS).write_bytes(own)
    return done


def _check(path: str, zoo: Zoo) -> None:
    try:
        check_path(path, str(zoo.root))
    except RefusedError as error:
        raise UsageError(f"{error}".replace("do not use it", "remove it, then export again")) from None


def _check_same(output: Path, sums: bytes, files: dict[str, str]) -> None:
    """Refuse a folder that holds something else than this export."""
    try:
        same = (output / SUMS).read_bytes() == sums
    except OSError:
        same = False
    if not same:
        raise UsageError(f"{output} is not empty and holds no export of this zoo; choose another folder")
    if damaged := wrong(output, files):
        raise UsageError(f"{output / damaged[0]} was changed after the export; remove {output}, export again")


def _public(images: str) -> str:
    """Return an image source without the folders of this machine."""
    return (
        images if images.startswith(("builtin:", "hf://")) else re.split(r"[\\/]", images.rstrip("\\/"))[-1]
    )


def _command(manifest: Manifest, images: str) -> str:
    device = "" if manifest.device == "cpu" else f" --device {manifest.device}"
    return (
        f"platodef bench zoo build --recipe {manifest.recipe} --images {shlex.quote(images)} "
        f"--seed {manifest.seed}{device}"
    )


def _licence(licence: str | None, images: str) -> str:
    if licence is None:
        if not images.startswith("builtin:"):
            raise UsageError(
                f"the zoo was made of {images}; say under which licence you may publish encoders made of "
                "these images: --license cc-by-4.0, ..."
            )
        return _DEFAULT_LICENCE
    if not _LICENCE.fullmatch(licence):
        raise UsageError(f"--license {licence!r} is no identifier of a licence; give e.g. apache-2.0")
    return licence.lower()


def _texts(zoo: Zoo, cards: list[ZooCard], images: str, licence: str, command: str) -> dict[str, bytes]:
    """Return the small files that are written anew: path -> content."""
    manifest = zoo.manifest.model_copy(
        update={
            "images": images,
            "encoders": tuple(entry for entry in zoo.manifest.encoders if entry.name in zoo.cards),
        }
    )
    texts = {
        "README.md": repository_card(manifest, cards, licence, command),
        MANIFEST: manifest_text(manifest),
        ROWS: rows_text(cards),
    }
    for card in cards:
        texts[f"{ENCODERS}/{card.name}/{CARD}"] = card_text(card)
        texts[f"{ENCODERS}/{card.name}/{README}"] = encoder_card(card, licence)
    return {path: text.encode() for path, text in texts.items()}
