"""What lies in place of images that were not really downloaded: pointers, web pages, nothing."""

from pathlib import Path

from platodef_cli.errors import IncompleteError

_POINTERS = (b"version https://git-lfs.github.com/", b"version https://hawser.github.com/", b"# xet version")
_PAGES = (b"<!doctype html", b"<html", b"<?xml", b"<error>")
_PACKED = ((b"\x1f\x8b", "gzip"), (b"PK\x03\x04", "zip"), (b"\x28\xb5\x2f\xfd", "zstandard"),
           (b"\xfd7zXZ", "xz"), (b"7z\xbc\xaf", "7-Zip"), (b"BZh", "bzip2"))  # fmt: skip


def stub(head: bytes) -> str:
    """Return what lies in place of a file, given its first bytes; empty where it may be the file."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(_POINTERS):
        return "a Git LFS pointer, not the file itself; run `git lfs pull` in its folder"
    if start.startswith(_PAGES):
        return "a web page, not the file itself; download it again"
    return ""


def refuse_stub(path: Path) -> None:
    """Tell where a file of images is a pointer, a page or packed.

    Raises:
        IncompleteError: It is; the message says which.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(256)
    except OSError:
        return  # whoever reads it says why it cannot be read
    found = stub(head)
    if found:
        raise IncompleteError(f"{path}: is {found}")
    packed = next((kind for magic, kind in _PACKED if head.startswith(magic)), None)
    if packed:
        raise IncompleteError(f"{path}: is compressed ({packed}); unpack it first")
