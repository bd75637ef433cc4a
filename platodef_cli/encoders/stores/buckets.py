"""Models in object stores, through fsspec."""

from pathlib import Path

from platodef_cli.encoders.stores.address import StoreAddress
from platodef_cli.encoders.stores.interface import StoredFile
from platodef_cli.errors import RefusedError, UsageError
from platodef_cli.images.remote import IDENTITY, filesystem, unanswered

_BLOCK = 8 * 2**20
_TIMES = ("LastModified", "updated", "mtime", "created")


class Bucket:
    """A folder of a bucket.

    Args:
        address: Of the folder.

    Raises:
        UsageError: The package for such addresses is not installed.
    """

    def __init__(self, address: StoreAddress):
        self.uri = address.uri
        self._system, self._path = filesystem(address.uri)

    def listed(self) -> dict[str, StoredFile]:
        """Return the files of the folder; see :class:`~platodef_cli.encoders.stores.interface.Store`."""
        try:
            self._system.invalidate_cache()  # what an earlier call saw may be another version
            entries = self._system.ls(self._path, detail=True)
        except FileNotFoundError:
            raise UsageError(f"{self.uri}: there is no such folder; check the address") from None
        except Exception as error:
            raise unanswered(f"{self.uri}: cannot be listed", error) from None
        files = {}
        for entry in entries:
            path = str(entry["name"]).strip("/")
            if entry.get("type") == "directory" or path == self._path.strip("/"):
                continue
            known = (f"{key}={entry[key]}" for key in (*IDENTITY, *_TIMES) if entry.get(key))
            tag = next(known, "")
            size = entry.get("size")
            files[path.rpartition("/")[2]] = StoredFile(int(size) if size is not None else None, tag)
        if not files:
            raise UsageError(f"{self.uri}: holds no files; give the folder with config.json")
        return files

    def fetch(self, name: str, target: Path, most: int) -> None:
        """Bring one file here; see :class:`~platodef_cli.encoders.stores.interface.Store`."""
        written = 0
        try:
            with self._system.open(f"{self._path}/{name}", "rb") as source, target.open("wb") as sink:
                while block := source.read(_BLOCK):
                    written += len(block)
                    if written > most:
                        raise RefusedError(f"{self.uri}/{name}: is longer than its listing says")
                    sink.write(block)
        except RefusedError:
            raise
        except Exception as error:
            raise unanswered(f"{self.uri}/{name}: the store does not give it", error) from None
