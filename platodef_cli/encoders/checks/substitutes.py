"""What lies in place of a file that was not really downloaded: no danger, but no model either."""

from pathlib import Path

from platodef_cli.errors import IncompleteError

_POINTER = b"version https://git-lfs.github.com/spec/"
_XET_POINTER = b"# xet version"
_PAGES = (b"<!doctype html", b"<html", b"<?xml")
_ANSWERS = (b'{"error"', b"entry not found", b"invalid username or password", b"invalid credentials",
            b"repository not found", b"access to model", b"404: not found", b"not found")  # fmt: skip
"""How the texts begin that servers send in place of a file, in small letters."""


def refuse_substitute(head: bytes, path: Path) -> None:
    """Tell where a file is a pointer, a web page or empty.

    Args:
        head: Its first bytes, at least 64 where it has them.
        path: For the message.

    Raises:
        IncompleteError: It is; the message says which, and how to get the file.
    """
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head.strip():
        raise IncompleteError(f"{path}: is empty; download it again")
    if head.startswith((_POINTER, _XET_POINTER)):
        raise IncompleteError(
            f"{path}: is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder, or "
            "download the model with `hf download`"
        )
    if start.startswith(_PAGES):
        raise IncompleteError(
            f"{path}: is a web page, not the file itself (a link to its page was saved, or a log-in was "
            "asked for); download the model with `hf download`"
        )
    if path.suffix != ".safetensors":
        return
    if start.startswith(_ANSWERS):
        text = " ".join(head.decode("ascii", "replace").split())[:60]
        raise IncompleteError(
            f"{path}: is a server's error message ({text!r}), not the file itself; check access to the model "
            "and download it with `hf download`"
        )
    if len(head) < 8 or not any(head):
        what = f"has only {len(head)} bytes" if len(head) < 8 else "begins with zeros"
        raise IncompleteError(f"{path}: {what}, as an interrupted download leaves it; download it again")
