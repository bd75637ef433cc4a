"""Captions that were made, kept by the image's bytes: one line of JSON each, appended as it is made."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from platodef_cli.disk import canonical_json
from platodef_cli.encoders.computed_by import device_kind, encoding_libraries
from platodef_cli.errors import IncompleteError
from platodef_cli.progress import Task
from platodef_cli.texts.captioner import MOST_TOKENS, Captioner

CAPTION_VERSION = 1  # part of the cache key: raise it when the same image gets another caption
CAPTION_BATCH = 8
_APPENDING = os.O_WRONLY | os.O_APPEND | os.O_CREAT
for _name in ("O_CLOEXEC", "O_BINARY"):  # Windows has other flags than POSIX
    _APPENDING |= getattr(os, _name, 0)
_LARGEST = 2**30


def caption_key(captioner: Captioner) -> dict[str, Any]:
    """Return everything besides the image that decides a caption."""
    return {
        "captions": CAPTION_VERSION,
        "captioner": captioner.digest,
        "architecture": captioner.architecture,
        "prompt": captioner.prompt,
        "tokens": MOST_TOKENS,
        "dtype": captioner.dtype,
        "device": device_kind(captioner.device),
        "libraries": encoding_libraries(),
    }


class CaptionStore:
    """Captions by one captioner, those of earlier runs included.

    Args:
        captioner: Writes what is not known.
        path: File of known captions, or None to keep none.
    """

    def __init__(self, captioner: Captioner, path: Path | None):
        self.captioner, self._path = captioner, path
        self._known: dict[str, str] = dict(read_lines(path)) if path is not None else {}

    def known(self, digests: Sequence[str]) -> int:
        """Return how many of the images have a caption already."""
        return sum(digest in self._known for digest in digests)

    def captions(
        self,
        digests: Sequence[str],
        load: Callable[[Sequence[int]], Mapping[int, Image.Image]],
        *,
        batch_size: int = CAPTION_BATCH,
        task: Task | None = None,
    ) -> list[str | None]:
        """Return the caption of every image; None where it could not be decoded.

        Args:
            digests: SHA-256 of every image.
            load: Places in ``digests`` -> RGB images by place, without the broken ones.
            batch_size: Images at once.
            task: Receives one advance per image.

        Raises:
            IncompleteError: The captioner fails, or its captions cannot be kept.
        """
        missing = [place for place, digest in enumerate(digests) if digest not in self._known]
        if task is not None:
            task.advance(len(digests) - len(missing))
        first: dict[str, int] = {}
        for place in missing:
            first.setdefault(digests[place], place)
        distinct = list(first.values())
        for start in range(0, len(distinct), batch_size):
            part = distinct[start : start + batch_size]
            images = load(part)
            places = [place for place in part if place in images]
            found = self.captioner.caption([images[place] for place in places])
            self._keep({digests[place]: text for place, text in zip(places, found, strict=True)})
            if task is not None:
                task.advance(len(part))
        if task is not None:
            task.advance(len(missing) - len(distinct))
        return [self._known.get(digest) for digest in digests]

    def _keep(self, found: Mapping[str, str]) -> None:
        self._known.update(found)
        if self._path is None or not found:
            return
        lines = "".join(
            canonical_json({"caption": text, "image": digest}) + "\n" for digest, text in found.items()
        )
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # one write to a file opened for appending: runs beside each other do not mix their lines
            descriptor = os.open(self._path, _APPENDING, 0o600)
            try:
                os.write(descriptor, lines.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise IncompleteError(
                f"cannot keep captions in {self._path} ({error.strerror}); free some space or give "
                "--cache-dir"
            ) from None


def read_lines(path: Path) -> list[tuple[str, str]]:
    """Return (SHA-256 of an image, caption) of a file of captions; a line that was cut short is left out."""
    try:
        data = path.read_bytes() if path.stat().st_size <= _LARGEST else b""
    except OSError:
        return []
    found = []
    for line in data.split(b"\n"):
        try:
            entry = json.loads(line)
            found.append((str(entry["image"]), str(entry["caption"])))
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return found


def pixels_digest(pixels: bytes, size: tuple[int, ...]) -> str:
    """Return the SHA-256 of an image that is no file: its size and its 8-bit pixels."""
    return hashlib.sha256(canonical_json(list(size)).encode() + pixels).hexdigest()
