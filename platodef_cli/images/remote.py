"""Shards of images in object stores, through fsspec: listed once, fetched by those that use them."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from platodef_cli.errors import IncompleteError, UsageError
from platodef_cli.temporary import TemporaryFolder

REMOTE = re.compile(r"(?:s3|gs|gcs)://[^/]+/.+")
"""What is read through fsspec; ``hf://datasets`` has a source of its own."""
_SUFFIXES = (".parquet", ".tar")
_BLOCK = 8 * 2**20
_EXTRAS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
IDENTITY = ("ETag", "etag", "md5Hash", "crc32c", "generation", "VersionId", "checksum")


def filesystem(uri: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it.

    Raises:
        UsageError: The package for it is not installed, or its settings are wrong.
    """
    import fsspec

    scheme = uri.partition("://")[0]
    _silence()
    try:
        found = fsspec.core.url_to_fs(uri)
    except ImportError:
        raise UsageError(
            f"{uri}: {scheme}:// needs the package {_EXTRAS[scheme]}; install platodef[cloud]"
        ) from None
    except Exception as error:
        raise UsageError(f"{uri}: {line(error)}") from None
    return found[0], found[1]


def _silence() -> None:
    """Keep tracebacks that gcsfs logs off the terminal, unless its log is wanted: errors have one line."""
    logger = logging.getLogger("gcsfs")
    if logger.level == logging.NOTSET and not logger.isEnabledFor(logging.DEBUG):
        logger.setLevel(logging.CRITICAL)


def listed(uri: str) -> list[tuple[str, str]]:
    """Return the shards at an address as (address, what tells its content), in the order of their names.

    Args:
        uri: A folder, a pattern (``s3://bucket/train-*.parquet``) or one file.

    Raises:
        UsageError: There is none, or the extra for this kind of address is missing.
        IncompleteError: The store does not answer.
    """
    scheme = uri.partition("://")[0]
    system, path = filesystem(uri)
    try:
        system.invalidate_cache()  # what an earlier call saw may be other shards
        if any(sign in path for sign in "*?["):
            entries = system.glob(path, detail=True)
        elif path.lower().endswith(_SUFFIXES):
            entries = {path: system.info(path)}
        else:
            entries = {entry["name"]: entry for entry in system.ls(path, detail=True)}
    except FileNotFoundError:
        raise UsageError(f"{uri}: there is no such folder or file") from None
    except Exception as error:
        raise unanswered(f"{uri}: cannot be listed", error) from None
    found = []
    for name, entry in sorted(entries.items()):
        if entry.get("type") == "directory" or not name.lower().endswith(_SUFFIXES):
            continue
        identity = next((str(entry[key]) for key in IDENTITY if entry.get(key)), str(entry.get("mtime", "")))
        found.append((f"{scheme}://{name.removeprefix('/')}", f"{name}:{entry.get('size')}:{identity}"))
    if not found:
        raise UsageError(f"{uri}: there is no {' or '.join(_SUFFIXES)} file")
    return found


@contextmanager
def fetched(uri: str, key: str) -> Iterator[Path]:
    """Yield a local copy of a shard, which is removed afterwards.

    Args:
        uri: Its address.
        key: What :func:`listed` said of its content.

    Raises:
        IncompleteError: The store does not give it.
        UsageError: It changed since it was listed.
    """
    system, path = filesystem(uri)
    with TemporaryFolder("shard") as folder:
        # the name is part of the ids of its images
        target = folder / PurePosixPath(path).name
        try:
            with system.open(path, "rb") as source, target.open("wb") as sink:
                while block := source.read(_BLOCK):
                    sink.write(block)
        except OSError as error:
            raise IncompleteError(f"{uri}: cannot be read ({line(error)})") from None
        except Exception as error:
            raise unanswered(f"{uri}: the store does not give it", error) from None
        size = key.split(":")[-2] if key.count(":") >= 2 else ""
        if size.isdecimal() and target.stat().st_size != int(size):
            raise UsageError(f"{uri}: {target.stat().st_size} bytes came of {size}; list it again")
        yield target


def unanswered(what: str, error: Exception) -> IncompleteError:
    """Return the error of a store that does not give what was asked for, with what may help."""
    advice = "check the address, the network and your credentials there"
    return IncompleteError(f"{what} ({line(error)}); {advice}")


def line(error: Exception) -> str:
    """Return the message of an error on one line."""
    return " ".join(str(error).split())[:160] or type(error).__name__
