"""What a file is by its first bytes, and what lies in place of one that was not really downloaded."""

import codecs
import re
from pathlib import Path

from platodef_cli.errors import IncompleteError, RefusedError

_POINTERS = (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")
_XET_POINTER = b"# xet version"
_ANNEX_POINTER = b"/annex/objects/"
_ANSWERS = (b'{"error"', b"entry not found", b"invalid username or password", b"invalid credentials",
            b"repository not found", b"access to model", b"not found", b"too many requests",
            b"forbidden", b"unauthorized", b"bad gateway", b"service unavailable", b"internal server error",
            b"gateway time", b"upstream connect error")  # fmt: skip
"""How the texts begin that servers send in place of a file, in small letters, past a status code."""
_STATUS = re.compile(rb"^(?:http/[\d.]+ )?[45]\d\d:?\s+")
_SIGNATURES = (
    (b"PK\x03\x04", "a zip archive (PyTorch weights or TorchScript)"),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x03", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"\x80\x05", "a pickle"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x7fELF", "a program"),
    (b"#!", "a script"),
    (b"\x93NUMPY", "a numpy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"GGUF", "a GGUF file"),
    (b"\x28\xb5\x2f\xfd", "a zstandard archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"\xfd7zXZ", "an xz archive"),
)
_ARCHIVES = tuple(
    (
        ".zip .gz .tgz .svgz .whl .egg .jar .apk .docx .xlsx .pptx .odt .ods .odp .epub .usdz .kmz .kra .vsix"
    ).split()
)
"""Ends of names of archives that say what they are, and that no loader takes for weights."""
_PICKLED_TEXT = re.compile(rb"^\(*(?:c[\w.]+\r?\n[\w.]+\r?\n|i[\w.]+\r?\n|[dl]p\d+\r?\n)")
"""A pickle of protocol 0, which is text."""


def signature(head: bytes, name: str) -> str:
    """Tell by its first bytes what a file is, whatever its name says."""
    if name.endswith(".safetensors") and head[8:9] == b"{":
        # A header length may happen to start with the bytes of another format (0x0280 is a pickle's).
        return "file"
    return next((kind for magic, kind in _SIGNATURES if head.startswith(magic)), "file")


def is_archive(name: str) -> bool:
    """Tell by its name that a file is an archive as everybody knows them: packed files, office documents."""
    return name.lower().endswith(_ARCHIVES)


def refuse_substitute(head: bytes, path: Path) -> None:
    """Tell where a file is a pointer, a web page, another text, or empty.

    Args:
        head: Its first bytes, at least 64 where it has them.
        path: For the message.

    Raises:
        IncompleteError: It is; the message says which, and how to get the file.
        RefusedError: Its text is a pickle.
    """
    text = _text(head)
    start = text.strip().lower()
    if not head.strip():
        raise IncompleteError(f"{path}: is empty; download it again")
    if not any(head):
        raise IncompleteError(
            f"{path}: begins with zeros, as an interrupted download leaves it; download it again"
        )
    if start.startswith((*_POINTERS, _XET_POINTER)):
        raise IncompleteError(
            f"{path}: is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder, or "
            "download the model with `hf download`"
        )
    if start.startswith(_ANNEX_POINTER):
        raise IncompleteError(
            f"{path}: is a pointer of git-annex, not the file itself; run `git annex get` in its folder"
        )
    # a header of 60 bytes announces itself with the same letter, and with zeros after it
    if start.startswith(b"<") and not start.startswith(b"<<<") and any(head[4:8]):
        raise IncompleteError(
            f"{path}: is a web page, not the file itself (a link to its page was saved, or a log-in was "
            "asked for); download the model with `hf download`"
        )
    if _STATUS.sub(b"", start).startswith(_ANSWERS):
        said = " ".join(text.decode("utf-8", "replace").split())[:60]
        raise IncompleteError(
            f"{path}: is a server's error message ({said!r}), not the file itself; check access to the model "
            "and download it with `hf download`"
        )
    if path.suffix == ".safetensors":
        _refuse_text(head, text, path)


def _refuse_text(head: bytes, text: bytes, path: Path) -> None:
    """Tell where a file of weights is a text or ends before it begins."""
    if _PICKLED_TEXT.match(head):
        raise RefusedError(f"{path}: is a pickle, not safetensors; do not use this model")
    if len(head) < 8:
        raise IncompleteError(
            f"{path}: has only {len(head)} bytes, as an interrupted download leaves it; download it again"
        )
    try:  # a character at the end may be cut
        said = codecs.getincrementaldecoder("utf-8")().decode(text)
    except UnicodeDecodeError:
        return
    # weights begin with the length of their header, whose upper bytes are zero
    if all(char.isprintable() or char.isspace() for char in said):
        raise IncompleteError(
            f"{path}: is a text ({' '.join(said.split())[:60]!r}), not the file itself; download the model "
            "again, e.g. with `hf download`"
        )


def _text(head: bytes) -> bytes:
    """Return the beginning of a file as UTF-8 without its mark, where it is marked as a text."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return head[: len(head) & ~1].decode("utf-16", "replace").encode()
    return head.removeprefix(b"\xef\xbb\xbf")
